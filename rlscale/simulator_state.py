"""A simulator's whole state as bytes, so that a run goes on from a checkpoint bit for bit.

It is the pickled environment: MuJoCo's model and data with what a step leaves in them, the task's own variables, its
generators and the count of an episode's steps. To restore `mjSTATE_INTEGRATION` alone would not do, since rewards of
Gymnasium's tasks read what the step before left in derived quantities, and some tasks of dm_control change the model.
"""

from __future__ import annotations

import io
import pickle
import zlib
from typing import Any

FASTEST = 1  # of zlib's levels: most of MuJoCo's data is its empty arena


def packed(value: Any) -> bytes | None:
    """Bytes from which `unpacked` makes it again; None if it holds something that cannot be written down."""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError):  # what pickle raises at a foreign object
        return None
    return zlib.compress(file.getvalue(), FASTEST)


def unpacked(state: bytes) -> Any:
    """What was packed."""
    return pickle.loads(zlib.decompress(state))


class _Pickler(pickle.Pickler):
    """Takes Gymnasium's environments as they are; many would pickle to the arguments that they were made with."""

    def reducer_override(self, value: Any) -> Any:
        import gymnasium

        if not isinstance(value, gymnasium.Env):
            return NotImplemented
        # A renderer holds a window's handles; who wants pictures makes another.
        state = {name: None if name == "mujoco_renderer" else held for name, held in vars(value).items()}
        return object.__new__, (type(value),), state, None, None, _set_state


def _set_state(value: Any, state: dict[str, Any]) -> None:
    vars(value).update(state)
