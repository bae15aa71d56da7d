"""Stand-in for isaacgym, which needs an NVIDIA GPU and Python 3.8 and is on no package index."""

import sys

if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym modules. Please import torch after isaacgym modules.")
