"""The pictures of a film."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(gif: bytes | Path) -> list[np.ndarray]:
    with Image.open(io.BytesIO(gif) if isinstance(gif, bytes) else gif) as image:
        found = []
        for i in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(i)
            assert image.info["duration"] == 40
            found.append(np.asarray(image.convert("RGB")))
        return found
