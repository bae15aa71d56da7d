"""Isaac Gym's tasks by the names of IsaacGymEnvs, simulated by another process with another Python.

Isaac Gym ends at Python 3.8, so launchers/isaac_server.py owns the simulator and this file speaks to it: messages over
a Unix socket, observations and actions through shared memory. Every wait has an end, a server that dies or hangs is one
sentence, and a server whose other side is gone ends by itself. Which interpreter and which GPU are the machine's
business and no part of a run's identity: they come from the environment (conf/benchmark/isaacgym.yaml says how).
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlscale.typed import Mistake, nearest
from rlscale.types import EnvSpec, HostEnv, Step

SERVER = Path(__file__).resolve().parents[2] / "launchers" / "isaac_server.py"
PROTOCOL = 1  # the server has the same number; raised with every change of what they say to each other
POLL_S = 0.02  # between two looks at a server that is starting
GRACE_S = 5.0  # for a server to end by itself
PYTHON, DEVICE, TIMEOUT, LOG = (f"RLSCALE_ISAAC_{name}" for name in ("PYTHON", "DEVICE", "TIMEOUT", "LOG"))


class SimulatorLost(Mistake):
    """The simulator's process died or hangs. No mistake of the user's, but it ends as one does: in one sentence."""


@dataclass(frozen=True)
class IsaacGym:
    """Benchmark suite `isaacgym` (conf/benchmark/isaacgym.yaml), run by the host executor.

    Isaac Gym resets an ended environment inside the next step, so that one transition per episode leads from its last
    observation to the next one's first. With `spurious_transition` that is what the learner sees, as in all published
    results of PQL; without, an environment is reset in the step that ends its episode, by the two calls that the next
    step would have made. A task that cannot be reset so is refused, since no made-up row could stand for the spurious
    one: a terminal row at the last observation would teach that it is worth nothing, and after a time-out it is not.

    A true end in the very step of the time limit cannot be told from a time-out in what the simulator returns, and
    counts as one here.
    """

    name: str
    task: str
    num_envs: int
    spurious_transition: bool

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of environments, 1 or more")

    def spec(self) -> EnvSpec:
        """The task's shapes, from a simulator of one environment; raises Mistake if there is none or no such task.

        `episode_steps` is the limit that IsaacGymEnvs' rewards keep to: they end an episode one step before its
        `max_episode_length`, which with the spurious transition is that many steps again.
        """
        about = _about(self.task, self.spurious_transition, machine())
        limit = about["max_episode_length"] - (not self.spurious_transition)
        return EnvSpec(about["obs_dim"], about["action_dim"], limit)

    def make(self, seed: int) -> HostEnv:
        """`num_envs` environments in a process of their own, whose generators are seeded with `seed`.

        Isaac Gym draws for all environments at once, so one of them is not the same in another number of them; and on
        a GPU its physics does not repeat to the bit. Raises Mistake as `spec` does.
        """
        return _Environments(self, seed, machine())


class Machine(NamedTuple):
    """What depends on where a run runs."""

    python: str  # the command that starts the interpreter of Isaac Gym's environment
    device: str  # of physics and tensors
    timeout_s: float  # the longest that one answer may take; the first includes making the simulator
    log: str | None  # a file for what the simulator prints


def machine() -> Machine:
    """This machine's settings, from the environment; raises Mistake for a time-out that is none."""
    text = os.environ.get(TIMEOUT, "300")
    try:
        timeout_s = float(text)
        if not 0 < timeout_s < float("inf"):
            raise ValueError
    except ValueError:
        raise Mistake(f"{TIMEOUT}={text}: this is not a time; give seconds above 0, such as 300") from None
    return Machine(
        os.environ.get(PYTHON, "python3.8"), os.environ.get(DEVICE, "cuda:0"), timeout_s, os.environ.get(LOG)
    )


