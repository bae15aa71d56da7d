"""rlscale: plan value-based reinforcement learning from small sweeps (σ, batch size, learning rate → data, compute)."""

__version__ = "0.1.0"
