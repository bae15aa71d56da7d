"""Speed of the loop, beside Stable-Baselines3-JAX: `make bench` (see __main__.py for what is measured)."""
