"""Studies made from known laws: what the analysis must find again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.spec import Budget, Member, RunSpec, identity, run_id

THRESHOLDS = (300.0, 400.0, 500.0, 600.0, 700.0)


@dataclass(frozen=True)
class World:
    """B* = b0·σ^b_exp, η* = lr0·σ^lr_exp, D_700 = scale·d_min(1 + (beta/σ)^alpha) at the best setting."""

    tasks: dict[str, float] = field(default_factory=lambda: {"pendulum": 1.0, "cartpole_swingup": 1.5})  # data scale
    utds: tuple[str, ...] = ("1/2", "1", "2", "4", "8")
    batch_sizes: tuple[int, ...] = (64, 128, 256, 512)
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    seeds: int = 5
    b: tuple[float, float] = (256.0, -0.4)
    lr: tuple[float, float] = (6e-4, -0.3)
    data: tuple[float, float, float] = (4000.0, 1.2, 0.8)
    noise: float = 0.08
    env_steps: int = 40000
    log_every: int = 250
    curvature: float = 0.12
    random: int = 7

    def best_batch(self, utd: str) -> float:
        return self.b[0] * float(Fraction(utd)) ** self.b[1]

    def best_rate(self, utd: str) -> float:
        return self.lr[0] * float(Fraction(utd)) ** self.lr[1]

    def data_law(self, utd: str, level: float = 700.0) -> float:
        d_min, beta, alpha = self.data
        return d_min * (1 + (beta / float(Fraction(utd))) ** alpha) * (level / 700.0) ** 1.5

    def write_grid(self, root: Path, asked_by: dict[str, Any] | None = None) -> None:
        """Every (task, σ, B, η, seed) of the grid."""
        for task in self.tasks:
            for utd in self.utds:
                for batch in self.batch_sizes:
                    for rate in self.learning_rates:
                        self.write_cell(
                            root, task, utd, batch, rate, asked_by or {"hparams": "constant", "sweep": None}
                        )

    def write_cell(self, root: Path, task: str, utd: str, batch: int, rate: float, asked_by: dict[str, Any]) -> None:
        off = np.log2(batch / self.best_batch(utd)) ** 2 + np.log2(rate / self.best_rate(utd)) ** 2
        data = self.tasks[task] * self.data_law(utd) * (1 + self.curvature * off)
        for seed in range(self.seeds):
            key = np.random.SeedSequence([self.random, seed, batch, round(rate * 1e7), *map(ord, task + utd)])
            rng = np.random.default_rng(key)
            mine = data * np.exp(self.noise * rng.standard_normal())
            steps = np.arange(self.log_every, self.env_steps + 1, self.log_every)
            value = np.minimum(1000.0, 700.0 * (steps / mine) ** (1 / 1.5)) + 10 * rng.standard_normal(len(steps))
            write_run(root, task, utd, batch, rate, seed, steps, raw(task, value), asked_by, self.env_steps)


def raw(task: str, normalised: np.ndarray) -> np.ndarray:
    floor, ceiling = {"pendulum": (-1250.0, -150.0), "cartpole_swingup": (25.0, 870.0)}[task]
    return floor + normalised * (ceiling - floor) / 1000.0


def write_run(
    root: Path,
    task: str,
    utd: str,
    batch: int,
    rate: float,
    seed: int,
    steps: np.ndarray,
    returns: np.ndarray,
    asked_by: dict[str, Any],
    env_steps: int,
    status: str = "finished",
    width: int = 64,
    log_every: int | None = None,
    critic: int = 9218,
) -> Path:
    """One run folder as rlscale.store leaves it."""
    budget = Budget(env_steps, 500, log_every or int(steps[0]), None, 0, None)
    spec = RunSpec(
        {"name": "sac", "width": width, "discount": 0.99, "layers": 2},
        {"name": "control", "task": task, "num_envs": 1},
        Fraction(utd),
        batch,
        budget,
    )
    member = Member(seed, rate)
    name = run_id(spec, member)
    folder = root / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    sigma = Fraction(utd)
    record = identity(spec, member) | {
        "schema": 1,
        "run_id": name,
        "transitions": env_steps,
        "updates": int((env_steps - 500) * sigma),
        "utd_realised": utd,
        "n_params": {"critic": critic, "actor": 4610, "total": critic + 4610},
        "flops_per_update": 1e6,
        "wall_s": 1.0,
        "status": status,
        "resumes": 0,
        "asked_by": {"overrides": [], **asked_by},
        "device": "cpu",
    }
    lines = ["env_step,updates,wall_s,train_return,train_episodes,eval_return,eval_episodes,critic_loss"]
    for step, value in zip(steps.tolist(), returns.tolist(), strict=True):
        updates = max(0, step - 500) * sigma.numerator // sigma.denominator
        lines.append(f"{step},{updates},1.0,{value if isfinite(value) else ''},1,,,0.1")
    (folder / "curve.csv").write_text("\n".join(lines) + "\n")
    (folder / "record.json").write_text(json.dumps(record))
    return folder


# N of a double critic by width: an exact quadratic, as every network has
def critic_size(width: int) -> int:
    return 2 * (2 * width**2 + 9 * width + 1)


@dataclass(frozen=True)
class SizeWorld:
    """Tasks with a D_J(σ, N) each, at level 700 and the best batch size, and a B*(σ, N) of their own."""

    # c, a, alpha, b, beta, and of the batch law a, alpha, b, c
    data: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "pendulum": (4000.0, 1.0, 0.8, 6000.0, 1.0),
            "cartpole_swingup": (7000.0, 1.6, 0.8, 3000.0, 1.0),
        }
    )
    batch: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {"pendulum": (600.0, 0.4, 9000.0, 0.8), "cartpole_swingup": (200.0, 0.4, 2000.0, 0.8)}
    )
    utds: tuple[str, ...] = ("1/2", "1", "2", "4")
    widths: tuple[int, ...] = (16, 32, 64, 128)
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    seeds: int = 4
    env_steps: int = 60000
    log_every: int = 250
    noise: float = 0.05

    def data_law(self, task: str, utd: str, width: int) -> float:
        c, a, alpha, b, beta = self.data[task]
        return c * (1 + (a / float(Fraction(utd))) ** alpha + (b / critic_size(width)) ** beta)

    def batch_law(self, task: str, utd: str, width: int) -> float:
        a, alpha, b, c = self.batch[task]
        return a / (float(Fraction(utd)) ** alpha * (1 + (b / critic_size(width)) ** c))

    def write_grid(self, root: Path) -> None:
        for task in self.data:
            for utd in self.utds:
                for width in self.widths:
                    for batch in self.batch_sizes:
                        self.write_cell(root, task, utd, width, batch, {"hparams": "constant", "sweep": "grid"})

    def write_fitted(self, root: Path, **asked: Any) -> None:
        """One batch size for each setting: the law's own."""
        for task in self.data:
            for utd in self.utds:
                for width in self.widths:
                    batch = max(16, 16 * round(self.batch_law(task, utd, width) / 16))
                    self.write_cell(root, task, utd, width, batch, {"hparams": "fitted/size", "sweep": None} | asked)

    def write_cell(self, root: Path, task: str, utd: str, width: int, batch: int, asked: dict[str, Any]) -> None:
        off = np.log2(batch / self.batch_law(task, utd, width)) ** 2
        data = self.data_law(task, utd, width) * (1 + 0.12 * off)
        for seed in range(self.seeds):
            rng = np.random.default_rng(np.random.SeedSequence([seed, batch, width, *map(ord, task + utd)]))
            mine = data * np.exp(self.noise * rng.standard_normal())
            steps = np.arange(self.log_every, self.env_steps + 1, self.log_every)
            value = np.minimum(1000.0, 700.0 * (steps / mine) ** (1 / 1.5)) + 5 * rng.standard_normal(len(steps))
            write_run(
                root, task, utd, batch, 3e-4, seed, steps, raw(task, value), asked, self.env_steps,
                width=width, critic=critic_size(width),
            )  # fmt: skip
