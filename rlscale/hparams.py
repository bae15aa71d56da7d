"""How batch size B and learning rate η follow from (σ, task) or (σ, N, task): constants, laws, published tables.

A job evaluates its `hparams` option at its own σ, task and N (the critics' parameters), so a fitted sweep is one
command line. B is rounded to a multiple of 16 (at least 16) and η to three significant digits, as in the papers'
tables; the rounding also keeps a run's identity independent of the last bit of a machine's ``pow``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from rlscale.typed import Mistake, convert, nearest, typed

Size = Callable[[], float] | None  # what tells N, asked only by a law that needs it; None where there is no learner


@dataclass(frozen=True)
class Constant:
    """The same B and η at every σ; η may be a list (one member of the pack for each value)."""

    batch_size: Any
    learning_rate: Any

    def batch(self, utd: Fraction, task: str, n_params: Size = None) -> int:
        if isinstance(self.batch_size, list | tuple):
            values = ",".join(map(str, self.batch_size))
            raise Mistake(
                f"hparams.batch_size=[{values}]: a batch size is a shape and cannot be packed in brackets; "
                f"sweep it with commas, -m hparams.batch_size={values}"
            )
        return int(convert(self.batch_size, int, "hparams.batch_size"))

    def rates(self, utd: Fraction, task: str, n_params: Size = None) -> tuple[float, ...]:
        values = self.learning_rate if isinstance(self.learning_rate, list | tuple) else [self.learning_rate]
        return tuple(float(convert(v, float, "hparams.learning_rate")) for v in values)


@dataclass(frozen=True)
class PowerLaw:
    """value(σ) = intercept[task] · σ^exponent (paper eqs 4.6, 4.7); the exponent may differ between tasks."""

    exponent: float | Mapping[str, float]
    intercept: Mapping[str, float]

    def __call__(self, utd: Fraction | float, task: str) -> float:
        exponent = self.exponent[task] if isinstance(self.exponent, Mapping) else self.exponent
        return float(self.intercept[task] * float(utd) ** exponent)

    @property
    def tasks(self) -> tuple[str, ...]:
        known = self.exponent if isinstance(self.exponent, Mapping) else self.intercept
        return tuple(task for task in self.intercept if task in known)


@dataclass(frozen=True)
class OffsetLaw(PowerLaw):
    """value(σ) = offset[task] + intercept[task] · σ^exponent (paper eqs D.2, D.3)."""

    offset: Mapping[str, float]

    def __call__(self, utd: Fraction | float, task: str) -> float:
        return float(self.offset[task]) + super().__call__(utd, task)


@dataclass(frozen=True)
class SizeLaw:
    """B*(σ, N) = a[task] / (σ^alpha · (1 + (b[task]/N)^c)) (follow-up 6.1); exponents may differ between tasks."""

    a: Mapping[str, float]
    alpha: float | Mapping[str, float]
    b: Mapping[str, float]
    c: float | Mapping[str, float]

    def __call__(self, utd: Fraction | float, task: str, n_params: float) -> float:
        alpha, c = (x[task] if isinstance(x, Mapping) else x for x in (self.alpha, self.c))
        return float(self.a[task] / (float(utd) ** alpha * (1.0 + (self.b[task] / n_params) ** c)))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(
            task for task in self.a if all(not isinstance(x, Mapping) or task in x for x in vars(self).values())
        )


@dataclass(frozen=True)
class SizePowerLaw(PowerLaw):
    """value(σ, N) = intercept[task] · σ^exponent · N^size_exponent."""

    size_exponent: float | Mapping[str, float]

    def __call__(self, utd: Fraction | float, task: str, n_params: float = 1.0) -> float:
        by_size = self.size_exponent[task] if isinstance(self.size_exponent, Mapping) else self.size_exponent
        return float(super().__call__(utd, task) * n_params**by_size)


@dataclass(frozen=True)
class Table:
    """value(σ) read from a published table; a σ that the table lacks is an error."""

    table: Mapping[str, Mapping[Any, float]]

    def __call__(self, utd: Fraction | float, task: str) -> float:
        row = {Fraction(str(k)): v for k, v in self.table[task].items()}
        if utd not in row:
            have = ", ".join(map(str, sorted(row)))
            raise Mistake(f"utd={utd}: this hparams table has σ = {have} only; choose one, or hparams.variant=law")
        return float(row[Fraction(utd)])

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.table)


@dataclass(frozen=True)
class Laws:
    """Named variants, each with a law or table for B and for η; `variant` says which is used."""

    variant: str
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def batch(self, utd: Fraction, task: str, n_params: Size = None) -> int:
        return round_batch_size(self._value("batch_size", utd, task, n_params))

    def rates(self, utd: Fraction, task: str, n_params: Size = None) -> tuple[float, ...]:
        return (round_learning_rate(self._value("learning_rate", utd, task, n_params)),)

    def _value(self, quantity: str, utd: Fraction, task: str, n_params: Size) -> float:
        law = self._law(quantity, task)
        if not isinstance(law, SizeLaw | SizePowerLaw):
            return law(utd, task)
        if n_params is None:
            raise Mistake(f"hparams.variants.{self.variant}.{quantity} is a law in model size: give the learner's N")
        return law(utd, task, float(n_params()))

    def _law(self, quantity: str, task: str) -> PowerLaw | SizeLaw | Table:
        if self.variant not in self.variants:
            raise Mistake(f"hparams.variant={self.variant}: no such variant; {nearest(self.variant, self.variants)}")
        where = f"hparams.variants.{self.variant}.{quantity}"
        entry = self.variants[self.variant].get(quantity)
        if entry is None:
            raise Mistake(f"{where} is not set: give it an exponent and an intercept for each task, or a table")
        law: PowerLaw | SizeLaw | Table = (
            typed(Table, entry, where) if "table" in entry else typed(law_class(entry), entry, where)
        )
        if task not in law.tasks:
            raise Mistake(
                f"benchmark.task={task}: this hparams option knows no such task; {nearest(task, law.tasks)}, "
                "or give hparams=constant"
            )
        return law


def law_class(entry: Mapping[str, Any]) -> type[PowerLaw | SizeLaw]:
    """Which law the keys of an option, or of a fit's JSON, describe."""
    if "alpha" in entry or "size_exponent" in entry:
        return SizeLaw if "alpha" in entry else SizePowerLaw
    return OffsetLaw if "offset" in entry else PowerLaw


def read_law(entry: Mapping[str, Any]) -> PowerLaw:
    """The law of σ that a fit's JSON describes; keys that are not the law's own (its intervals) are passed over.

    Raises Mistake if it is one of model size.
    """
    cls = law_class(entry)
    if not issubclass(cls, PowerLaw):
        raise Mistake(
            "this fit's laws are of σ and model size, and the selected runs have one size: choose another fit"
        )
    return cls(**{f.name: entry[f.name] for f in fields(cls)})


def round_batch_size(value: float) -> int:
    """To a multiple of 16, at least 16; truncated first, halves to even, as the published tables are."""
    return max(16, 16 * round(int(value) / 16))


def round_learning_rate(value: float) -> float:
    """To three significant digits."""
    return float(f"{value:.2e}")
