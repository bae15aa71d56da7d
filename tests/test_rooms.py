"""Which room may know of which, and how the options on the shelf must look. Read from the files as they are.

A module of the standard library is always allowed. A file that no rule names falls under the last rule of its folder,
so a new room is held from its first day.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
OURS = ("rlscale", "analysis", "launchers")


@dataclass(frozen=True)
class Import:
    """One imported module; `inside` a function, the statement runs only when that is called."""

    module: str
    line: int
    inside: bool


@dataclass(frozen=True)
class Room:
    """What the files matching `files` may import: `may` anywhere, `inside` in functions only; never `never`.

    `may` of None allows all that `never` does not name. A name stands for the module and everything below it.
    """

    files: str
    may: tuple[str, ...] | None
    inside: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


SMALL = ("rlscale.spec", "rlscale.hparams", "rlscale.cadence", "rlscale.typed")
JAX = ("jax", "flax", "optax", "chex", "numpy")
SIMULATORS = (
    "gymnasium",
    "dm_control",
    "dm_env",
    "mujoco",
    "envpool",
    "brax",
    "isaacgym",
    "isaacgymenvs",
    "humanoid_bench",
)
HYDRA = ("hydra", "omegaconf")
DOORS = ("rlscale.train", "rlscale.door")
CONCRETE = ("rlscale.algorithms", "rlscale.benchmarks")
THINKING = ("numpy", "scipy", "pandas", "yaml", "analysis", "rlscale.store", *SMALL)

# The first rule that matches a file holds it.
ROOMS = [
    *(Room(f"rlscale/{name}.py", SMALL) for name in ("spec", "hparams", "cadence", "typed", "__init__")),
    Room("rlscale/types.py", JAX),
    Room("rlscale/networks.py", ("rlscale.types", *JAX)),
    Room("rlscale/hypersphere.py", ("rlscale.types", "rlscale.networks", *JAX)),
    Room("rlscale/packing.py", ("rlscale.types", "jax")),
    Room("rlscale/optimiser.py", ("rlscale.types", "rlscale.packing", *JAX)),
    Room("rlscale/td.py", ("rlscale.types", "rlscale.networks", *JAX)),
    Room(
        "rlscale/algorithms/*.py",
        (
            "rlscale.types",
            "rlscale.typed",
            "rlscale.networks",
            "rlscale.hypersphere",
            "rlscale.optimiser",
            "rlscale.td",
            *JAX,
        ),
    ),
    # a simulator is imported where an environment is made: listing or typing a suite must not need it
    Room(
        "rlscale/benchmarks/*.py",
        (
            *("rlscale.types", "rlscale.typed", "rlscale.copies", "rlscale.simulator_state", "rlscale.envpool"),
            *("numpy", "jax"),
        ),
        inside=SIMULATORS,
    ),
    # what suites of stateful simulators share
    Room("rlscale/copies.py", ("rlscale.types", "rlscale.simulator_state", "numpy")),
    Room("rlscale/envpool.py", ("rlscale.types", "rlscale.typed", "rlscale.copies", "numpy"), inside=("envpool",)),
    Room("rlscale/simulator_state.py", (), inside=("gymnasium",)),
    Room("rlscale/store.py", (*SMALL, "numpy", "psutil")),  # psutil: is the process that claimed a run alive?
    Room("rlscale/door.py", (*SMALL, *HYDRA, "rich")),  # what all doors share
    Room("rlscale/sinks.py", None, inside=("wandb",), never=("jax", *HYDRA, *CONCRETE, "analysis", "launchers")),
    Room("rlscale/sync.py", None, never=("jax", "wandb", *CONCRETE, "analysis", "launchers", *SIMULATORS)),
    # `launchers` only to put its plugins where Hydra looks for them
    Room("rlscale/train.py", None, never=("wandb", "analysis", *SIMULATORS)),
    Room("rlscale/status.py", None, never=("jax", "wandb", "analysis", *CONCRETE, *SIMULATORS), inside=HYDRA),
    # loop, replay, checkpoint, diagnostics, and whatever comes beside them
    Room(
        "rlscale/*.py", None, never=("wandb", *HYDRA, *CONCRETE, "rlscale.train", "analysis", "launchers", *SIMULATORS)
    ),
    Room("analysis/sources/wandb*.py", THINKING, inside=("wandb",)),
    Room("analysis/figures/*.py", (*THINKING, "matplotlib")),
    *(
        Room(f"analysis/{door}.py", (*THINKING, *HYDRA, "rich", "rlscale.door"))
        for door in ("ingest", "export", "hparams", "laws", "plan", "report", "diagnostics", "fit_door")
    ),
    Room("analysis/show.py", (*THINKING, "rich")),  # what the doors print
    Room("analysis/*.py", THINKING),
    # a script for the simulator's own Python, which has nothing of ours
    Room("launchers/isaac_server.py", ("numpy",), inside=("isaacgym", "isaacgymenvs", "torch")),
    Room("launchers/*.py", None, never=("rlscale.algorithms", "analysis", "jax", "wandb")),
]


def imports(path: Path, source: str) -> Iterator[Import]:
    """Every module that the file imports, by full name; ``from a import b`` is a.b if that is a room, else a."""

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            base = list(path.relative_to(ROOT).parent.parts)[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from rlscale import store` names a room; `from rlscale.store import X` names a thing in one
                name = f"{module}.{alias.name}"
                is_module = module.split(".")[0] in OURS and (
                    (ROOT / Path(*name.split("."))).is_dir()
                    or (ROOT / Path(*name.split("."))).with_suffix(".py").exists()
                )
                yield Import(name if is_module else module, node.lineno, inside)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    yield from walk(ast.parse(source), False)


def below(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def faults(path: Path, source: str) -> list[str]:
    """What the file imports and may not, as sentences."""
    name = path.relative_to(ROOT).as_posix()
    room = next(r for r in ROOMS if fnmatch(name, r.files))
    found = []
    for i in imports(path, source):
        if i.module.split(".")[0] in sys.stdlib_module_names or i.module == "rlscale":
            continue
        if below(i.module, room.inside):
            if not i.inside:
                found.append(f"{name}:{i.line}: {i.module} may be imported inside a function only")
        elif below(i.module, room.never) or (room.may is not None and not below(i.module, room.may)):
            if not (name.startswith("rlscale/algorithms/") and i.module == "rlscale.algorithms"):
                found.append(f"{name}:{i.line}: {i.module} is not for this room")
        elif i.module.split(".")[0] == "wandb":
            found.append(f"{name}:{i.line}: wandb belongs to rlscale/sinks.py and analysis/sources/wandb.py")
    return found


def code() -> list[Path]:
    return [p for folder in OURS for p in sorted((ROOT / folder).rglob("*.py"))]


def test_every_import_is_allowed() -> None:
    found = [fault for path in code() for fault in faults(path, path.read_text())]
    assert not found, "\n" + "\n".join(found)
    assert code()


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("rlscale/spec.py", "import json, jax.numpy", True),
        ("rlscale/spec.py", "from rlscale.typed import Mistake", False),
        ("rlscale/hparams.py", "from rlscale import store", True),
        ("rlscale/td.py", "from rlscale import types", False),
        ("rlscale/td.py", "def f():\n    import hydra", True),
        ("rlscale/algorithms/new.py", "from .sac import Sac", True),
        ("rlscale/algorithms/new.py", "from ..networks import MLP\nfrom rlscale.td import polyak", False),
        ("rlscale/algorithms/new.py", "from rlscale.replay import sample", True),
        ("rlscale/benchmarks/new.py", "import gymnasium", True),
        ("rlscale/benchmarks/new.py", "class A:\n    import mujoco", True),
        ("rlscale/benchmarks/new.py", "def make():\n    import gymnasium.vector", False),
        ("rlscale/benchmarks/new.py", "from rlscale.benchmarks.gym import Gym", True),
        ("rlscale/loop.py", "import jax\nfrom rlscale.replay import sample", False),
        ("rlscale/loop.py", "from rlscale.algorithms.sac import Sac", True),
        ("rlscale/loop.py", "def f():\n    from omegaconf import DictConfig", True),
        ("rlscale/newroom.py", "import wandb", True),
        ("rlscale/sinks.py", "import wandb", True),
        ("rlscale/sinks.py", "def f():\n    import wandb", False),
        ("rlscale/store.py", "import jax", True),
        ("analysis/fits.py", "import jax", True),
        ("analysis/fits.py", "import matplotlib.pyplot", True),
        ("analysis/fits.py", "import hydra", True),
        ("analysis/laws.py", "import hydra\nimport scipy.optimize\nfrom analysis import fits", False),
        ("analysis/sources/csv.py", "import wandb", True),
        ("analysis/figures/curves.py", "import matplotlib.pyplot as plt", False),
        ("analysis/page/book.py", "import matplotlib", True),
        ("launchers/quickstart.py", "from analysis import laws", True),
        ("launchers/quickstart.py", "import rich", False),
        ("launchers/isaac_server.py", "def f():\n    from rlscale.typed import Mistake", True),
    ],
)
def test_the_walls_hold(file: str, source: str, wrong: bool) -> None:
    assert bool(faults(ROOT / file, source)) == wrong


def test_naming_a_run_needs_nothing_slow() -> None:
    """On a login node, and in analysis, these imports must be instant: nothing outside the standard library."""
    ask = f"import sys, {', '.join(SMALL)}; print(*(m for m in sys.modules if m.split('.')[0] in {(*JAX, *HYDRA)!r}))"
    said = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ""


def test_there_is_no_drawer_for_everything() -> None:
    assert not [p for folder in (*OURS, "tests") for p in (ROOT / folder).rglob("utils.py")]


# The options

OPTIONS = sorted((ROOT / "conf").rglob("*.yaml"))
SWEEPS = [p for p in OPTIONS if p.parent.name == "sweep"]


def short(path: Path) -> str:
    return path.relative_to(ROOT / "conf").as_posix()


@pytest.mark.parametrize("path", OPTIONS, ids=short)
def test_nothing_stands_above_a_package_line(path: Path) -> None:
    """Hydra reads `# @package` on the first line that is not blank, and silently ignores it anywhere below."""
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    late = [line for line in lines[1:] if re.match(r"#\s*@package\b", line)]
    assert not late, f"{short(path)}: move {late} to the first line"


def leaves(node: yaml.Node, last: int | None = None) -> Iterator[tuple[yaml.ScalarNode, int]]:
    """Every value in the document with the line on which it ends; a flow collection ends as one."""
    if isinstance(node, yaml.ScalarNode):
        yield node, node.end_mark.line if last is None else last
        return
    if getattr(node, "flow_style", False) and last is None:
        last = node.end_mark.line
    for child in [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value:
        yield from leaves(child, last)


def chosen(document: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, int]]:
    """The leaves that a person may wish to change: of Hydra's own settings only what a sweep sweeps."""
    for key, value in document.value:
        if key.value == "hydra":
            yield from (leaf for name, node in value.value if name.value == "sweeper" for leaf in leaves(node))
        else:
            yield from leaves(value)