@functools.cache  # shapes are asked for by the door, the loop and the estimates: start a simulator once
def _about(task: str, spurious_transition: bool, where: Machine) -> dict[str, Any]:
    server = _Server(task, 1, 0, spurious_transition, where)
    server.close()
    return server.about


class _Environments:
    """A `HostEnv` of environments on the other side of the wall."""

    def __init__(self, suite: IsaacGym, seed: int, where: Machine) -> None:
        self._server = _Server(suite.task, suite.num_envs, seed, suite.spurious_transition, where)

    @property
    def versions(self) -> dict[str, str | None]:
        """Of the simulator's python, isaacgym, isaacgymenvs and torch, as the server says."""
        return dict(self._server.about["versions"])

    def reset(self) -> np.ndarray:
        """Start an episode in every environment; returns obs [E, obs_dim]."""
        self._server.ask("reset")
        return self._server.arrays["obs"].copy()

    def step(self, action: Any) -> Step:
        """Apply action [E, action_dim] in [-1, 1]; observations come clipped as the task's configuration says."""
        shared = self._server.arrays
        np.clip(action, -1.0, 1.0, out=shared["action"])
        self._server.ask("step")
        ended, truncated = shared["ended"], shared["timed_out"].copy()
        final_obs = shared["final_obs"].copy()
        obs = shared["obs"].copy() if ended.any() else final_obs
        return Step(obs, shared["reward"].copy(), ended & ~truncated, truncated, final_obs)

    def close(self) -> None:
        """End the simulator's process and give back the shared memory."""
        self._server.close()


