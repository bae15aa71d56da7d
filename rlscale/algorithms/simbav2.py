"""SimbaV2 (Lee et al. 2025) as a record of pure functions over one member.

SAC on networks whose features and weights lie on the unit sphere (hypersphere.py), so that nothing in them can grow:
each gradient step is followed by a projection. The critics predict the distribution of the return on fixed values,
which therefore must fit every task: rewards are divided by the running spread of the discounted return.

Per update, in this order: actor (against the critics as they are), temperature, critics (with the new actor and
temperature), target, which follows by τ and is not projected. The study's learning rate η is the critics'; all learning
rates fall over the run.

What it keeps of the run it sees once for each vector step, by `observe`: observations, rewards, and where an episode
ended. Batches from the replay would not do: a discounted return is a sum along an episode. It is part of the
TrainState, so a checkpoint needs nothing else.

Departures: the discounted return starts anew after the last reward of an episode, where the published code does so
before it; every vector step weighs the same in the statistics, which actions of that step do not know yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlscale.hypersphere import SphereActor, SphereCritic, on_sphere
from rlscale.networks import parameter_shapes, tanh_gaussian
from rlscale.optimiser import descend
from rlscale.td import count, matmul_weights, moments, polyak, project
from rlscale.types import Algorithm, Array, Critic, EnvSpec, Hyper, Metrics, TrainState, Transition

EPSILON = 1e-8  # added to variances


class Seen(NamedTuple):
    """What SimbaV2 keeps of what it saw: G is the discounted return since an episode began, Σ γ^(t−k) r_k."""

    steps: Array  # [] float32, vector steps; stays at 2²⁴, where another one moves an average by less than its rounding
    mean: Array  # [O] of the observations
    variance: Array  # [O]
    returns: Array  # [E] G of the episodes under way
    return_mean: Array  # []
    return_variance: Array  # []
    return_max: Array  # [] the largest |G|


@dataclass(frozen=True)
class SimbaV2:
    """SimbaV2's fields, exactly those of `conf/algorithm/simbav2.yaml`; `make` turns them into an Algorithm."""

    name: str
    width: int
    blocks: int
    critics: int
    actor_width: int
    actor_blocks: int
    atoms: int
    value_max: float
    horizons_per_episode: float
    discount_min: float
    discount_max: float
    tau: float
    initial_temperature: float
    entropy_per_action: float
    actor_learning_rate: float | None
    temperature_learning_rate: float
    final_rate: float
    decay_env_steps: int
    normalise_observations: bool
    normalise_rewards: bool

    def __post_init__(self) -> None:
        for name in ("width", "actor_width", "decay_env_steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive whole number")
        for name in ("blocks", "actor_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if self.critics not in (1, 2):
            raise ValueError(f"critics={self.critics}: give 1 or 2")
        if self.atoms < 2:
            raise ValueError(f"atoms={self.atoms}: a distribution needs two or more")
        for name in ("value_max", "horizons_per_episode", "initial_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        if not 0 <= self.discount_min < 1:
            raise ValueError(f"discount_min={self.discount_min}: give γ from 0 to below 1")
        if not self.discount_min <= self.discount_max < 1:
            raise ValueError(
                f"discount_max={self.discount_max}: give γ from discount_min={self.discount_min} to below 1"
            )
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau={self.tau}: give a target step above 0 and at most 1")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate={self.final_rate}: give a share from 0 to 1")

    def discount(self, env: EnvSpec) -> float:
        """γ by the length of the task's episodes."""
        by_length = 1 - self.horizons_per_episode / env.episode_steps
        return min(max(by_length, self.discount_min), self.discount_max)

    def make(self, env: EnvSpec, utd: Fraction, batch_size: int) -> Algorithm:
        """The learner for one task; `batch_size` only enters the FLOP count, σ how long learning rates fall."""
        critic = SphereCritic(self.width, self.blocks, self.atoms, self.critics)
        actor = SphereActor(self.actor_width, self.actor_blocks, env.action_dim)
        networks: Any = (critic, actor)  # flax cannot say what `apply` returns:
        logits, gaussian = (network.apply for network in networks)  # critics × [B, K]; 2 × [B, A]
        adam = optax.scale_by_adam()  # without a learning rate: `descend` applies η by hand
        gamma = self.discount(env)
        support = jnp.linspace(-self.value_max, self.value_max, self.atoms)
        target_entropy = self.entropy_per_action * env.action_dim  # H̄
        decay_updates = float(self.decay_env_steps * utd)

        def init(key: Array, hyper: Hyper) -> TrainState:
            key, critic_key, actor_key = jax.random.split(key, 3)
            obs, action = jnp.zeros(env.obs_dim), jnp.zeros(env.action_dim)
            params = {
                "critic": critic.init(critic_key, obs, action),
                "actor": actor.init(actor_key, obs),
                "log_temperature": jnp.log(jnp.float32(self.initial_temperature)),
            }
            zero, one = jnp.float32(0), jnp.float32(1)
            return TrainState(
                params=params,
                targets=jax.tree.map(jnp.copy, params["critic"]),  # a copy: donated buffers must not be shared
                opt={name: adam.init(p) for name, p in params.items()},
                hyper=hyper,
                key=key,
                updates=jnp.int32(0),
                seen=Seen(
                    *(zero, jnp.zeros(env.obs_dim), jnp.ones(env.obs_dim)),
                    *(jnp.zeros(env.num_envs), jnp.zeros(()), one, jnp.zeros(())),
                ),
            )

        def observe(state: TrainState, obs: Array, reward: Array, over: Array) -> TrainState:
            """Mean and variance of all observations acted on and of all G on the way; and the largest |G|."""
            seen = state.seen
            mean, variance = moments(seen.steps, seen.mean, seen.variance, obs)
            returns = reward + gamma * seen.returns
            return_mean, return_variance = moments(seen.steps, seen.return_mean, seen.return_variance, returns)
            return_max = jnp.maximum(seen.return_max, jnp.abs(returns).max())
            going_on = jnp.where(over, 0.0, returns)
            now = Seen(seen.steps + 1, mean, variance, going_on, return_mean, return_variance, return_max)
            return state.replace(seen=now)

        def normal(seen: Seen, obs: Array) -> Array:
            if not self.normalise_observations:
                return obs
            return (obs - seen.mean) * jax.lax.rsqrt(seen.variance + EPSILON)

        def reward_scale(seen: Seen) -> Array:
            """1 over G's standard deviation; less where the largest |G| would be beyond the support."""
            if not self.normalise_rewards:
                return jnp.ones(())
            return 1 / jnp.maximum(jnp.sqrt(seen.return_variance + EPSILON), seen.return_max / self.value_max)

        def act(state: TrainState, obs: Array, key: Array, explore: bool) -> Array:
            mean, log_std = gaussian(state.params["actor"], normal(state.seen, obs))
            if not explore:
                return jnp.tanh(mean)
            return tanh_gaussian(jax.random.normal(key, mean.shape), mean, log_std)[0]

        def values(of: tuple[Array, ...]) -> list[Array]:
            """The expected return [B] of each critic's logits [B, K]."""
            return [jax.nn.softmax(x) @ support for x in of]

        def actor_loss(actor_params: Any, state: TrainState, batch: Transition, noise: Array) -> tuple[Array, Array]:
            """α log π(a|s) − min Q(s,a), a ~ π; also returns the policy's entropy."""
            action, log_prob = tanh_gaussian(noise, *gaussian(actor_params, batch.obs))
            q = jnp.min(jnp.stack(values(logits(state.params["critic"], batch.obs, action))), axis=0)
            return jnp.mean(jnp.exp(state.params["log_temperature"]) * log_prob - q), -log_prob.mean()

        def target(state: TrainState, batch: Transition, noise: Array) -> Array:
            """The distribution [B, K] of r + γ·m·(Z̄(s′,a′) − α log π(a′|s′)); of two Z̄ the one with the lower mean."""
            next_action, log_prob = tanh_gaussian(noise, *gaussian(state.params["actor"], batch.next_obs))
            both = logits(state.targets, batch.next_obs, next_action)
            lowest = jnp.argmin(jnp.stack(values(both)), axis=0)
            probabilities = jax.nn.softmax(jnp.where((lowest == 0)[:, None], both[0], both[-1]))
            entropy_bonus = -jnp.exp(state.params["log_temperature"]) * log_prob
            later = support + entropy_bonus[:, None]
            return project(probabilities, batch.reward[:, None] + gamma * batch.discount[:, None] * later, support)

        def critic_loss(critic_params: Any, batch: Transition, towards: Array) -> tuple[Array, Metrics]:
            """Σ over the critics of the cross-entropy; also returns the first one's mean value."""
            each = logits(critic_params, batch.obs, batch.action)
            loss = sum(-(towards * jax.nn.log_softmax(x)).sum(-1).mean() for x in each)
            return jnp.asarray(loss), {"q": values(each)[0].mean()}

        def step(state: TrainState, name: str, gradient: Any, learning_rate: Array | float) -> TrainState:
            """Adam by the learning rate that is left at this update, then back to the sphere."""
            left = 1 - (1 - self.final_rate) * jnp.minimum(state.updates / decay_updates, 1.0)
            direction, opt = adam.update(gradient, state.opt[name])
            params = descend(direction, state.params[name], left * learning_rate)
            params = on_sphere(params) if name in ("critic", "actor") else params
            return state.replace(params=state.params | {name: params}, opt=state.opt | {name: opt})

        def update_actor(state: TrainState, batch: Transition, noise: Array) -> tuple[TrainState, Metrics]:
            """The actor; and the temperature, which falls while the policy is more random than H̄."""
            (loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(
                state.params["actor"], state, batch, noise
            )
            rate = state.hyper.learning_rate if self.actor_learning_rate is None else self.actor_learning_rate
            state = step(state, "actor", gradient, rate)
            slope = jnp.exp(state.params["log_temperature"]) * (entropy - target_entropy)  # of α·(H − H̄) by log α
            state = step(state, "log_temperature", slope, self.temperature_learning_rate)
            temperature = jnp.exp(state.params["log_temperature"])
            return state, {"actor_loss": loss, "entropy": entropy, "temperature": temperature}

        def fit(state: TrainState, batch: Transition, towards: Array) -> tuple[TrainState, Metrics]:
            (loss, metrics), gradient = jax.value_and_grad(critic_loss, has_aux=True)(
                state.params["critic"], batch, towards
            )
            return step(state, "critic", gradient, state.hyper.learning_rate), {"critic_loss": loss} | metrics

        def noises(state: TrainState, batch: Transition) -> tuple[Array, Array]:
            """The next key, and noise [2, B, A]: one draw for both losses, half the kernels."""
            key, noise_key = jax.random.split(state.key)
            return key, jax.random.normal(noise_key, (2, *batch.action.shape))

        def scaled(state: TrainState, batch: Transition) -> tuple[Transition, Array]:
            """Observations as the networks see them and scaled rewards; and the scale."""
            scale = reward_scale(state.seen)
            obs, next_obs = normal(state.seen, batch.obs), normal(state.seen, batch.next_obs)
            return batch._replace(obs=obs, next_obs=next_obs, reward=scale * batch.reward), scale

        def lesson(state: TrainState, batch: Transition) -> tuple[Transition, Array]:
            """With the actor and temperature as they are, where `update` has moved them before."""
            rows, _ = scaled(state, batch)
            return rows, target(state, rows, noises(state, batch)[1][1])

        def update(state: TrainState, batch: Transition) -> tuple[TrainState, Metrics]:
            """One step of everything; `q` and the losses are in scaled rewards, `reward_scale` times the task's."""
            key, noise = noises(state, batch)
            batch, scale = scaled(state, batch)
            state, metrics = update_actor(state, batch, noise[0])
            state, of_critic = fit(state, batch, target(state, batch, noise[1]))
            state = state.replace(targets=polyak(state.targets, state.params["critic"], self.tau))
            return state.replace(key=key, updates=state.updates + 1), metrics | of_critic | {"reward_scale": scale}

        shapes = {
            "critic": parameter_shapes(critic, env.obs_dim, env.action_dim),
            "actor": parameter_shapes(actor, env.obs_dim),
            "log_temperature": jnp.float32(0),
        }
        n = {name: count(p) for name, p in shapes.items()}
        # The study's N counts the critics that learn, both of two.
        n |= {"total": sum(n.values()) + n["critic"], "double_critic": n["critic"], "paper": n["critic"]}
        flops, parts = self._flops(shapes, env, batch_size), Critic(lesson, critic_loss, fit)
        return Algorithm(init, act, update, n, flops, observe=observe, critic=parts)

    def _flops(self, shapes: Any, env: EnvSpec, batch_size: int) -> float:
        """Floating-point operations of one update.

        Matrix products, per row 2 a weight and pass; a backward pass costs two forward ones, less the gradient by the
        network's own input where nobody asks for it. Then 7 for each pair of an atom and a value of the support, and 17
        for each parameter (Adam and projection), 3 more for each of the critics' (their targets).
        """
        critic, critic_first = matmul_weights(shapes["critic"]), self.critics * self.width
        actor, actor_first = matmul_weights(shapes["actor"]), env.obs_dim * self.actor_width
        critic_first *= env.obs_dim + env.action_dim
        passes = (3 * actor - actor_first + 2 * critic) + (actor + critic + 3 * critic - critic_first)
        pairs = batch_size * self.atoms**2
        return 2.0 * batch_size * passes + 7 * pairs + 17 * count(shapes) + 3 * count(shapes["critic"])