def without_comment(text: str) -> list[str]:
    """The values that have no comment, neither on a line of theirs nor on the line above."""
    lines = text.splitlines()
    document = yaml.compose(text)
    bare = []
    for leaf, last in chosen(document) if document else ():
        if leaf.value == "_self_":  # Hydra's mark for "this file", not a choice
            continue
        first = leaf.start_mark.line
        own = lines[first][leaf.start_mark.column :] if first < len(lines) else ""
        end = lines[min(last, len(lines) - 1)]
        said = any(re.search(r"(^|\s)#\s*\S", part) for part in (own, end))
        if not said and not (first and lines[first - 1].lstrip().startswith("#")):
            bare.append(f"{first + 1}: {lines[first].strip()}")
    return bare


@pytest.mark.parametrize("path", [p for p in OPTIONS if not short(p).startswith("hydra/")], ids=short)
def test_every_leaf_has_a_comment(path: Path) -> None:
    assert not without_comment(path.read_text())


def test_a_leaf_without_a_comment_is_found() -> None:
    text = "# above\na: 1\nb: 2 # beside\nc: 3\nd:\n  - 4 # beside\n  - 5\ne: {f: 6, g: [7]} # beside\nh: '#'\n"
    assert [line.split(":")[0] for line in without_comment(text)] == ["4", "7", "9"]


