"""Soft actor-critic (Haarnoja et al. 2018) as a record of pure functions over one member.

Per update, in this order: critic, target, actor (against the new critic), temperature. The study's learning rate η is
the critic's; the actor's follows it unless it has its own; the temperature's is fixed (ALGORITHMS: an α that follows η
leaves the random level too early). Defaults in `conf/algorithm/sac.yaml` are jaxrl's.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rlscale.networks import GaussianPolicy, TwinQ, parameter_shapes, tanh_gaussian
from rlscale.optimiser import adam, descend
from rlscale.td import count, due, matmul_weights, polyak
from rlscale.types import Algorithm, Array, Critic, EnvSpec, Hyper, Metrics, TrainState, Transition


@dataclass(frozen=True)
class SAC:
    """SAC's fields, exactly those of `conf/algorithm/sac.yaml`; `make` turns them into an Algorithm."""

    name: str
    width: int
    depth: int
    discount: float
    tau: float
    initial_temperature: float
    entropy_per_action: float
    actor_learning_rate: float | None
    temperature_learning_rate: float
    actor_updates: Literal["per_env_step", "per_update"]

    def __post_init__(self) -> None:
        if self.width <= 0 or self.depth <= 0:
            raise ValueError(f"width={self.width}: a network needs at least one hidden layer of at least one unit")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount={self.discount}: give γ from 0 to below 1")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau={self.tau}: give a target step above 0 and at most 1")
        if self.initial_temperature <= 0:
            raise ValueError(f"initial_temperature={self.initial_temperature}: give a positive number")

    def make(self, env: EnvSpec, utd: Fraction, batch_size: int) -> Algorithm:
        """The learner for one task at one σ; `batch_size` only enters the FLOP count."""
        critic = TwinQ(self.width, self.depth)
        actor = GaussianPolicy(self.width, self.depth, env.action_dim)
        optimiser = adam()
        target_entropy = self.entropy_per_action * env.action_dim  # H̄
        # One actor step per transition means one per σ critic updates; below σ = 1 a transition has less than one
        # update to ride on, so every update takes one.
        actor_share = min(Fraction(1), 1 / utd) if self.actor_updates == "per_env_step" else Fraction(1)

        def init(key: Array, hyper: Hyper) -> TrainState:
            key, critic_key, actor_key = jax.random.split(key, 3)
            obs, action = jnp.zeros(env.obs_dim), jnp.zeros(env.action_dim)
            params = {
                "critic": critic.init(critic_key, obs, action),
                "actor": actor.init(actor_key, obs),
                "log_temperature": jnp.log(jnp.float32(self.initial_temperature)),
            }
            return TrainState(
                params=params,
                targets=jax.tree.map(jnp.copy, params["critic"]),  # a copy: donated buffers must not be shared
                opt={name: optimiser.init(p) for name, p in params.items()},
                hyper=hyper,
                key=key,
                updates=jnp.int32(0),
            )

        def act(state: TrainState, obs: Array, key: Array, explore: bool) -> Array:
            gaussian: tuple[Array, Array] = actor.apply(state.params["actor"], obs)  # type: ignore[assignment]
            if not explore:
                return jnp.tanh(gaussian[0])
            return tanh_gaussian(jax.random.normal(key, gaussian[0].shape), *gaussian)[0]

        def target(state: TrainState, batch: Transition, noise: Array) -> Array:
            """y = r + γ·m·(min Q̄(s′,a′) − α log π(a′|s′))."""
            next_action, next_log_prob = tanh_gaussian(noise, *actor.apply(state.params["actor"], batch.next_obs))
            next_q = jnp.minimum(*critic.apply(state.targets, batch.next_obs, next_action))
            next_value = next_q - jnp.exp(state.params["log_temperature"]) * next_log_prob
            return batch.reward + self.discount * batch.discount * next_value

        def critic_loss(critic_params: Any, batch: Transition, y: Array) -> tuple[Array, Metrics]:
            """Σ over both critics of (Q − y)²."""
            both: tuple[Array, Array] = critic.apply(critic_params, batch.obs, batch.action)  # type: ignore[assignment]
            q1, q2 = both
            return jnp.mean((q1 - y) ** 2 + (q2 - y) ** 2), {"q": q1.mean()}

        def actor_loss(actor_params: Any, state: TrainState, batch: Transition, noise: Array) -> tuple[Array, Array]:
            """α log π(a|s) − min Q(s,a), a ~ π; also returns the policy's entropy."""
            action, log_prob = tanh_gaussian(noise, *actor.apply(actor_params, batch.obs))
            q = jnp.minimum(*critic.apply(state.params["critic"], batch.obs, action))
            temperature = jnp.exp(state.params["log_temperature"])
            return jnp.mean(temperature * log_prob - q), -log_prob.mean()

        def temperature_loss(log_temperature: Array, entropy: Array) -> Array:
            """α·(H − H̄): the temperature falls while the policy is more random than its target."""
            return jnp.exp(log_temperature) * (entropy - target_entropy)

        def step(state: TrainState, name: str, gradient: Any, learning_rate: Array | float) -> TrainState:
            direction, opt = optimiser.update(gradient, state.opt[name])
            params = descend(direction, state.params[name], learning_rate)
            return state.replace(params=state.params | {name: params}, opt=state.opt | {name: opt})

        def fit(state: TrainState, batch: Transition, y: Array) -> tuple[TrainState, Metrics]:
            (loss, metrics), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.params["critic"], batch, y)
            return step(state, "critic", gradient, state.hyper.learning_rate), metrics | {"critic_loss": loss}

        def update_actor(state: TrainState, batch: Transition, noise: Array) -> tuple[TrainState, Metrics]:
            (loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(
                state.params["actor"], state, batch, noise
            )
            rate = state.hyper.learning_rate if self.actor_learning_rate is None else self.actor_learning_rate
            state = step(state, "actor", gradient, rate)
            gradient = jax.grad(temperature_loss)(state.params["log_temperature"], entropy)
            state = step(state, "log_temperature", gradient, self.temperature_learning_rate)
            return state, {"actor_loss": loss, "entropy": entropy}

        def noises(state: TrainState, batch: Transition) -> tuple[Array, Array]:
            """The next key, and noise [2, B, A]: one draw for both losses, half the kernels."""
            key, noise_key = jax.random.split(state.key)
            return key, jax.random.normal(noise_key, (2, *batch.action.shape))

        def lesson(state: TrainState, batch: Transition) -> tuple[Transition, Array]:
            return batch, target(state, batch, noises(state, batch)[1][0])

        def update(state: TrainState, batch: Transition) -> tuple[TrainState, Metrics]:
            key, noise = noises(state, batch)
            state, metrics = fit(state, batch, target(state, batch, noise[0]))
            state = state.replace(targets=polyak(state.targets, state.params["critic"], self.tau))
            if actor_share == 1:
                state, actor_metrics = update_actor(state, batch, noise[1])
            else:
                skipped = {"actor_loss": jnp.float32(0), "entropy": jnp.float32(0)}
                state, actor_metrics = jax.lax.cond(
                    due(state.updates, actor_share), update_actor, lambda s, *_: (s, skipped), state, batch, noise[1]
                )
            metrics |= actor_metrics | {"temperature": jnp.exp(state.params["log_temperature"])}
            return state.replace(key=key, updates=state.updates + 1), metrics

        shapes = {
            "critic": parameter_shapes(critic, env.obs_dim, env.action_dim),
            "actor": parameter_shapes(actor, env.obs_dim),
            "log_temperature": jnp.float32(0),
        }
        n = {name: count(p) for name, p in shapes.items()}
        # Per row: critic: target policy and target critic forward (2 each), online forward and backward (2 + 4);
        # actor: its forward and backward (2 + 4), the critic's forward and the backward to its input (2 + 2).
        w_critic, w_actor = matmul_weights(shapes["critic"]), matmul_weights(shapes["actor"])
        share = float(actor_share)
        flops = batch_size * ((8 + 4 * share) * w_critic + (2 + 6 * share) * w_actor)
        n |= {"total": sum(n.values()) + n["critic"], "double_critic": n["critic"], "paper": n["critic"]}
        return Algorithm(init, act, update, n, flops, critic=Critic(lesson, critic_loss, fit))
