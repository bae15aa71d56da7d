"""Parallel Q-learning (Li et al. 2023) as a record of pure functions over one member: deep deterministic policy
gradient for thousands of environments, with double critics, n-step returns and an exploration noise of its own in
each environment.

The published program runs acting, value learning and policy learning as three processes that are slowed down until
their ratios are about right; each works with the others' weights of the last hand-over. Here the three take turns:
σ critic updates for each transition, one policy update for every `updates_per_policy_update` of them, all exact, and
`lag: 1` has the hand-over once for each vector step, as published, where `lag: 0` always uses the newest weights.

Other departures: the policy learns from the critic's batch and not from one of its own; actions are chosen by the
statistics of the observations before this vector step's; the γ of the n-step return is the learner's; and, unless
asked for, time-outs do not end the value, observations are clamped for acting too, weights do not decay, and the
distributional critics are trained towards the lower of the two targets by cross-entropy, not towards the element-wise
minimum of the two probability vectors (which is no distribution) by a binary one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlscale.networks import DeterministicPolicy, TwinHead, parameter_shapes
from rlscale.optimiser import descend
from rlscale.td import count, due, matmul_weights, moments, polyak, project
from rlscale.types import Algorithm, Array, Critic, EnvSpec, Hyper, Metrics, NStep, TrainState, Transition


class Seen(NamedTuple):
    """What PQL keeps of the observations that it acted on, and the weights of the last hand-over."""

    steps: Array  # [] float32, vector steps; stays at 2²⁴, where another one moves an average by less than its rounding
    mean: Array  # [O]
    variance: Array  # [O]
    handed: Any  # {critic, actor} parameters; empty without a lag


@dataclass(frozen=True)
class PQL:
    """PQL's fields, exactly those of `conf/algorithm/pql.yaml`; `make` turns them into an Algorithm."""

    name: str
    hidden: tuple[int, ...]
    n_step: int
    discount: float
    tau: float
    updates_per_policy_update: Fraction
    lag: int
    actor_learning_rate: float | None
    weight_decay: float
    max_gradient_norm: float
    noise_min: float
    noise_max: float
    target_noise: float
    target_noise_clip: float
    normalise_observations: bool
    observation_clip: float
    clamp_when_acting: bool
    reward_scale: float
    timeout_is_terminal: bool
    distributional: bool
    atoms: int
    value_max: float
    minimum_of_probabilities: bool

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) <= 0:
            raise ValueError(f"hidden={list(self.hidden)}: give at least one hidden layer of at least one unit")
        if self.n_step < 1:
            raise ValueError(f"n_step={self.n_step}: give a whole number of steps, 1 or more")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount={self.discount}: give γ from 0 to below 1")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau={self.tau}: give a target step above 0 and at most 1")
        if self.updates_per_policy_update < 1:
            raise ValueError(
                f"updates_per_policy_update={self.updates_per_policy_update}: give 1 or more critic updates"
            )
        if self.lag not in (0, 1):
            raise ValueError(f"lag={self.lag}: give 0 (newest weights) or 1 (those of the last vector step)")
        if not 0 <= self.noise_min <= self.noise_max:
            raise ValueError(
                f"noise_max={self.noise_max}: give a number from noise_min={self.noise_min} on, both from 0"
            )
        for name in ("max_gradient_norm", "observation_clip", "reward_scale", "value_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        for name in ("weight_decay", "target_noise", "target_noise_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if self.atoms < 2:
            raise ValueError(f"atoms={self.atoms}: a distribution needs two or more")

    def make(self, env: EnvSpec, utd: Fraction, batch_size: int) -> Algorithm:
        """The learner for one task; `batch_size` only enters the FLOP count, σ nothing."""
        outputs = self.atoms if self.distributional else 1
        networks: Any = (TwinHead(self.hidden, outputs), DeterministicPolicy(self.hidden, env.action_dim))
        heads, policy = (network.apply for network in networks)  # 2 × [B, outputs]; [B, A]
        # The rate comes after clipping and Adam: `descend` applies η by hand.
        optimiser = optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.scale_by_adam(),
            optax.add_decayed_weights(self.weight_decay),
        )
        support = jnp.linspace(-self.value_max, self.value_max, self.atoms)
        policy_share = 1 / self.updates_per_policy_update

        def init(key: Array, hyper: Hyper) -> TrainState:
            key, critic_key, actor_key = jax.random.split(key, 3)
            obs, action = jnp.zeros(env.obs_dim), jnp.zeros(env.action_dim)
            critic, actor = networks
            params = {"critic": critic.init(critic_key, obs, action), "actor": actor.init(actor_key, obs)}
            handed = jax.tree.map(jnp.copy, params) if self.lag else {}
            return TrainState(
                params=params,
                targets=jax.tree.map(jnp.copy, params["critic"]),  # a copy: donated buffers must not be shared
                opt={name: optimiser.init(p) for name, p in params.items()},
                hyper=hyper,
                key=key,
                updates=jnp.int32(0),
                seen=Seen(jnp.float32(0), jnp.zeros(env.obs_dim), jnp.ones(env.obs_dim), handed),
            )

        def observe(state: TrainState, obs: Array, *_: Array) -> TrainState:
            """Mean and variance of all observations acted on; and the hand-over."""
            seen = state.seen
            mean, variance = moments(seen.steps, seen.mean, seen.variance, obs)
            return state.replace(seen=Seen(seen.steps + 1, mean, variance, state.params if self.lag else {}))

        def normal(seen: Seen, obs: Array, clamp: bool) -> Array:
            if not self.normalise_observations:
                return obs
            scaled = (obs - seen.mean) / jnp.sqrt(seen.variance + 1e-4)
            return jnp.clip(scaled, -self.observation_clip, self.observation_clip) if clamp else scaled

        def act(state: TrainState, obs: Array, key: Array, explore: bool) -> Array:
            """Environment i of E explores with standard deviation number i of E from noise_min to noise_max."""
            action = policy(state.params["actor"], normal(state.seen, obs, self.clamp_when_acting))
            if not explore:
                return action
            spread = jnp.linspace(self.noise_min, self.noise_max, obs.shape[-2] if obs.ndim > 1 else 1)
            return jnp.clip(action + spread[:, None] * jax.random.normal(key, action.shape), -1.0, 1.0).reshape(
                action.shape
            )

        def other(state: TrainState, name: str) -> Any:
            """The weights of the other role: the newest, or those of the last hand-over."""
            return state.seen.handed[name] if self.lag else state.params[name]

        def values(logits: Array) -> Array:
            """Expected return [...] of a head's outputs [..., K]."""
            return (jax.nn.softmax(logits) * support).sum(-1) if self.distributional else logits[..., 0]

        def target(state: TrainState, rows: Transition, noise: Array) -> Array:
            """R + γ·m·min(Q̄1, Q̄2)(s′, ã′) [B], or its distribution [B, K]; ã′ = π(s′) and clipped noise."""
            bounded = jnp.clip(self.target_noise * noise, -self.target_noise_clip, self.target_noise_clip)
            next_action = jnp.clip(policy(other(state, "actor"), rows.next_obs) + bounded, -1.0, 1.0)
            next_heads = heads(state.targets, rows.next_obs, next_action)
            gamma = self.discount * rows.discount
            if not self.distributional:
                return rows.reward + gamma * jnp.minimum(*map(values, next_heads))
            atoms = rows.reward[:, None] + gamma[:, None] * support
            p1, p2 = (project(jax.nn.softmax(h), atoms, support) for h in next_heads)
            if self.minimum_of_probabilities:
                return jnp.minimum(p1, p2)
            return jnp.where((values(next_heads[0]) < values(next_heads[1]))[:, None], p1, p2)

        def critic_loss(critic_params: Any, rows: Transition, y: Array) -> tuple[Array, Metrics]:
            """Both heads towards the target."""
            h1, h2 = heads(critic_params, rows.obs, rows.action)
            if not self.distributional:
                loss = jnp.mean((values(h1) - y) ** 2 + (values(h2) - y) ** 2)
            elif self.minimum_of_probabilities:
                loss = jnp.asarray(sum(binary_cross_entropy(jax.nn.softmax(h), y) for h in (h1, h2)))
            else:
                loss = jnp.asarray(sum(-(y * jax.nn.log_softmax(h)).sum(-1).mean() for h in (h1, h2)))
            return loss, {"q": values(h1).mean()}

        def actor_loss(actor_params: Any, state: TrainState, rows: Transition) -> Array:
            """−min(Q1, Q2)(s, π(s))."""
            both = heads(other(state, "critic"), rows.obs, policy(actor_params, rows.obs))
            return -jnp.minimum(*map(values, both)).mean()

        def step(state: TrainState, name: str, gradient: Any, learning_rate: Array | float) -> TrainState:
            params = state.params[name]
            direction, opt = optimiser.update(gradient, state.opt[name], params)
            params = descend(direction, params, learning_rate)
            return state.replace(params=state.params | {name: params}, opt=state.opt | {name: opt})

        def update_actor(state: TrainState, rows: Transition) -> tuple[TrainState, Array]:
            loss, gradient = jax.value_and_grad(actor_loss)(state.params["actor"], state, rows)
            rate = state.hyper.learning_rate if self.actor_learning_rate is None else self.actor_learning_rate
            return step(state, "actor", gradient, rate), loss

        def lesson(state: TrainState, batch: Transition) -> tuple[Transition, Array]:
            """Observations as the networks see them, rewards scaled; and the target."""
            rows = batch._replace(
                obs=normal(state.seen, batch.obs, True),
                next_obs=normal(state.seen, batch.next_obs, True),
                reward=self.reward_scale * batch.reward,
            )
            noise = jax.random.normal(jax.random.split(state.key)[1], batch.action.shape)
            return rows, target(state, rows, noise)

        def fit(state: TrainState, rows: Transition, y: Array) -> tuple[TrainState, Metrics]:
            (loss, metrics), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.params["critic"], rows, y)
            return step(state, "critic", gradient, state.hyper.learning_rate), metrics | {"critic_loss": loss}

        def update(state: TrainState, batch: Transition) -> tuple[TrainState, Metrics]:
            key, _ = jax.random.split(state.key)
            rows, y = lesson(state, batch)
            state, metrics = fit(state, rows, y)
            state = state.replace(targets=polyak(state.targets, state.params["critic"], self.tau))
            state, of_actor = jax.lax.cond(
                due(state.updates, policy_share), update_actor, lambda state, _: (state, jnp.float32(0)), state, rows
            )
            metrics |= {"actor_loss": of_actor}
            return state.replace(key=key, updates=state.updates + 1), metrics

        shapes = {
            "critic": parameter_shapes(networks[0], env.obs_dim, env.action_dim),
            "actor": parameter_shapes(networks[1], env.obs_dim),
        }
        n = {name: count(p) for name, p in shapes.items()}
        total = 2 * n["critic"] + n["actor"]
        n |= {"total": total, "double_critic": n["critic"], "paper": n["critic"] + n["actor"]}
        # Per row and weight: critic: policy and targets forward, online forward and backward; actor, on its share of
        # updates: its forward and backward, the critic's forward and the backward to its input.
        w_critic, w_actor, share = (
            matmul_weights(shapes["critic"]),
            matmul_weights(shapes["actor"]),
            float(policy_share),
        )
        flops = batch_size * ((8 + 4 * share) * w_critic + (2 + 6 * share) * w_actor)
        return Algorithm(
            *(init, act, update, n, flops),
            n_step=NStep(self.n_step, self.discount) if self.n_step > 1 else None,
            timeout_is_terminal=self.timeout_is_terminal,
            observe=observe,
            critic=Critic(lesson, critic_loss, fit),
        )


def binary_cross_entropy(probabilities: Array, targets: Array) -> Array:
    """Of each probability by itself, averaged, as the published code has it."""
    p = jnp.clip(probabilities, 1e-7, 1 - 1e-7)
    return -(targets * jnp.log(p) + (1 - targets) * jnp.log(1 - p)).mean()
