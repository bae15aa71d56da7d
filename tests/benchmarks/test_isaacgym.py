"""The `isaacgym` suite against the stand-ins of isaacgym, isaacgymenvs and torch (tests/standins), whole.

The server runs as it does on a machine with Isaac Gym, in a process of its own; only its packages are the stand-ins,
whatever interpreter the environment names.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.benchmarks import isaacgym as suite
from rlscale.benchmarks.isaacgym import IsaacGym, SimulatorLost
from rlscale.typed import Mistake

STANDINS = Path(__file__).resolve().parents[1] / "standins"
E, SEED = 3, 7
WITH_STANDINS = [str(STANDINS / "isaac"), str(STANDINS / "isaac_torch")]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-ins, on which a server that never answers costs a test ten seconds at most."""
    interpreter(monkeypatch, *WITH_STANDINS)
    monkeypatch.setenv("RLSCALE_ISAAC_TIMEOUT", "10")
    monkeypatch.delenv("RLSCALE_ISAAC_DEVICE", raising=False)
    monkeypatch.delenv("RLSCALE_ISAAC_LOG", raising=False)
    suite._about.cache_clear()
    return monkeypatch


def interpreter(machine: pytest.MonkeyPatch, *paths: str, program: str = sys.executable) -> None:
    machine.setenv("RLSCALE_ISAAC_PYTHON", shlex.join(["env", f"PYTHONPATH={':'.join(paths)}", program]))


def made(task: str = "Ant", *, spurious: bool = False, seed: int = SEED) -> Any:
    return IsaacGym("isaacgym", task, E, spurious).make(seed)


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


def named() -> list[str]:
    """Whatever a server or its other side left in memory under a name."""
    return [entry for entry in os.listdir("/dev/shm") if entry.startswith("rlscale-isaac-")]


# The stand-in, stepped in this process as its own package has it


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`make` of the stand-in in this process, with its generators seeded."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in PACKAGES}
    for path in WITH_STANDINS:
        monkeypatch.syspath_prepend(path)

    def make(task: str) -> Any:
        isaacgymenvs = importlib.import_module("isaacgymenvs")
        importlib.import_module("torch").manual_seed(SEED)
        return isaacgymenvs.make(SEED, task, E, "cuda:0", "cuda:0", headless=True, force_render=False)

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.modules.update(before)


PACKAGES = ("isaacgym", "isaacgymenvs", "torch")


def begin(env: Any) -> np.ndarray:
    """PQL's way into an episode: everything is marked, and a step of zeros resets it."""
    env.reset_buf.fill_(1)
    return env.step(env.zero_actions())[0]["obs"].numpy().copy()


def step(env: Any, action: np.ndarray) -> list[np.ndarray]:
    """Copies of obs, reward, ended and timed_out."""
    torch = sys.modules["torch"]
    obs, reward, resets, extras = env.step(torch.from_numpy(np.clip(action, -1, 1)))
    assert resets.dtype == np.int64
    return [x.numpy().copy() for x in (obs["obs"], reward, resets != 0, extras["time_outs"])]


def scripts(steps: int) -> Iterator[np.ndarray | None]:
    """Random actions, some beyond the box, and now and then None: reset everything."""
    random = np.random.default_rng(3)
    yield None
    for _ in range(steps):
        yield None if random.random() < 0.01 else random.uniform(-1.5, 1.5, (E, 2)).astype(np.float32)


