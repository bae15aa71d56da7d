"""The words that rooms share: what passes between a benchmark, the replay, an algorithm and the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax

Array = jax.Array
Metrics = dict[str, Array]
PICTURE = (240, 320)  # height and width in pixels of a picture of a task, for people only


class Transition(NamedTuple):
    """One step of experience; leading axes are the caller's business.

    `discount` is 0 where the episode truly ended and 1 otherwise (a time-out is 1): γ belongs to the algorithm. Over
    several steps (n_step.py) it holds the γ of all but one of them. `next_obs` is the true successor, never the
    observation after an automatic reset.
    """

    obs: Any  # [..., obs_dim] float32
    action: Any  # [..., action_dim] float32 in [-1, 1]
    reward: Any  # [...] float32
    discount: Any  # [...] float32, 0 … 1
    next_obs: Any  # [..., obs_dim] float32


class Hyper(NamedTuple):
    """What members of one pack may differ in: traced values, so never a reason to compile again."""

    learning_rate: Any  # [] float32, the critic's η


class TrainState(flax.struct.PyTreeNode):
    """Everything that learning changes, for one member."""

    params: Any
    targets: Any
    opt: Any
    hyper: Hyper
    key: Array
    updates: Array  # [] int32, critic updates so far
    seen: Any = ()  # what `Algorithm.observe` keeps from one vector step to the next


class Resets(NamedTuple):
    """When a learner starts afresh (cycle.Executor.fresh). The default is never."""

    every_updates: int | None = None  # after every so many gradient steps
    at_env_steps: tuple[int, ...] = ()  # before these env steps


class NStep(NamedTuple):
    """Returns over n steps: see n_step.py."""

    n: int
    discount: float  # γ


class Critic(NamedTuple):
    """The parts of what `Algorithm.update` does with the critic, for those who look at it and change nothing."""

    # (state, batch) -> the batch as the networks see it, and what the critic is fitted to on it, with state.key's noise
    lesson: Callable[[TrainState, Transition], tuple[Transition, Any]]
    loss: Callable[[Any, Transition, Any], tuple[Array, Metrics]]  # (critic's params, *lesson) -> TD loss, and more
    fit: Callable[[TrainState, Transition, Any], tuple[TrainState, Metrics]]  # (state, *lesson): one gradient step


class Algorithm(NamedTuple):
    """A learner as a record of pure functions over one member; it never sees the member axis."""

    init: Callable[[Array, Hyper], TrainState]  # (key, hyper)
    act: Callable[[TrainState, Array, Array, bool], Array]  # (state, obs[..., O], key, explore) -> action[..., A]
    update: Callable[[TrainState, Transition], tuple[TrainState, Metrics]]  # one gradient step on a batch of B
    # By network, the `total` with the targets, and N in the papers' two conventions: `double_critic` and `paper`
    n_params: dict[str, int]
    flops_per_update: float  # floating-point operations of one update, from the formula in the algorithm's file
    resets: Resets = Resets()
    n_step: NStep | None = None  # None: ordinary transitions
    timeout_is_terminal: bool = False  # whether a time-out ends the value, as a true end does
    # (state, obs[E, O], reward[E], over[E]) -> state: once for each vector step, before its updates, with what was
    # acted on, what that paid, and where an episode ended, truly or by time-out
    observe: Callable[[TrainState, Array, Array, Array], TrainState] | None = None
    critic: Critic | None = None  # None: there is nothing that diagnostics could look at


class EnvSpec(NamedTuple):
    """The shapes of a task as the agent sees it: flat float32 observations, actions in [-1, 1]."""

    obs_dim: int
    action_dim: int
    episode_steps: int  # the time limit, in env steps
    num_envs: int = 1  # E, the copies that are stepped together, for a learner that keeps something of each


class Step(NamedTuple):
    """What one vector step returns, [E, ...] each.

    `obs` is what to act on next (after an automatic reset, the new episode's first); `final_obs` is the true
    successor of the action, equal to `obs` wherever no episode ended.
    """

    obs: Any  # [E, obs_dim] float32
    reward: Any  # [E] float32
    terminated: Any  # [E] bool: the episode truly ended; wins over truncated
    truncated: Any  # [E] bool: the time limit cut it
    final_obs: Any  # [E, obs_dim] float32


class HostEnv(Protocol):
    """`num_envs` copies of a task for one member, stepped by the host; stateful, and honest about it."""

    def reset(self) -> Any:
        """Start an episode in every copy; returns obs [E, obs_dim]."""

    def step(self, action: Any) -> Step:
        """Apply action [E, action_dim] in [-1, 1]; copies whose episode ends are reset in the same step."""

    def close(self) -> None:
        """Free the simulator."""


@runtime_checkable
class ResumableEnv(HostEnv, Protocol):
    """A `HostEnv` that a checkpoint can hold."""

    def state(self) -> bytes | None:
        """All that its steps to come depend on; None where this task's simulator cannot give it."""

    def resume(self, state: bytes) -> None:
        """Be as the one whose `state` it was, bit for bit."""


class FilmedEnv(HostEnv, Protocol):
    """A `HostEnv` that can be looked at."""

    def frame(self) -> Any:
        """A picture of copy 0 as it is now, uint8 [H, W, 3], wherever possible of the size PICTURE."""


class DeviceEnv(NamedTuple):
    """One copy of a task as pure JAX functions; the loop maps them over copies."""

    init: Callable[[Array], tuple[Any, Array]]  # (key) -> (env_state, obs[O]): a fresh episode
    step: Callable[[Any, Array], tuple[Any, Step]]  # (env_state, action[A]) -> (env_state, Step), unbatched


class Benchmark(Protocol):
    """A suite's frozen dataclass, one per YAML option: it makes environments, and is part of a run's identity.

    Every suite is one of the two kinds below, which decides the executor (see loop.py).
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def num_envs(self) -> int: ...

    def spec(self) -> EnvSpec:
        """The task's shapes; raises Mistake if there is no such task."""


class HostBenchmark(Benchmark, Protocol):
    """A suite whose simulator lives in this process."""

    def make(self, seed: int) -> HostEnv:
        """`num_envs` copies, all their randomness from `seed`."""


class FilmedBenchmark(HostBenchmark, Protocol):
    """A suite whose simulator can draw what it does."""

    def filmed(self, seed: int) -> FilmedEnv:
        """As `make`, bit for bit."""


class JudgedBenchmark(Benchmark, Protocol):
    """A suite of either kind that can tell success: evaluations then have the column `eval_success`."""

    def succeeded(self, final_obs: Any) -> Any:
        """Whether a step that led to `final_obs` [..., obs_dim] (NumPy's or JAX's) did the task, bool [...]."""


@runtime_checkable
class DeviceBenchmark(Benchmark, Protocol):
    """A suite whose simulator is a pure function."""

    def functions(self) -> DeviceEnv:
        """The pure functions of one copy."""
