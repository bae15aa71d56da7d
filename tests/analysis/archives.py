"""Zips as the papers' authors make them, small and made up."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def npy(array: object, **options: object) -> bytes:
    """The bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(array), **options)  # type: ignore[arg-type]
    return stream.getvalue()


def zip_of(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip with these members, at `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def returns(rows: int = 12, seeds: int = 3, random: int = 0) -> np.ndarray:
    """Noisy learning curves [rows, seeds] between 0 and 1000."""
    rng = np.random.default_rng(random)
    rise = 900 * (1 - np.exp(-np.arange(rows) / 5))
    return np.clip(rise[:, None] + 60 * rng.standard_normal((rows, seeds)), 0, 1000)


def stepped(rows: int = 12, seeds: int = 3, random: int = 0, every: int = 1000) -> np.ndarray:
    """The same with an env step as column 0."""
    return np.column_stack([every * np.arange(1, rows + 1), returns(rows, seeds, random)])


def qscaled(with_steps: bool = True, folder: str = "inner") -> dict[str, bytes]:
    """Two tasks × two σ of qscaled's layout, η spelt in several ways, what macOS adds, and a folder entry."""
    make = stepped if with_steps else returns
    names = {
        f"{folder}/utd_1/a-run/online_returns/bs_32_lr_15e-5.npy": make(12, 3, 1),
        f"{folder}/utd_0.25/a-run/online_returns/bs_256_lr_12e-4_reset_True.npy": make(9, 3, 2),
        f"{folder}/utd_1/b-v4/online_returns/bs_32_lr_0.00015.npy": make(20, 2, 3),
        f"{folder}/utd_0.25/b-v4/online_returns/bs_256_lr_5e-05.npy": make(12, 3, 4),
    }
    files = {f"{folder}/": b"", f"__MACOSX/{folder}/._x.npy": b"junk", f"{folder}/.DS_Store": b"junk"}
    return files | {name: npy(array) for name, array in names.items()}
