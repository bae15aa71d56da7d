"""How a sweep reaches machines: Hydra launcher plugins."""

from __future__ import annotations

import sys
from pathlib import Path


def discover() -> None:
    """Let Hydra find our launchers: it looks for the `hydra_plugins` namespace on sys.path, and this folder has one."""
    here = str(Path(__file__).parent)
    if here not in sys.path:
        sys.path.append(here)
