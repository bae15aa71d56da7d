"""Tasks with the life cycle of the package's VecTask, under names of the package's; what they simulate is our own.

A point [x, y] with a velocity is pushed towards a place that an episode draws. Each row is a world of its own whose
k-th episode begins the same whatever the other rows do, so that a test can follow one row.
"""

import os
import sys
import time

import numpy as np
import torch

DT = 0.1


class Space:
    def __init__(self, size):
        self.shape = (size,)


class VecTask:
    """Reset inside the next step, after its physics; buffers by reference; int64 resets; time-outs in extras."""

    max_episode_length = 40  # the step that ends an episode is the one at which progress_buf is this less 1
    clip_obs = 5.0
    clip_actions = 1.0
    bound = float("inf")  # an episode truly ends beyond this distance from the origin
    num_obs, num_actions = 6, 2

    def __init__(self, num_envs, rl_device, headless, force_render):
        assert headless and not force_render
        self.num_envs, self.device, self.rl_device = num_envs, "cpu", rl_device
        self.observation_space, self.action_space = Space(self.num_obs), Space(self.num_actions)
        self.dr_randomizations = {}
        self.obs_buf = torch.zeros((num_envs, self.num_obs), dtype=torch.float, device=self.device)
        self.rew_buf = torch.zeros(num_envs, dtype=torch.float, device=self.device)
        self.reset_buf = torch.ones(num_envs, dtype=torch.long, device=self.device)
        self.progress_buf = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self.position = torch.zeros((num_envs, 2), dtype=torch.float, device=self.device)
        self.velocity = torch.zeros((num_envs, 2), dtype=torch.float, device=self.device)
        self.target = torch.zeros((num_envs, 2), dtype=torch.float, device=self.device)
        self.extras, self.obs_dict = {}, {}
        self.seed = torch.initial_seed()  # all randomness comes from torch's
        self.episodes = [0] * num_envs

    def zero_actions(self):
        return torch.zeros((self.num_envs, self.num_actions), dtype=torch.float, device=self.rl_device)

    def reset(self):
        """Resets nothing."""
        self.obs_dict["obs"] = torch.clamp(self.obs_buf, -self.clip_obs, self.clip_obs).to(self.rl_device)
        return self.obs_dict

    def reset_idx(self, env_ids):
        for i in env_ids.cpu().numpy():
            drawn = np.random.default_rng((self.seed, int(i), self.episodes[i])).uniform(-1, 1, 4).astype(np.float32)
            self.episodes[i] += 1
            self.position[i] = torch.from_numpy(drawn[:2])
            self.target[i] = torch.from_numpy(drawn[2:])
            self.velocity[i] = 0.0
        self.progress_buf[env_ids] = 0
        self.reset_buf[env_ids] = 0

    def compute_observations(self):
        self.obs_buf[:, 0:2] = 4.0 * self.position  # so that some are beyond clip_obs
        self.obs_buf[:, 2:4] = self.velocity
        self.obs_buf[:, 4:6] = self.target

    def compute_reward(self):
        self.rew_buf[:] = -((self.position - self.target) ** 2).sum(-1)
        over = (self.progress_buf >= self.max_episode_length - 1) | ((self.position**2).sum(-1) > self.bound**2)
        self.reset_buf[:] = torch.where(over, torch.ones_like(self.reset_buf), self.reset_buf)

    def pre_physics_step(self, actions):
        self.actions = actions.clone().to(self.device)

    def simulate(self):
        self.velocity += DT * self.actions
        self.position += DT * self.velocity

    def post_physics_step(self):
        self.progress_buf += 1
        env_ids = self.reset_buf.nonzero(as_tuple=False).flatten()
        if len(env_ids) > 0:
            self.reset_idx(env_ids)
        self.compute_observations()
        self.compute_reward()

    def step(self, actions):
        self.pre_physics_step(torch.clamp(actions, -self.clip_actions, self.clip_actions))
        self.simulate()
        self.post_physics_step()
        self.timeout_buf = (self.progress_buf >= self.max_episode_length - 1) & (self.reset_buf != 0)
        self.extras["time_outs"] = self.timeout_buf.to(self.rl_device)
        self.obs_dict["obs"] = torch.clamp(self.obs_buf, -self.clip_obs, self.clip_obs).to(self.rl_device)
        return self.obs_dict, self.rew_buf.to(self.rl_device), self.reset_buf.to(self.rl_device), self.extras


class Ant(VecTask):
    """Ends by time-out only."""


class BallBalance(VecTask):
    """Truly ends when the point is too far out, at times in the very step of the time-out."""

    bound = 1.5  # no episode begins beyond it
    clip_actions = float("inf")


class ShadowHand(VecTask):
    """Resets before physics, with two arguments."""

    def reset_idx(self, env_ids, goal_env_ids):
        super().reset_idx(env_ids)

    def pre_physics_step(self, actions):
        env_ids = self.reset_buf.nonzero(as_tuple=False).flatten()
        if len(env_ids) > 0:
            self.reset_idx(env_ids, env_ids)
        super().pre_physics_step(actions)


class HumanoidAMP(VecTask):
    """Leaves its resets marked."""

    def reset_idx(self, env_ids):
        super().reset_idx(env_ids)
        self.reset_buf[env_ids] = 1


class Trifinger(VecTask):
    """Has another name for its observations."""

    compute_observations = None

    def post_physics_step(self):
        self.compute_observations = super().compute_observations
        super().post_physics_step()


class AllegroHandADR(VecTask):
    """Adds noise to its observations."""

    def __init__(self, *args):
        super().__init__(*args)
        self.dr_randomizations = {"observations": {"noise_lambda": lambda obs: obs}}


class Ingenuity(VecTask):
    """Breaks in its tenth step."""

    def simulate(self):
        super().simulate()
        if self.progress_buf[0] == 9:
            raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")


class Cartpole(VecTask):
    """Fails where the path leads to plugins of rlscale: the package's Hydra would import them into another Python."""

    def __init__(self, *args):
        assert not [entry for entry in sys.path if os.path.basename(entry) == "launchers"], sys.path
        super().__init__(*args)


class Quadcopter(VecTask):
    """Never comes up, as when the GPU is busy."""

    def __init__(self, *args):
        time.sleep(600)


class FactoryTaskGears(VecTask):
    """Ends the process instead of making a simulator, as the package does."""

    def __init__(self, *args):
        print("*** Failed to create sim", flush=True)
        os._exit(0)


class FrankaCubePush(VecTask):
    """Not in the package but in a fork of it."""


isaacgym_task_map = {
    task.__name__: task
    for task in (
        AllegroHandADR,
        Ant,
        BallBalance,
        Cartpole,
        FactoryTaskGears,
        FrankaCubePush,
        HumanoidAMP,
        Ingenuity,
        Quadcopter,
        ShadowHand,
        Trifinger,
    )
}
