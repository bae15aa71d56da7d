"""The simulator's side of the wall: one Isaac Gym task, served to another process on this machine.

    python3.8 isaac_server.py SOCKET

Isaac Gym ends at Python 3.8 and JAX begins above it, so they cannot share a process. This script is started by
rlscale/benchmarks/isaacgym.py with the interpreter of Isaac Gym's environment; it imports nothing of rlscale and keeps
to Python 3.8. It connects to the Unix socket SOCKET and answers one message with one message until the other side
closes the socket, which is also what happens if that side dies.

A message is four bytes of length, most significant first, and so many bytes of JSON.

    make    {do, protocol, task, num_envs, seed, device, reset_in_step, memory}, the first
            -> {protocol, task, num_envs, obs_dim, action_dim, max_episode_length, versions, arrays}
    reset   {do} -> {}   every environment begins an episode: `obs`
    step    {do} -> {}   applies `action`: `final_obs`, `reward`, `ended`, `timed_out`, `obs`

An answer with the key `error` says what went wrong, and is the last. The arrays live in the file `memory` beside the
socket, which this side creates and both map; `arrays` says where: {name: [offset in bytes, dtype, shape]}.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import mmap
import os
import platform
import random
import socket
import sys
from importlib import metadata
from typing import Any

PROTOCOL = 1  # raise it with every change of the messages or of what the arrays mean
ALIGN = 64  # bytes, where an array may begin


class Refused(Exception):
    """The simulator cannot do what it was asked; `answer` tells the other side."""

    def __init__(self, error: str, **details: Any) -> None:
        super().__init__(error)
        self.answer = dict(details, error=error)


class Simulator:
    """A task of isaacgymenvs, seen through arrays that another process maps.

    Isaac Gym resets an ended environment inside the *next* step, after its physics: the transition of that step leads
    from one episode's last observation to the next one's first, whatever the action was. With `reset_in_step` an ended
    environment is reset before its step returns, by the calls that the next step would have made (the task's own
    `reset_idx` and `compute_observations`), so that no step is lost and none is spurious.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self.env, self.torch = made(order)
        self.reset_in_step = order["reset_in_step"]
        if self.reset_in_step:
            check_reset_in_step(self.env)
        envs, obs_dim, action_dim = order["num_envs"], width(self.env.observation_space), width(self.env.action_space)
        if self.env.num_envs != envs:
            raise Refused("make", says=f"it made {self.env.num_envs} environments of {envs}")
        layout = {
            "action": ("<f4", (envs, action_dim)),
            "obs": ("<f4", (envs, obs_dim)),
            "final_obs": ("<f4", (envs, obs_dim)),
            "reward": ("<f4", (envs,)),
            "ended": ("|b1", (envs,)),
            "timed_out": ("|b1", (envs,)),
        }
        self.arrays, places = shared(order["memory"], layout)
        self.about = {
            "protocol": PROTOCOL,
            "task": order["task"],
            "num_envs": envs,
            "obs_dim": obs_dim,
            "action_dim": action_dim,
            "max_episode_length": int(self.env.max_episode_length),
            "versions": versions(),
            "arrays": places,
        }

    def reset(self) -> None:
        """Every environment begins an episode; the task's own `reset` only returns what it holds, at first zeros."""
        self.env.reset_buf.fill_(1)
        self.take(self.env.step(self.env.zero_actions()))

    def step(self) -> None:
        """Apply `action` [N, A] in [-1, 1]."""
        action = self.torch.from_numpy(self.arrays["action"].copy())  # a tensor of its own: the task may keep it
        self.take(self.env.step(action.to(self.env.rl_device)))

    def take(self, results: Any) -> None:
        """Copy out what a step returned: these are the task's own buffers, which its next call changes."""
        obs, reward, resets, extras = results
        out = self.arrays
        out["final_obs"][:] = host(obs["obs"])
        out["reward"][:] = host(reward)
        out["ended"][:] = host(resets) != 0  # int64, as the task keeps it
        out["timed_out"][:] = (host(extras["time_outs"]) != 0) & out["ended"]
        out["obs"][:] = out["final_obs"]
        if self.reset_in_step and out["ended"].any():
            out["obs"][out["ended"]] = self.begun()[out["ended"]]

    def begun(self) -> Any:
        """Reset what ended; returns all observations [N, O], clipped as a step clips them.

        Unlike the task's own step this does not judge the first states, which no task begins with an end.
        """
        env = self.env
        env.reset_idx(env.reset_buf.nonzero(as_tuple=False).flatten())
        if host(env.reset_buf).any():  # else the next step would reset them once more
            raise Refused("reset_in_step", says="its reset_idx leaves reset_buf set")
        env.compute_observations()
        return host(env.obs_buf).clip(-env.clip_obs, env.clip_obs)