STEPS = [500, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("steps", STEPS)
def test_the_published_behaviour_equals_a_direct_run(steps: int, native: Callable[[str], Any]) -> None:
    """`spurious_transition`: what the package itself does, step by step, bit by bit."""
    as_published(native("BallBalance"), steps)


@pytest.mark.parametrize("other", ["python3.8", pytest.param("torch", marks=pytest.mark.slow)])
def test_other_interpreters_serve_the_same(
    other: str, machine: pytest.MonkeyPatch, native: Callable[[str], Any]
) -> None:
    """The server under the Python that Isaac Gym has, and with PyTorch in the place of its stand-in."""
    direct = native("BallBalance")
    if other == "torch":
        interpreter(machine, str(STANDINS / "isaac"))
        machine.setenv("RLSCALE_ISAAC_DEVICE", "cpu")
        probe = [sys.executable, "-c", "import torch"]
    else:
        interpreter(machine, *WITH_STANDINS, program=other)
        probe = [other, "-c", "import sys, numpy; assert sys.version_info[:2] == (3, 8)"]
    if shutil.which(probe[0]) is None or subprocess.run(probe, capture_output=True, cwd="/").returncode:
        pytest.skip(f"{' '.join(probe)} fails here")
    machine.setenv("RLSCALE_ISAAC_TIMEOUT", "60")
    as_published(direct, steps=500)


def as_published(direct: Any, steps: int) -> None:
    ends = cut = 0
    with closing(made("BallBalance", spurious=True)) as env:
        for action in scripts(steps):
            if action is None:
                np.testing.assert_array_equal(env.reset(), begin(direct))
                continue
            obs, reward, ended, timed_out = step(direct, action)
            out = env.step(action)
            for ours, theirs in zip(out, (obs, reward, ended & ~timed_out, timed_out, obs), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            ends, cut = ends + ended.sum(), cut + timed_out.sum()
    assert cut > steps // 200 and ends - cut > steps // 200


@pytest.mark.parametrize("steps", STEPS)
def test_reset_in_the_step_equals_a_direct_run_without_its_spurious_steps(
    steps: int, native: Callable[[str], Any]
) -> None:
    """Row i as in a direct run of its own that makes one step more, of zeros, whenever row i has ended."""
    direct, ends = [native("BallBalance") for _ in range(E)], 0
    with closing(made("BallBalance")) as env:
        for action in scripts(steps):
            if action is None:
                np.testing.assert_array_equal(env.reset(), [begin(own)[i] for i, own in enumerate(direct)])
                continue
            out = env.step(action)
            for i, own in enumerate(direct):
                obs, reward, ended, timed_out = (x[i] for x in step(own, action))
                np.testing.assert_array_equal(out.final_obs[i], obs)
                assert out.reward[i] == reward
                assert (out.terminated[i], out.truncated[i]) == (ended and not timed_out, timed_out)
                if ended:
                    obs, ends = step(own, np.zeros((E, 2), np.float32))[0][i], ends + 1
                np.testing.assert_array_equal(out.obs[i], obs)
    assert ends > steps // 50


def test_results_are_the_callers_own() -> None:
    """The simulator's buffers change with its next step, and so does the shared memory; what was returned does not."""
    action = np.ones((E, 2), np.float32)
    with closing(made()) as env:
        first = env.reset()
        held = first.copy()
        out = env.step(action)
        kept = [x.copy() for x in out]
        env.step(-action)
        env.reset()
    np.testing.assert_array_equal(first, held)
    for ours, copy in zip(out, kept, strict=True):
        np.testing.assert_array_equal(ours, copy)


@pytest.mark.slow
@pytest.mark.parametrize("spurious", [False, True])
def test_a_time_out_comes_at_the_limit(spurious: bool) -> None:
    assert IsaacGym("isaacgym", "Ant", E, spurious).spec()[:3] == (6, 2, 40 if spurious else 39)
    ages = []
    with closing(made(spurious=spurious)) as env:
        env.reset()
        for now in range(1, 100):
            out = env.step(np.zeros((E, 2), np.float32))
            cut = out.truncated
            assert not out.terminated.any() and cut.all() == cut.any()
            # with the spurious transition an episode's end is where it goes on, and the next step leads into the next
            assert (out.obs == out.final_obs).all() == (spurious or not cut.any())
            if cut.all():
                ages.append(now)
    assert ages == ([39, 79] if spurious else [39, 78])


# Who is on the other side


@pytest.mark.slow
def test_the_server_says_who_it_is() -> None:
    with closing(made()) as env:
        assert env.versions["python"] == ".".join(map(str, sys.version_info[:3]))
        assert env.versions["torch"] == "0.standin" and set(env.versions) == {"python", *PACKAGES}


def test_closing_ends_the_server_and_frees_the_memory() -> None:
    env = made()
    pid = env._server._process.pid
    assert "rlscale-isaac" in Path("/proc/self/maps").read_text() and not named()
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
        print(env._server._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout)) and not named()


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
    assert not named()


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
    assert not named()


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
def test_such_a_task_runs_with_its_spurious_transition(native: Callable[[str], Any]) -> None:
    direct = native("ShadowHand")
    with closing(made("ShadowHand", spurious=True)) as env:
        np.testing.assert_array_equal(env.reset(), begin(direct))
        for action in np.random.default_rng(0).uniform(-1, 1, (100, E, 2)).astype(np.float32):
            np.testing.assert_array_equal(env.step(action).obs, step(direct, action)[0])


@pytest.mark.slow
def test_the_log_keeps_what_the_simulator_prints(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setenv("RLSCALE_ISAAC_LOG", str(tmp_path / "log"))
    made().close()
    assert (tmp_path / "log").read_text() == "num envs 3 env spacing 5\n"


# The script


def test_the_server_is_a_script_for_python_3_8() -> None:
    """Its syntax, and the few newer things of the library that a script of this kind would reach for."""
    source = suite.SERVER.read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    newer = {"removeprefix", "removesuffix", "pairwise", "batched", "send_fds", "recv_fds", "UTC", "TaskGroup"}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Attribute) or node.attr not in newer, ast.unparse(node)
        assert not isinstance(node, ast.keyword) or node.arg not in ("strict", "track", "kw_only", "slots"), node.arg
        # evaluated when the script runs, unlike annotations under `from __future__ import annotations`
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in ("dict", "list", "tuple", "set", "type") or annotates(tree, node), node.lineno
    assert "from __future__ import annotations" in source


def annotates(tree: ast.AST, wanted: ast.AST) -> bool:
    return any(
        wanted in ast.walk(annotation)
        for node in ast.walk(tree)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if annotation is not None
    )


def test_both_sides_speak_one_protocol() -> None:
    constants = [node for node in ast.parse(suite.SERVER.read_text()).body if isinstance(node, ast.Assign)]
    (protocol,) = [node.value for node in constants if ast.unparse(node.targets[0]) == "PROTOCOL"]
    assert ast.literal_eval(protocol) == suite.PROTOCOL
