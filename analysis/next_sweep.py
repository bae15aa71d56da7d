"""The proposed runs as an ordinary sweep: `study/conf/sweep/fitted/<name>-next.yaml`, one job for each row.

A plain Hydra sweep takes every combination of what is swept; rows that differ in σ, task, B, η, seeds and length at
once are no such product. So each row is a variant of the hparams option, which holds the row's other choices too; the
sweep goes over variants, and `utd`, `seed`, the task and the length are read from the chosen one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import emit, show
from analysis.fitted import Fitted
from analysis.next_runs import Row
from rlscale.typed import Mistake

CHOSEN = "${hparams.variants.${hparams.variant}.%s}"


def base(fit: Fitted) -> str | None:
    """The emitted law that the fit's runs follow, so that new runs are found by the same name; or None."""
    option = fit.root / "conf" / "hparams" / "fitted" / f"{fit.name}.yaml"
    return f"fitted/{fit.name}" if fit.settings.variant is not None and option.exists() else None


def after(fit: Fitted, rows: Sequence[Row]) -> list[str]:
    """What to do once the runs are there, in a line or two."""
    given, law = fit.laws["provenance"]["select"], base(fit)
    if "env_steps" not in fit.laws["provenance"]["spec"]["budget"]:
        return ["the fit is of runs from outside, which are not fitted together with new ones: these make their own"]
    lines = []
    if any(row.neighbour for row in rows):
        lines.append(
            f"then:    fit B* again with its neighbours: python -m analysis.hparams name={fit.name} … replace=true, "
            "with select.hparams=null so that the selection means them too"
        )
    if given["sweep"] is None and given["hparams"] in (None, law):
        return [*lines, f"then:    {fit.laws['provenance']['command']} replace=true"]
    return [*lines, f"then:    fit again with a selection that means the new runs too: select.hparams={law or 'null'}"]


def write(fit: Fitted, rows: Sequence[Row], header: Sequence[str], replace: bool) -> Path:
    """Writes the sweep and returns its path. Raises Mistake where another proposal lies unless `replace`."""
    made = files(fit, rows, header)
    option = next(iter(made))
    for path, text in made.items():
        if path.exists() and path.read_text() != text and not replace:
            raise Mistake(f"{path} already holds another proposal: run that first, or overwrite it with replace=true")
    emit.write(dict(made), True)
    return option


def files(fit: Fitted, rows: Sequence[Row], header: Sequence[str]) -> dict[Path, str]:
    """The option, and where the study has no law of this name the hparams option that it needs."""
    name, law = f"{fit.name}-next", base(fit)
    variants = {f"row{i}": _variant(row) for i, row in enumerate(rows, 1)}
    homes = {group: fit.root / "conf" / group / "fitted" / f"{name}.yaml" for group in ("sweep", "hparams")}
    made: dict[Path, str] = {homes["sweep"]: _sweep(fit, rows, variants, law, header)}
    if law is None:
        body = {"_target_": "rlscale.hparams.Laws", "variant": "row1", "variants": variants}
        made[homes["hparams"]] = emit.comment([f"The rows of sweep=fitted/{name}"]) + emit.to_yaml(body)
    return made


def _variant(row: Row) -> dict[str, Any]:
    def constant(value: float) -> dict[str, Any]:
        return {"exponent": 0.0, "intercept": {row.task: float(value)}}

    return {
        "task": row.task, "utd": str(row.utd), "seed": list(row.seeds), "env_steps": row.env_steps,
        "batch_size": constant(row.batch_size), "learning_rate": constant(row.learning_rate),
    }  # fmt: skip


def _sweep(
    fit: Fitted, rows: Sequence[Row], variants: Mapping[str, Any], law: str | None, header: Sequence[str]
) -> str:
    spec = fit.laws["provenance"]["spec"]
    fields = {
        part: {k: v for k, v in spec[part].items() if k not in ("name", "task", "env_steps")}
        for part in ("algorithm", "benchmark", "budget")
    }
    fields["benchmark"]["task"] = CHOSEN % "task"
    fields["budget"]["env_steps"] = CHOSEN % "env_steps"
    chosen = {
        "algorithm": spec["algorithm"]["name"], "benchmark": spec["benchmark"]["name"],
        "hparams": law or f"fitted/{fit.name}-next",
    }  # fmt: skip
    defaults = "".join(f"  - override /{group}: {option}\n" for group, option in chosen.items())
    body: dict[str, Any] = {part: keys for part, keys in fields.items() if keys}
    body |= {"utd": CHOSEN % "utd", "seed": CHOSEN % "seed"}
    if law is not None:
        body["hparams"] = {"variant": "row1", "variants": variants}
    told = []
    for i, row in enumerate(rows, 1):
        told.append(
            f"row{i}: {row.task} σ={row.utd} B={row.batch_size} η={row.learning_rate:g} seeds {_list(row.seeds)}"
        )
        told.append(f"  {show.number(row.cost)} FLOPs; its block takes {row.share:.0%} of the variance; {row.reason}")
    runs = sum(len(row.seeds) for row in rows)
    head = [
        f"python -m rlscale.train -m sweep=fitted/{fit.name}-next",
        f"{len(rows)} jobs, {runs} runs",
        *header,
        *told,
    ]
    params = f"hydra:\n  sweeper:\n    params:\n      hparams.variant: {','.join(variants)}\n"
    return f"# @package _global_\n{emit.comment(head)}defaults:\n{defaults}  - _self_\n{emit.to_yaml(body)}{params}"


def _list(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))
