"""The server of `benchmark=isaacgym` as a process: how it begins and ends, and one sentence for what goes wrong."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.benchmarks import isaacgym as suite
from rlscale.benchmarks.isaacgym import SimulatorLost
from rlscale.typed import Mistake
from tests.benchmarks.isaac_machine import PACKAGES, E, interpreter, made

pytestmark = pytest.mark.usefixtures("machine")


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process ends in time; one that waits for its parent to look counts as ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def named(pid: int) -> list[str]:
    """Whatever this process or a server of its has in memory under a name; others may be starting servers now."""
    return [entry for entry in os.listdir("/dev/shm") if entry.startswith(f"rlscale-isaac-{pid}-")]


# Who is on the other side


@pytest.mark.slow
def test_the_server_says_who_it_is() -> None:
    with closing(made()) as env:
        assert env.versions["python"] == ".".join(map(str, sys.version_info[:3]))
        assert env.versions["torch"] == "0.standin" and set(env.versions) == {"python", *PACKAGES}


def test_closing_ends_the_server_and_frees_the_memory() -> None:
    env = made()
    pid = env._server._process.pid
    assert f"/rlscale-isaac-{os.getpid()}-" in Path("/proc/self/maps").read_text() and not named(os.getpid())
    env.close()
    env.close()
    assert gone(pid, within_s=0.1) and "rlscale-isaac" not in Path("/proc/self/maps").read_text()


@pytest.mark.slow
def test_forgetting_an_environment_ends_its_server() -> None:
    env = made()
    pid = env._server._process.pid
    del env
    assert gone(pid)


@pytest.mark.slow
def test_the_server_ends_when_the_other_side_is_gone(tmp_path: Path) -> None:
    """What it sees of a killed parent is a closed channel, also before anything was made; names go with it."""
    for made_before in (False, True):
        folder = tmp_path / str(made_before)
        folder.mkdir()
        process, channel = dialled(folder)
        with process, channel:
            if made_before:
                assert told(channel, make_order(folder / "memory"))["obs_dim"] == 6
            channel.close()
            assert process.wait(10) == 0
        assert not folder.exists()


@pytest.mark.slow  # a Python with JAX comes up in the middle
def test_a_killed_parent_leaves_nothing() -> None:
    code = """
        import os, signal
        from rlscale.benchmarks.isaacgym import IsaacGym
        env = IsaacGym("isaacgym", "Ant", 3, False).make(0)
        print(os.getpid(), env._server._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    parent, server = map(int, done.stdout.split())
    assert gone(server) and not named(parent)


def dialled(folder: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A server and this test's end of the channel to it."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "control"))
        door.listen(1)
        process = subprocess.Popen(
            [*shlex.split(os.environ["RLSCALE_ISAAC_PYTHON"]), str(suite.SERVER), str(folder / "control")]
        )
        door.settimeout(10)
        channel = door.accept()[0]
    channel.settimeout(10)
    return process, channel


def make_order(memory: Path, **changes: Any) -> dict[str, Any]:
    order = {"do": "make", "protocol": suite.PROTOCOL, "task": "Ant", "num_envs": 2, "seed": 0, "device": "cuda:0"}
    return order | {"reset_in_step": True, "memory": str(memory)} | changes


def told(channel: socket.socket, order: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(order).encode()
    channel.sendall(len(body).to_bytes(4, "big") + body)
    return json.loads(channel.recv(int.from_bytes(channel.recv(4), "big")))


@pytest.mark.slow
def test_the_simulators_hydra_finds_no_plugin_of_ours() -> None:
    """The server lies in the folder that holds them, which Python puts on the path of a script."""
    made("Cartpole").close()


# What goes wrong


def sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert isinstance(error.value, Mistake) and "\n" not in text
    return text


def test_a_killed_server_is_a_sentence() -> None:
    with closing(made()) as env:
        env.reset()
        pid = env._server._process.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SimulatorLost) as error:
            env.step(np.zeros((E, 2), np.float32))
    assert sentence(error) == (
        f"benchmark.task=Ant: the simulator (process {pid}) was killed by SIGKILL when told to step; it printed last: "
        "num envs 3 env spacing 5"
    )
    assert not named(os.getpid())


@pytest.mark.slow
def test_a_server_that_stops_answering_is_a_sentence_within_its_time(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("RLSCALE_ISAAC_TIMEOUT", "1.5")
    with closing(made()) as env:
        env.reset()
        pid = env._server._process.pid
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(SimulatorLost, match=r"did not answer within 1\.5 s when told to step, and was ended; RLS"):
            env.step(np.zeros((E, 2), np.float32))
        assert 1.4 < time.monotonic() - started < 5
        assert gone(pid, within_s=1)


@pytest.mark.slow
def test_a_simulator_that_never_comes_up_is_a_sentence_within_its_time(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("RLSCALE_ISAAC_TIMEOUT", "2")
    with pytest.raises(
        SimulatorLost, match=r"^benchmark\.task=Quadcopter: .* did not answer within 2 s when told to ma"
    ):
        made("Quadcopter")
    assert not named(os.getpid())


@pytest.mark.slow
def test_an_interpreter_that_never_connects_is_a_sentence_within_its_time(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("RLSCALE_ISAAC_TIMEOUT", "0.3")
    machine.setenv("RLSCALE_ISAAC_PYTHON", "sh -c 'sleep 600'")
    with pytest.raises(SimulatorLost, match=r"did not answer within 0\.3 s when told to start, and was ended"):
        made()
    machine.setenv("RLSCALE_ISAAC_PYTHON", "sh -c 'echo no libpython3.8.so >&2; exit 127'")
    with pytest.raises(
        SimulatorLost, match=r"ended with exit code 127 when told to start; .* last: no libpython3\.8\.so"
    ):
        made()


def test_a_simulator_that_ends_its_process_is_a_sentence() -> None:
    with pytest.raises(
        SimulatorLost, match=r"exit code 0 when told to make; it printed last: \*\*\* Failed to create sim"
    ):
        made("FactoryTaskGears")


@pytest.mark.slow
def test_a_step_that_breaks_is_a_sentence() -> None:
    with closing(made("Ingenuity")) as env:
        env.reset()
        with pytest.raises(SimulatorLost) as error:
            for _ in range(20):
                env.step(np.zeros((E, 2), np.float32))
    assert sentence(error) == (
        "benchmark.task=Ingenuity: the simulator failed in step; "
        "RuntimeError: CUDA error: an illegal memory access was encountered"
    )


def test_a_wrong_task_is_a_sentence() -> None:
    with pytest.raises(Mistake) as error:
        made("BalBalance")
    assert sentence(error) == "benchmark.task=BalBalance: isaacgymenvs has no such task; did you mean BallBalance?"


@pytest.mark.parametrize("theirs", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_another_version_of_the_server_is_a_sentence(theirs: int, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "isaac_server.py"
    other.write_text(suite.SERVER.read_text().replace("PROTOCOL = 1", f"PROTOCOL = {theirs}"))
    machine.setattr(suite, "SERVER", other)
    with pytest.raises(Mistake) as error:
        made()
    assert sentence(error) == (
        f"benchmark=isaacgym: {other} speaks protocol {theirs} and this rlscale 1; bring both to one version"
    )
    # and one that does not look
    other.write_text(other.read_text().replace('if order["protocol"] != PROTOCOL:', "if False:"))
    with pytest.raises(Mistake, match=f"speaks protocol {theirs} and this rlscale 1; bring both to one version$"):
        made()


def test_an_interpreter_that_is_missing_is_a_sentence(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("RLSCALE_ISAAC_PYTHON", "/no/such/python3.8")
    with pytest.raises(Mistake) as error:
        made()
    assert sentence(error) == (
        "benchmark=isaacgym: /no/such/python3.8 cannot be run (No such file or directory); set RLSCALE_ISAAC_PYTHON to "
        "the interpreter of Isaac Gym's environment"
    )


def test_a_simulator_that_is_missing_is_a_sentence(machine: pytest.MonkeyPatch) -> None:
    interpreter(machine)
    with pytest.raises(Mistake) as error:
        made()
    assert "cannot import the simulator (ModuleNotFoundError: No module named 'isaacgym'); set RLSCALE" in sentence(
        error
    )
    assert isinstance(error.value.__cause__, ImportError)  # by which tests tell what is not installed


@pytest.mark.parametrize("text", ["soon", "0", "inf"])
def test_a_time_out_that_is_none_is_a_sentence(text: str, machine: pytest.MonkeyPatch) -> None:
    machine.setenv("RLSCALE_ISAAC_TIMEOUT", text)
    with pytest.raises(Mistake, match=f"^RLSCALE_ISAAC_TIMEOUT={text}: "):
        made()


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("ShadowHand", "its reset_idx takes env_ids and goal_env_ids"),
        ("Trifinger", "it has no compute_observations"),
        ("AllegroHandADR", "it adds noise to its observations"),
        ("HumanoidAMP", "its reset_idx leaves reset_buf set"),
    ],
)
def test_a_task_that_cannot_be_reset_in_its_step_is_a_sentence(task: str, why: str) -> None:
    with pytest.raises(Mistake) as error, closing(made(task)) as env:
        env.reset()
        for _ in range(40):
            env.step(np.zeros((E, 2), np.float32))
    said = sentence(error)
    assert said.startswith(f"benchmark.task={task}: it cannot be reset in the step that ends its episode ({why}")
    assert said.endswith("set benchmark.spurious_transition=true, as in PQL's published results")


@pytest.mark.slow
def test_the_log_keeps_what_the_simulator_prints(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setenv("RLSCALE_ISAAC_LOG", str(tmp_path / "log"))
    made().close()
    assert (tmp_path / "log").read_text() == "num envs 3 env spacing 5\n"
