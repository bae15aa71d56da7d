"""The whole loop on two small tasks, as the commands that a person would type: `make quickstart`.

Grid sweep → hyperparameter laws → the emitted fitted sweep → data and compute laws with one σ held out → a plan → the
report. Every step is idempotent, so a second run finishes in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rlscale.progress import duration

NAME = "quickstart"
HELD_OUT = "6"  # a σ that is in no grid: predicted from the others, then compared with what was measured
STEPS = (
    ("a grid over σ, batch size and learning rate", "rlscale.train", ("-m", "sweep=quickstart")),
    (
        "B*(σ) and η*(σ), emitted as options",
        "analysis.hparams",
        (
            f"name={NAME}",
            "select.sweep=quickstart",
            "reference=quickstart",
            f"utd=[1,3/2,2,3,4,{HELD_OUT}]",
            "seeds=[0,1,2,3]",
        ),
    ),
    ("the emitted sweep, unedited", "rlscale.train", ("-m", f"sweep=fitted/{NAME}")),
    (
        f"D(σ) and C(σ), with σ = {HELD_OUT} held out",
        "analysis.laws",
        (f"name={NAME}", f"select.hparams=fitted/{NAME}", "reference=quickstart", f"holdout=[{HELD_OUT}]"),
    ),
    ("what to run for a compute bound", "analysis.plan", (f"name={NAME}", "target=500", "compute=4e10")),
    ("the report", "analysis.report", (f"name={NAME}",)),
)


def main() -> int:
    """Run the steps; returns the first failing one's exit code."""
    started = time.monotonic()
    for number, (what, module, arguments) in enumerate(STEPS, 1):
        print(f"\n[{number}/{len(STEPS)}] {what}\n$ python -m {module} {' '.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", module, *arguments]).returncode
        if code:
            print(f"quickstart stopped at step {number}; the same command goes on from there", file=sys.stderr)
            return code
    print(summary(Path(os.environ.get("RLSCALE_STUDY") or "study") / "fits" / NAME))
    print(f"all of it: {duration(time.monotonic() - started)}")
    return 0


def summary(folder: Path) -> str:
    """The laws with their intervals, the held-out σ's prediction and measurement, and where the report is."""
    hparams, laws = (json.loads((folder / f"{name}.json").read_text()) for name in ("hparams", "laws"))
    lines = ["", "What was found (95 % intervals):"]
    for symbol, quantity in (("B*", "batch_size"), ("η*", "learning_rate")):
        law = hparams["laws"]["shared"][quantity]
        per_task = ", ".join(f"{task} {value:.4g}" for task, value in law["intercept"].items())
        lines.append(
            f"  {symbol}(σ) ∝ σ^{law['exponent']:.2f} {span(law['exponent_ci95'], '.2f')}; at σ = 1: {per_task}"
        )
    for law in laws["data"]:
        ci = {name: span(ends, ".3g") for name, ends in law["ci95"].items()}
        lines.append(
            f"  D(σ) to {law['threshold']:.0f} of 1000 = {law['d_min']:.4g} {ci['d_min']} · "
            f"(1 + ({law['beta']:.3g} {ci['beta']} / σ)^{law['alpha']:.3g} {ci['alpha']})"
        )
    lines.append(f"For σ = {HELD_OUT}, which no fit has seen (env steps):")
    for row in laws["holdout"]:
        measured = "not reached" if row["observed"] is None else f"{row['observed']:,.0f}"
        error = "" if row["signed_error"] is None else f" ({100 * row['signed_error']:+.0f} %)"
        lines.append(
            f"  to {row['threshold']:.0f}: predicted {row['predicted']:,.0f} {span(row['interval95'], ',.0f')}, "
            f"measured {measured}{error}"
        )
    lines.append(f"Report: {folder / 'report.html'}")
    return "\n".join(lines)


def span(ends: Sequence[float | None], form: str) -> str:
    """An interval as text; the analysis writes null where there is none."""
    return "[" + ", ".join("unknown" if end is None else format(end, form) for end in ends) + "]"


if __name__ == "__main__":
    sys.exit(main())
