"""Plain mappings → frozen dataclasses: the one gate between YAML and the code, where a mistake becomes a sentence.

The dataclasses have no defaults (YAML is the only home of a default), so a key that is missing, misspelt or of the
wrong type is found here, before anything slow starts.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from fractions import Fraction
from typing import Any, TypeVar

T = TypeVar("T")


class Mistake(ValueError):
    """A user's mistake: one sentence with the key, the value and the mend. A door prints it and exits with 2."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The mend for a word that is not among `words`: the closest one if there is one, else all of them."""
    known = sorted(map(str, words))
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose one of {', '.join(known)}" if len(known) <= 12 else "--help lists all there are"


def absent_at(value: Any) -> dict[str, Any]:
    """Metadata of a dataclass field that came after runs had been recorded, all of which are of this `value`.

    A run at that value is the same run as before, so its spec must not name the field: see `described`.
    """
    return {"absent_at": value}


def described(option: Any) -> dict[str, Any]:
    """The fields of a typed option as a run's spec has them, and its run_id hashes them.

    A field that says `absent_at` is left out at that value. Who reads a spec takes a missing field for that value,
    which is the default of the option's YAML.
    """
    absent = {f.name: f.metadata["absent_at"] for f in fields(option) if "absent_at" in f.metadata}
    return {k: v for k, v in asdict(option).items() if k not in absent or v != absent[k]}


def typed(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the frozen dataclass `cls` from `values`, converting each to its field's annotated type.

    `where` is the key of the mapping in the config (``"algorithm"``) and begins every message. A ValueError of the
    dataclass's own ``__post_init__`` (ranges) is passed on the same way. Raises Mistake.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise Mistake(f"{where}.{key}={values[key]}: there is no such key; {nearest(str(key), names)}")
    missing = [name for name in names if name not in values]
    if missing:
        raise Mistake(f"{where}.{missing[0]} is not set: give it a value ({_name(hints[missing[0]])})")
    converted = {name: convert(values[name], hints[name], f"{where}.{name}") for name in names}
    try:
        return cls(**converted)
    except Mistake:
        raise
    except ValueError as error:
        raise Mistake(f"{where}.{error}") from None


def convert(value: Any, hint: Any, key: str) -> Any:
    """`value` as the annotated type `hint`; raises Mistake naming `key` when it is not one.

    Numbers may be spelt as text (``"3e-4"``, ``"1/4"``), since YAML and shells disagree about what a number is; an
    integer may be spelt as a float of integral value (``1e6``). A bool is never a number.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        # The only unions in use are "or null" and "a number or a mapping of them".
        fit = [a for a in inner if (typing.get_origin(a) is not None) == isinstance(value, Mapping)]
        return convert(value, (fit or inner)[0], key)
    if origin is typing.Literal:
        if value not in args:
            raise Mistake(f"{key}={value}: there is no such choice; {nearest(str(value), map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Mistake(f"{key}={value}: write it as a list, [{value}]")
        return tuple(convert(v, args[0], key) for v in value)
    if hint is typing.Any:
        return value
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise Mistake(f"{key}={value}: set its keys one by one, {key}.{fields(hint)[0].name}=…")
        return typed(hint, value, key)  # type: ignore[arg-type]
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise Mistake(f"{key}={value}: give a mapping of names to values")
        return value
    if hint is bool:
        ok = isinstance(value, bool)
    elif hint is str:
        ok = isinstance(value, str)
    else:
        ok = not isinstance(value, bool)
    try:
        if not ok:
            raise ValueError
        if hint is int:
            number = Fraction(str(value))
            if number.denominator != 1:
                raise ValueError
            return int(number)
        if hint is Fraction:
            return Fraction(str(value))
        if hint is float and not math.isfinite(float(value)):
            raise ValueError
        return hint(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise Mistake(f"{key}={value}: this is not {_name(hint)}; give {_example(hint)}") from None


def _name(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Fraction: "a fraction"}
    return words.get(hint, str(hint).replace("typing.", ""))


def _example(hint: Any) -> str:
    return {int: "one such as 256", float: "one such as 3e-4", bool: "true or false", Fraction: "one such as 1/4"}.get(
        hint, _name(hint)
    )
