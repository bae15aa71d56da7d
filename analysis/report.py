"""Door: one self-contained HTML page about a fit: what was found, every figure, and how far to trust it.

python -m analysis.report name=gym-r1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from analysis import emit, show
from analysis.blend import Draws
from analysis.fit_door import read
from analysis.fit_files import Fit
from analysis.fitted import read_fit
from analysis.page.book import book
from analysis.page.size import size_book
from analysis.page.sources import Sources, sources
from analysis.size_fitted import size_fitted
from analysis.training import Columns
from rlscale.door import door
from rlscale.store import study_root
from rlscale.typed import Mistake, typed


@dataclass(frozen=True)
class Config:
    """conf/analysis/report.yaml."""

    name: str
    columns: Mapping[str, Any]


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    columns = typed(Columns, config.columns, "columns")
    root = study_root()
    folder = root / "fits" / config.name
    looks = read_fit(root, config.name, "diagnostics") if (folder / "diagnostics.json").exists() else None
    if (folder / "laws.json").exists() and read_fit(root, config.name, "laws").get("size"):
        return written(folder / "report.html", size_book(size_fitted(root, config.name), looks))
    fit = Fit(None, None, None, None) if looks and not fitted(folder) else read_all(root, config.name)
    found: Sources | None = None
    absent = ""
    try:
        found = sources(root, fit, columns, show.tracked) if fit.parts else None
    except Mistake as mistake:  # a fit may be read where its runs are not
        absent = str(mistake)
    written(folder / "report.html", book(config.name, fit, found, absent, looks))


def written(path: Path, page: str) -> None:
    emit.write({path: page}, replace=True)
    show.say(f"report: {path.resolve()}")


def fitted(folder: Path) -> bool:
    """Whether there is more than diagnostics.json."""
    return any((folder / f"{part}.json").exists() for part in ("hparams", "laws"))


def read_all(root: Path, name: str) -> Fit:
    """What the fit's folder holds. Raises Mistake where there is neither hparams.json nor laws.json."""
    folder = root / "fits" / name
    parts = {p: read_fit(root, name, p) for p in ("hparams", "laws") if (folder / f"{p}.json").exists()}
    if not parts:
        read_fit(root, name, "hparams")
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for part in parts:
        if (folder / f"{part}_draws.npz").exists():
            with np.load(folder / f"{part}_draws.npz") as arrays:
                drawn[part] = {key: arrays[key] for key in arrays.files}
    draws = Draws.from_arrays(drawn["laws"]) if "laws" in drawn else None
    return Fit(parts.get("hparams"), parts.get("laws"), drawn.get("hparams"), draws)


if __name__ == "__main__":
    door(main, "analysis/report")
