"""How well are σ predicted that no fit has seen? The authors' own runs, as a table.

python -m tests.heldout                              the published baselines beside the repository
python -m tests.heldout gym=path/to/other.zip …      other zips of that layout, each as benchmark=path

Each zip goes the ordinary way: ingested into records, then `analysis.laws` fitted without the two largest σ at the
levels 300 to 700, once with law=auto and once with the paper's law and average. A study of its own is made for it and
thrown away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT.parent / "shared" / "published" / "qscaled"
BASELINES = (("gym", PUBLISHED / "gym_baseline_utd2.zip"), ("dmc", PUBLISHED / "dmc_baseline_utd2.zip"))
LEVELS = "reference.thresholds=[300,400,500,600,700]"
LAWS = {"auto": ("law=auto", "average=geometric"), "paper": ("law=shifted_power", "average=arithmetic")}


def call(study: Path, module: str, *words: str) -> None:
    environment = os.environ | {"RLSCALE_STUDY": str(study)}
    command = [sys.executable, "-m", f"analysis.{module}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])}\n{done.stderr}")


def held_out(benchmark: str, path: Path, draws: int = 400) -> Iterator[dict[str, object]]:
    """The rows of the zip's two hold-outs, one for each law, level and held-out σ; `place` is 0 near, 1 far."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder)
        source = (f"source.path={path}", f"source.benchmark={benchmark}", "source.algorithm=published")
        call(study, "ingest", "source=qscaled", "source.name=published", *source)
        records = (json.loads(p.read_text()) for p in (study / "runs").glob("*/record.json"))
        last = sorted({Fraction(r["spec"]["utd"]) for r in records})[-2:]
        for law, words in LAWS.items():
            held = f"holdout=[{','.join(map(str, last))}]"
            rest = (LEVELS, held, f"bootstrap.draws={draws}", "reference.n_params=1e5", *words)
            call(study, "laws", f"name={law}", "select.sweep=published", *rest)
            for row in json.loads((study / "fits" / law / "laws.json").read_text())["holdout"]:
                yield {
                    "data": path.stem, "law": law, "J": row["threshold"], "utd": row["utd"],
                    "place": last.index(Fraction(row["utd"])), "predicted": row["predicted"],
                    "low": row["interval95"][0], "high": row["interval95"][1],
                    "observed": row["observed"], "at_least": row["at_least"], "error": row["signed_error"],
                }  # fmt: skip


def table(archives: tuple[tuple[str, Path], ...]) -> pd.DataFrame:
    """All rows, with `inside` and the ratio `width` of the interval's ends."""
    rows = pd.DataFrame([row for benchmark, path in archives for row in held_out(benchmark, path)])
    seen = rows["observed"].astype(float)
    rows["inside"] = np.where(
        seen.notna(), (rows["low"] <= seen) & (seen <= rows["high"]), rows["high"] >= rows["at_least"].astype(float)
    )
    rows["error"] = rows["error"].astype(float)
    rows["width"] = rows["high"] / rows["low"]
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """For each law at the nearer and the farther σ: median |error|, median error, coverage, median width."""
    groups = rows.assign(size=rows["error"].abs()).groupby(["law", "place"], sort=False)
    return pd.DataFrame(
        {
            "points": groups.size(),
            "median |error|": groups["size"].median(),
            "median error": groups["error"].median(),
            "worst": groups["size"].max(),
            "inside": groups["inside"].mean(),
            "median high/low": groups["width"].median(),
        }
    )


def main(words: list[str]) -> int:
    archives = tuple((w.split("=", 1)[0], Path(w.split("=", 1)[1]).resolve()) for w in words) or BASELINES
    rows = table(archives)
    shown = rows.assign(inside=np.where(rows["inside"], "yes", "NO"), error=[f"{e:+.1%}" for e in rows["error"]])
    number = {c: "{:,.0f}".format for c in ("predicted", "low", "high", "observed")}
    columns = ["data", "law", "J", "utd", "predicted", "low", "high", "observed", "error", "inside"]
    print(shown[columns].to_string(index=False, formatters=number))
    print()
    print(
        summary(rows)
        .rename(index={0: "nearer σ", 1: "farther σ"}, level="place")
        .to_string(float_format="{:.3f}".format)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