@pytest.mark.parametrize("path", SWEEPS, ids=short)
def test_a_sweep_is_as_large_as_its_header_says(path: Path) -> None:
    """Jobs are combinations of what is swept; runs are jobs times members (seeds × learning rates in brackets)."""
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert "-m rlscale.train" in text
    config = OmegaConf.load(path)
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    jobs = sum(len(batch) for batch in BasicSweeper.split_arguments(overrides, None))
    packed = [OmegaConf.select(config, key) for key in ("seed", "hparams.learning_rate")]
    members = 1
    for values in packed:
        members *= len(values) if OmegaConf.is_list(values) else 1
    said = {word: int(n.replace(",", "")) for word, n in re.findall(r"(Jobs|Runs): ([\d,]+)", text)}
    assert said == {"Jobs": jobs, "Runs": jobs * members}


def test_the_gym_grid_is_table_3() -> None:
    config = OmegaConf.load(ROOT / "conf" / "sweep" / "gym-grid.yaml")
    assert list(config.seed) == list(range(8))
    assert list(config.hparams.learning_rate) == [1e-4, 2e-4, 5e-4, 1e-3, 2e-3]
    assert dict(config.hydra.sweeper.params) == {
        "benchmark.task": "HalfCheetah-v4,Walker2d-v4,Ant-v4,Humanoid-v4",
        "utd": "1,2,4,8",
        "hparams.batch_size": "128,256,512",
    }


def test_the_dmc_grid_is_table_3_with_the_released_runs_utd() -> None:
    config = OmegaConf.load(ROOT / "conf" / "sweep" / "dmc-grid.yaml")
    assert list(config.seed) == list(range(10))
    assert list(config.hparams.learning_rate) == [1.5e-4, 3e-4, 6e-4, 1.2e-3]
    tasks = "cartpole-swingup,cheetah-run,dog-stand,finger-spin,humanoid-stand,quadruped-walk,walker-walk"
    assert dict(config.hydra.sweeper.params) == {
        "benchmark.task": tasks,
        "utd": "1,2,3,4,5,8",
        "hparams.batch_size": "32,64,128,256,512",
    }


def test_the_isaacgym_grid_is_table_3() -> None:
    config = OmegaConf.load(ROOT / "conf" / "sweep" / "isaacgym-grid.yaml")
    assert list(config.seed) == list(range(5))
    assert list(config.hparams.learning_rate) == [1e-4, 2e-4, 3e-4]
    assert dict(config.hydra.sweeper.params) == {
        "utd": ",".join(f"1/{2**k}" for k in range(10, 17)),
        "hparams.batch_size": "512,1024,2048,4096,8192",
    }
