"""As much of torch as the stand-in of isaacgymenvs and the server use, made of NumPy: it starts at once."""

import os

import numpy as np

__version__ = "0.standin"
float = np.float32
long = np.int64
_seed = int.from_bytes(os.urandom(4), "big")


class Tensor(np.ndarray):
    """An array with a tensor's methods; it lives on one device and shares its memory with `numpy()`."""

    def to(self, device):
        return self

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.view(np.ndarray)

    def clone(self):
        return self.copy()

    def fill_(self, value):
        self[...] = value
        return self

    def nonzero(self, as_tuple=True):
        found = np.nonzero(self.numpy())
        return found if as_tuple else np.stack(found, axis=-1).view(Tensor)


def manual_seed(seed):
    global _seed
    _seed = seed


def initial_seed():
    return _seed


def from_numpy(array):
    return array.view(Tensor)


def zeros(shape, dtype=float, device="cpu"):
    return np.zeros(shape, dtype).view(Tensor)


def ones(shape, dtype=float, device="cpu"):
    return np.ones(shape, dtype).view(Tensor)


def clamp(tensor, low, high):
    return np.clip(tensor, low, high)


def where(condition, this, that):
    return np.where(condition, this, that).view(Tensor)


def ones_like(tensor):
    return np.ones_like(tensor)