def made(order: dict[str, Any]) -> tuple[Any, Any]:
    """The task as isaacgymenvs makes it, and torch."""
    try:
        import isaacgym  # noqa: F401  the first of all: it refuses to be imported after torch
        import isaacgymenvs
        import numpy as np
        import torch
        from isaacgymenvs.tasks import isaacgym_task_map
    except ImportError as error:
        raise Refused("import", says=one_line(error)) from error
    if order["task"] not in isaacgym_task_map:
        raise Refused("task", known=sorted(isaacgym_task_map))
    # `make` takes a seed and, on a single GPU, uses it for nothing
    random.seed(order["seed"])
    np.random.seed(order["seed"])
    torch.manual_seed(order["seed"])
    env = isaacgymenvs.make(
        seed=order["seed"],
        task=order["task"],
        num_envs=order["num_envs"],
        sim_device=order["device"],
        rl_device=order["device"],
        graphics_device_id=-1,
        headless=True,
        multi_gpu=False,
        virtual_screen_capture=False,
        force_render=False,  # true by default, which costs time even without a screen
    )
    return env, torch


def check_reset_in_step(env: Any) -> None:
    """Whether the task can be reset from outside of its step; some cannot."""
    if not callable(getattr(env, "compute_observations", None)):
        raise Refused("reset_in_step", says="it has no compute_observations")
    needed = [p.name for p in inspect.signature(env.reset_idx).parameters.values() if p.default is p.empty]
    if len(needed) != 1:
        raise Refused("reset_in_step", says="its reset_idx takes {}".format(" and ".join(needed)))
    if getattr(env, "dr_randomizations", {}).get("observations"):
        raise Refused("reset_in_step", says="it adds noise to its observations, which a reset of ours would lack")


def shared(path: str, layout: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays in a new file that both sides map, and where each lies in it.

    A mapped file and not multiprocessing.shared_memory, whose tracker in Python 3.8 takes whoever attaches to a block
    for its owner and removes it with that process. The other side unlinks the file as soon as it is mapped, so nothing
    is left behind however either side ends.
    """
    import numpy as np

    places, size = {}, 0
    for name, (dtype, shape) in layout.items():
        places[name] = [size, dtype, list(shape)]
        size += -(-np.dtype(dtype).itemsize * int(np.prod(shape)) // ALIGN) * ALIGN
    with open(path, "x+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # too little memory is an error here, and later a crash
        memory = mmap.mmap(file.fileno(), size)
    return {name: np.ndarray(shape, dtype, memory, at) for name, (at, dtype, shape) in places.items()}, places


def versions() -> dict[str, Any]:
    """What simulates, for the record."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("isaacgym", "isaacgymenvs", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = getattr(sys.modules[name], "__version__", None)
    return found


def width(space: Any) -> int:
    """The length of a flat space's vectors."""
    return int(space.shape[0])


def host(tensor: Any) -> Any:
    """A tensor's values as a NumPy array, which on a CPU shares its memory."""
    return tensor.detach().cpu().numpy()


def one_line(error: BaseException) -> str:
    """An error's kind and words, however many lines they have."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Raises ConnectionError if the other side is gone."""
    body = json.dumps(message).encode()
    channel.sendall(len(body).to_bytes(4, "big") + body)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message, or None if the other side is gone."""

    def exactly(count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = channel.recv(count - len(got))
            if not more:
                raise EOFError
            got += more
        return got

    try:
        message: dict[str, Any] = json.loads(exactly(int.from_bytes(exactly(4), "big")))
    except (EOFError, ConnectionError):
        return None
    return message


def serve(channel: socket.socket) -> None:
    """Answer until the other side closes the channel, or an error ends the service."""
    simulator = None
    while True:
        order = receive(channel)
        if order is None:
            return
        answer: dict[str, Any] = {}
        try:
            if order["do"] == "make":
                if order["protocol"] != PROTOCOL:
                    raise Refused("protocol", protocol=PROTOCOL)
                simulator = Simulator(order)
                answer = simulator.about
            else:
                {"reset": simulator.reset, "step": simulator.step}[order["do"]]()  # type: ignore[union-attr]
        except Refused as refused:
            answer = refused.answer
        except Exception as error:
            answer = {"error": order["do"], "says": one_line(error)}
        send(channel, answer)
        if "error" in answer:
            return


def main() -> None:
    # This folder holds plugins of rlscale for Hydra, which isaacgymenvs uses too: its Hydra must not find them.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what it prints last may tell why it died
    (control,) = sys.argv[1:]
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(control)
    with contextlib.suppress(ConnectionError):  # the other side is gone while we answer
        serve(channel)
    folder = os.path.dirname(control)
    for remove, path in ((os.unlink, control), (os.unlink, os.path.join(folder, "memory")), (os.rmdir, folder)):
        with contextlib.suppress(OSError):  # the other side does this, unless it is killed while we start
            remove(path)
    os._exit(0)  # the simulator's own end may take long or crash, and nothing of it is wanted


if __name__ == "__main__":
    main()