class _Server:
    """A process with a simulator: `about` is what it said of the task, `arrays` what it shares."""

    def __init__(self, task: str, num_envs: int, seed: int, spurious_transition: bool, where: Machine) -> None:
        self._task, self._where = task, where
        # The file and the socket have names only until both sides hold them: nothing is left however either ends.
        home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix=f"rlscale-isaac-{os.getpid()}-", dir=home) as folder:
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(f"{folder}/control")
                door.listen(1)
                self._start(f"{folder}/control")
                try:
                    self._channel = self._accept(door)
                    self._stop = weakref.finalize(self, _end, self._process, self._channel, self._log)
                except BaseException:
                    _end(self._process, None, self._log, grace_s=0)
                    raise
            order = {"task": task, "num_envs": num_envs, "seed": seed, "device": where.device, "protocol": PROTOCOL}
            with self._ended_by_errors():
                self.about = self.ask("make", **order, reset_in_step=not spurious_transition, memory=f"{folder}/memory")
                if self.about["protocol"] != PROTOCOL:
                    raise self._mistake({"error": "protocol", "protocol": self.about["protocol"]})
                with open(f"{folder}/memory", "r+b") as file:
                    memory = mmap.mmap(file.fileno(), 0)
        self.arrays: dict[str, np.ndarray] = {
            name: np.ndarray(shape, dtype, memory, at) for name, (at, dtype, shape) in self.about["arrays"].items()
        }

    def _start(self, control: str) -> None:
        log, command = self._where.log, self._where.python
        self._log: Any = tempfile.TemporaryFile() if log is None else open(log, "a+b")
        try:
            # A session of its own, so that Ctrl-C reaches this side alone, which then ends the other in good order.
            self._process = subprocess.Popen(
                [*shlex.split(command), str(SERVER), control],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            mend = f"set {PYTHON} to the interpreter of Isaac Gym's environment"
            said = f"{command} cannot be run ({error.strerror})"
            raise Mistake(f"benchmark=isaacgym: {said}; {mend}") from ImportError(said)

    def _accept(self, door: socket.socket) -> socket.socket:
        """The server's connection, which is the first thing that it makes."""
        deadline = time.monotonic() + self._where.timeout_s
        door.settimeout(POLL_S)
        while self._process.poll() is None:
            with contextlib.suppress(TimeoutError):
                return door.accept()[0]
            if time.monotonic() > deadline:
                raise self._silent("start")
        raise self._dead("start")

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """The answer to an order; raises SimulatorLost if none comes, Mistake or SimulatorLost if it is a refusal."""
        with self._ended_by_errors():
            try:
                body = json.dumps({"do": what, **details}).encode()
                deadline = time.monotonic() + self._where.timeout_s
                self._channel.settimeout(self._where.timeout_s)
                self._channel.sendall(len(body).to_bytes(4, "big") + body)
                length = int.from_bytes(self._exactly(4, deadline), "big")
                answer: dict[str, Any] = json.loads(self._exactly(length, deadline))
            except TimeoutError:
                raise self._silent(what) from None
            except (EOFError, ConnectionError):
                raise self._dead(what) from None
            if "error" in answer:
                raise self._mistake(answer)
            return answer

    def _exactly(self, count: int, deadline: float) -> bytes:
        got = b""
        while len(got) < count:
            self._channel.settimeout(max(deadline - time.monotonic(), 1e-3))
            more = self._channel.recv(count - len(got))
            if not more:
                raise EOFError
            got += more
        return got

    @contextlib.contextmanager
    def _ended_by_errors(self) -> Any:
        """An error ends the server: at once, for it may hang."""
        try:
            yield
        except BaseException:
            if self._stop.detach():
                _end(self._process, self._channel, self._log, grace_s=0)
            raise

    def _mistake(self, answer: dict[str, Any]) -> Mistake:
        """What the server refused, as a sentence."""
        error, says, task = answer["error"], answer.get("says"), self._task
        if error == "task":
            return Mistake(f"benchmark.task={task}: isaacgymenvs has no such task; {nearest(task, answer['known'])}")
        if error == "reset_in_step":
            return Mistake(
                f"benchmark.task={task}: it cannot be reset in the step that ends its episode ({says}); set "
                "benchmark.spurious_transition=true, as in PQL's published results"
            )
        if error == "protocol":
            return Mistake(
                f"benchmark=isaacgym: {SERVER} speaks protocol {answer['protocol']} and this rlscale {PROTOCOL}; "
                "bring both to one version"
            )
        if error == "import":
            mistake = Mistake(
                f"benchmark=isaacgym: {self._where.python} cannot import the simulator ({says}); set {PYTHON} to the "
                "interpreter of an environment with isaacgym and isaacgymenvs"
            )
            mistake.__cause__ = ImportError(says)
            return mistake
        if error == "make":
            return Mistake(f"benchmark.task={task}: isaacgymenvs could not make it on {self._where.device}; {says}")
        return SimulatorLost(f"benchmark.task={task}: the simulator failed in {error}; {says}")

    def _silent(self, what: str) -> SimulatorLost:
        return SimulatorLost(
            f"benchmark.task={self._task}: the simulator (process {self._process.pid}) did not answer within "
            f"{self._where.timeout_s:g} s when told to {what}, and was ended; {TIMEOUT} gives it longer"
            f"{self._last_words()}"
        )

    def _dead(self, what: str) -> SimulatorLost:
        try:
            code = self._process.wait(GRACE_S)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "closed its channel"
        return SimulatorLost(
            f"benchmark.task={self._task}: the simulator (process {self._process.pid}) {how} when told to {what}"
            f"{self._last_words()}"
        )

    def _last_words(self) -> str:
        """What it printed last."""
        self._log.seek(max(self._log.seek(0, os.SEEK_END) - 2000, 0))
        lines = self._log.read().decode(errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"; it printed last: {words}" if words else f"; it printed nothing ({LOG} names a file to keep it in)"

    def close(self) -> None:
        """End the process and give back the memory; once is enough."""
        self.arrays = {}
        self._stop()


def _end(process: Any, channel: socket.socket | None, log: Any, grace_s: float = GRACE_S) -> None:
    """End a server: closing its channel is asking it to, and then it is made to."""
    if channel is not None:
        channel.close()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session: the interpreter may be behind a wrapper
        process.wait()
    log.close()
