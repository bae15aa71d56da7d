"""BRO, "bigger, regularised, optimistic" (Nauman et al. 2024) as a record of pure functions over one member.

SAC with large layer-normalised residual critics that predict quantiles and are averaged, not minimised; AdamW; full
resets; and a second, optimistic actor that collects the data (without it: BRO-minimal, `optimistic_actor: false`).

Per update, in this order: critic, target, actor (against the new critic), optimistic actor (against the new actor and
critic), temperature, optimism and its penalty. The study's learning rate η is the critic's; the other rates are the
public code's. Defaults in `conf/algorithm/bro.yaml` are its, with the resets of the scaling study.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import atanh, log
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rlscale.networks import BroActor, BroCritic, OptimisticShift, tanh_gaussian
from rlscale.optimiser import adam, descend
from rlscale.td import count, matmul_weights, polyak, quantile_huber
from rlscale.types import Algorithm, Array, Critic, EnvSpec, Hyper, Metrics, Resets, TrainState, Transition

LOG_DUAL_MIN, LOG_DUAL_MAX = -10.0, 7.5  # range of log β (optimism) and log λ (its penalty)
DUAL_BETA_1 = 0.5  # Adam's b1 for the temperature and the duals: they follow a moving target


@dataclass(frozen=True)
class Reset:
    """When the learner starts afresh on the replay it has: after gradient steps, at env steps, or never."""

    mode: Literal["grad_steps", "env_steps", "none"]
    every: int  # gradient steps, for mode=grad_steps
    at: tuple[int, ...]  # env steps, for mode=env_steps

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ValueError(f"every={self.every}: give a positive number of gradient steps, or mode=none")
        if any(step <= 0 for step in self.at) or list(self.at) != sorted(set(self.at)):
            raise ValueError(f"at={list(self.at)}: give env steps above 0 in rising order")


@dataclass(frozen=True)
class BRO:
    """BRO's fields, exactly those of `conf/algorithm/bro.yaml`; `make` turns them into an Algorithm."""

    name: str
    width: int
    blocks: int
    actor_width: int
    actor_blocks: int
    quantiles: int
    discount: float
    tau: float
    weight_decay: float
    initial_temperature: float
    entropy_per_action: float
    actor_learning_rate: float | None
    temperature_learning_rate: float
    optimistic_actor: bool
    initial_optimism: float
    initial_penalty: float
    kl_per_action: float
    exploration_std: float
    dual_learning_rate: float
    reset: Reset

    def __post_init__(self) -> None:
        for name in ("width", "actor_width", "quantiles"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive whole number")
        for name in ("blocks", "actor_blocks", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount={self.discount}: give γ from 0 to below 1")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau={self.tau}: give a target step above 0 and at most 1")
        for name in ("initial_temperature", "initial_optimism", "initial_penalty", "exploration_std"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        for name in ("initial_optimism", "initial_penalty"):
            if not LOG_DUAL_MIN < log(getattr(self, name)) < LOG_DUAL_MAX:
                raise ValueError(f"{name}={getattr(self, name)}: give a number between 5e-5 and 1800")

    def make(self, env: EnvSpec, utd: Fraction, batch_size: int) -> Algorithm:
        """The learner for one task; `batch_size` only enters the FLOP count, σ nothing."""
        networks: Any = self._networks(env)  # flax cannot say what `apply` returns:
        quantiles, gaussian, shift_of = (network.apply for network in networks)  # 2 × [B, K]; 2 × [B, A]; [B, A]
        # Without a learning rate: `descend` applies η by hand. The decay spares no parameter, not even biases.
        adamw = optax.chain(adam(), optax.add_decayed_weights(self.weight_decay))
        dual_adam = adam(b1=DUAL_BETA_1)
        optimiser = {"critic": adamw, "actor": adamw, "optimist": adamw}
        target_entropy = self.entropy_per_action * env.action_dim  # H̄

        def init(key: Array, hyper: Hyper) -> TrainState:
            key, *keys = jax.random.split(key, 4)
            params = self._params(env, keys)
            return TrainState(
                params=params,
                targets=jax.tree.map(jnp.copy, params["critic"]),  # a copy: donated buffers must not be shared
                opt={name: optimiser.get(name, dual_adam).init(p) for name, p in params.items()},
                hyper=hyper,
                key=key,
                updates=jnp.int32(0),
            )

        def explorer(params: Any, optimist_params: Any, obs: Array) -> tuple[Array, Array, Array]:
            """Mean and log σ of the Gaussian that collects data: π_c's, moved and narrowed; and its distance [...] from
            π_c before the narrowing, KL = Σ (Δμ)² / 2σ_c². Nothing here moves π_c.
            """
            mean, log_std = jax.lax.stop_gradient(gaussian(params["actor"], obs))
            shift = shift_of(optimist_params, obs, mean)
            divergence = (shift**2 / (2 * jnp.exp(2 * log_std))).sum(-1)
            return mean + shift, log_std + log(self.exploration_std), divergence

        def act(state: TrainState, obs: Array, key: Array, explore: bool) -> Array:
            if not explore:
                return jnp.tanh(gaussian(state.params["actor"], obs)[0])
            if self.optimistic_actor:
                mean, log_std, _ = explorer(state.params, state.params["optimist"], obs)
            else:
                mean, log_std = gaussian(state.params["actor"], obs)
            return tanh_gaussian(jax.random.normal(key, mean.shape), mean, log_std)[0]

        def target(state: TrainState, batch: Transition, noise: Array) -> Array:
            """y_j = r + γ·m·(q̄_j − α log π) [B, K], q̄ the mean of the two targets'."""
            next_action, next_log_prob = tanh_gaussian(noise, *gaussian(state.params["actor"], batch.next_obs))
            next_q1, next_q2 = quantiles(state.targets, batch.next_obs, next_action)
            entropy_bonus = -jnp.exp(state.params["log_temperature"]) * next_log_prob
            next_value = (next_q1 + next_q2) / 2 + entropy_bonus[:, None]
            return batch.reward[:, None] + self.discount * batch.discount[:, None] * next_value

        def critic_loss(critic_params: Any, batch: Transition, y: Array) -> tuple[Array, Metrics]:
            """Quantile Huber of both critics against y."""
            q1, q2 = quantiles(critic_params, batch.obs, batch.action)
            return jnp.mean(quantile_huber(q1, y) + quantile_huber(q2, y)), {"q": q1.mean()}

        def actor_loss(actor_params: Any, state: TrainState, batch: Transition, noise: Array) -> tuple[Array, Array]:
            """α log π(a|s) − Q(s,a), a ~ π, Q the mean over critics and quantiles; also returns the entropy."""
            action, log_prob = tanh_gaussian(noise, *gaussian(actor_params, batch.obs))
            q1, q2 = quantiles(state.params["critic"], batch.obs, action)
            temperature = jnp.exp(state.params["log_temperature"])
            return jnp.mean(temperature * log_prob - ((q1 + q2) / 2).mean(-1)), -log_prob.mean()

        def optimist_loss(
            optimist_params: Any, state: TrainState, batch: Transition, noise: Array
        ) -> tuple[Array, Array]:
            """−(mean of the critics + β·half their distance) + λ·KL; also returns the KL of an action dimension."""
            mean, log_std, divergence = explorer(state.params, optimist_params, batch.obs)
            q1, q2 = quantiles(state.params["critic"], batch.obs, tanh_gaussian(noise, mean, log_std)[0])
            optimism, penalty = dual(state.params["optimism"]), dual(state.params["penalty"])
            upper = (q1 + q2) / 2 + optimism * jnp.abs(q1 - q2) / 2
            return -upper.mean() + penalty * divergence.mean(), divergence.mean() / env.action_dim

        def step(state: TrainState, name: str, gradient: Any, learning_rate: Array | float) -> TrainState:
            params = state.params[name]
            direction, opt = optimiser.get(name, dual_adam).update(gradient, state.opt[name], params)
            params = descend(direction, params, learning_rate)
            return state.replace(params=state.params | {name: params}, opt=state.opt | {name: opt})

        def actor_rate(state: TrainState) -> Array | float:
            return state.hyper.learning_rate if self.actor_learning_rate is None else self.actor_learning_rate

        def fit(state: TrainState, batch: Transition, y: Array) -> tuple[TrainState, Metrics]:
            (loss, metrics), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.params["critic"], batch, y)
            return step(state, "critic", gradient, state.hyper.learning_rate), metrics | {"critic_loss": loss}

        def update_critic(state: TrainState, batch: Transition, noise: Array) -> tuple[TrainState, Metrics]:
            state, metrics = fit(state, batch, target(state, batch, noise))
            return state.replace(targets=polyak(state.targets, state.params["critic"], self.tau)), metrics

        def update_actor(state: TrainState, batch: Transition, noise: Array) -> tuple[TrainState, Metrics]:
            """The actor; and the temperature, which falls while the policy is more random than H̄."""
            (loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(
                state.params["actor"], state, batch, noise
            )
            state = step(state, "actor", gradient, actor_rate(state))
            slope = jnp.exp(state.params["log_temperature"]) * (entropy - target_entropy)  # of α·(H − H̄) by log α
            state = step(state, "log_temperature", slope, self.temperature_learning_rate)
            temperature = jnp.exp(state.params["log_temperature"])
            return state, {"actor_loss": loss, "entropy": entropy, "temperature": temperature}

        def update_optimist(state: TrainState, batch: Transition, noise: Array) -> tuple[TrainState, Metrics]:
            """The optimistic actor; β falls and λ rises while it is further from the actor than it should be."""
            (loss, kl), gradient = jax.value_and_grad(optimist_loss, has_aux=True)(
                state.params["optimist"], state, batch, noise
            )
            state = step(state, "optimist", gradient, actor_rate(state))
            for name, sign in (("optimism", 1.0), ("penalty", -1.0)):
                slope = sign * (kl - self.kl_per_action) * jax.grad(dual)(state.params[name])
                state = step(state, name, slope, self.dual_learning_rate)
            return state, {"optimist_loss": loss, "kl": kl, "optimism": dual(state.params["optimism"])}

        parts = [update_critic, update_actor, *([update_optimist] if self.optimistic_actor else [])]

        def noises(state: TrainState, batch: Transition) -> tuple[Array, Array]:
            """The next key, and noise [parts, B, A]: one draw for all, fewer kernels."""
            key, noise_key = jax.random.split(state.key)
            return key, jax.random.normal(noise_key, (len(parts), *batch.action.shape))

        def lesson(state: TrainState, batch: Transition) -> tuple[Transition, Array]:
            return batch, target(state, batch, noises(state, batch)[1][0])

        def update(state: TrainState, batch: Transition) -> tuple[TrainState, Metrics]:
            key, noise = noises(state, batch)
            metrics: Metrics = {}
            for part, its_noise in zip(parts, noise, strict=True):
                state, its_metrics = part(state, batch, its_noise)
                metrics |= its_metrics
            return state.replace(key=key, updates=state.updates + 1), metrics

        shapes = _shapes(self, env)
        n = {name: count(p) for name, p in shapes.items()}
        scalars = sum(name not in optimiser for name in shapes)
        total = sum(n.values()) + n["critic"]
        # The study's N counts all six networks, the targets too (with one actor five).
        n |= {"total": total, "double_critic": n["critic"], "paper": total - scalars}
        resets = Resets(
            every_updates=self.reset.every if self.reset.mode == "grad_steps" else None,
            at_env_steps=self.reset.at if self.reset.mode == "env_steps" else (),
        )
        flops = self._flops(shapes, env, batch_size)
        return Algorithm(init, act, update, n, flops, resets, critic=Critic(lesson, critic_loss, fit))

    def _networks(self, env: EnvSpec) -> tuple[BroCritic, BroActor, OptimisticShift]:
        return (
            BroCritic(self.width, self.blocks, self.quantiles),
            BroActor(self.actor_width, self.actor_blocks, env.action_dim),
            OptimisticShift(self.actor_width, self.actor_blocks, env.action_dim),
        )

    def _params(self, env: EnvSpec, keys: Sequence[Array]) -> dict[str, Any]:
        """Fresh parameters by name, a key for each network; β and λ as the free parameters of `dual`."""
        critic, actor, optimist = self._networks(env)
        critic_key, actor_key, optimist_key = keys
        obs, action = jnp.zeros(env.obs_dim), jnp.zeros(env.action_dim)
        params = {
            "critic": critic.init(critic_key, obs, action),
            "actor": actor.init(actor_key, obs),
            "log_temperature": jnp.log(jnp.float32(self.initial_temperature)),
        }
        if self.optimistic_actor:
            params |= {
                "optimist": optimist.init(optimist_key, obs, action),
                "optimism": jnp.float32(dual_of(self.initial_optimism)),
                "penalty": jnp.float32(dual_of(self.initial_penalty)),
            }
        return params

    def _flops(self, shapes: Any, env: EnvSpec, batch_size: int) -> float:
        """Floating-point operations of one update.

        Matrix products, per row 2 a weight and pass; a backward pass costs two forward ones, less the gradient by the
        network's own input where nobody asks for it. Then 9 for each pair of a quantile and a target, and 17 for each
        parameter (AdamW), 3 more for each of the critic's (its target).
        """
        inputs = env.obs_dim + env.action_dim
        critic, critic_first = matmul_weights(shapes["critic"]), 2 * inputs * self.width
        actor, actor_first = matmul_weights(shapes["actor"]), env.obs_dim * self.actor_width
        passes = (actor + critic + 3 * critic - critic_first) + (3 * actor - actor_first + 2 * critic)
        if self.optimistic_actor:
            optimist, optimist_first = matmul_weights(shapes["optimist"]), inputs * self.actor_width
            passes += actor + 3 * optimist - optimist_first + 2 * critic
        pairs = 2 * batch_size * self.quantiles**2
        return 2.0 * batch_size * passes + 9 * pairs + 17 * count(shapes) + 3 * count(shapes["critic"])


@functools.cache  # every job of a sweep asks, and following the initialisation takes longer than all else in `make`
def _shapes(learner: BRO, env: EnvSpec) -> dict[str, Any]:
    """The parameters' shapes by name."""
    shapes: dict[str, Any] = jax.eval_shape(functools.partial(learner._params, env), [jax.random.key(0)] * 3)
    return shapes


def dual(x: Array) -> Array:
    """A positive multiplier from its free parameter: log-range [−10, 7.5] by a tanh."""
    return jnp.exp(LOG_DUAL_MIN + (LOG_DUAL_MAX - LOG_DUAL_MIN) * 0.5 * (1 + jnp.tanh(x)))


def dual_of(value: float) -> float:
    """The free parameter of a multiplier: the inverse of `dual`."""
    return atanh(2 * (log(value) - LOG_DUAL_MIN) / (LOG_DUAL_MAX - LOG_DUAL_MIN) - 1)
