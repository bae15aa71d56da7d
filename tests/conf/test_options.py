"""Every option on the shelf composes and becomes a typed job; every sweep is what its header says; a key that does not
exist is an error wherever it is written."""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from rlscale.door import CONF
from rlscale.hparams import Laws
from rlscale.job import Job, component, job_from
from rlscale.spec import run_id
from rlscale.train import typed_job
from rlscale.typed import Mistake

# Groups that other doors read.
ELSEWHERE = ("analysis", "reference", "source")
OPTIONS = [
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in ELSEWHERE
]


pytestmark = pytest.mark.usefixtures("hydra")


def of(group: str) -> list[str]:
    """The options of a group, as they are named on the command line."""
    return [option.removeprefix(f"{group}/") for option in OPTIONS if option.startswith(f"{group}/")]


def composed(*overrides: str) -> tuple[dict[str, Any], Any]:
    """The config of a command line as plain data, and Hydra's part of it."""
    config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        hydra = config.pop("hydra")
    data: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return data, hydra


def job(*overrides: str) -> Job:
    data, hydra = composed(*overrides)
    return job_from(data, hydra.runtime.choices, overrides)


def combinations(sweep: str) -> list[Sequence[str]]:
    """The overrides of each job of a sweep, as Hydra's sweeper deals them out."""
    _, hydra = composed(f"sweep={sweep}")
    params = [f"{key}={value}" for key, value in hydra.sweeper.params.items()]
    return [
        o
        for batch in BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(params), None)
        for o in batch
    ]


# Options


def test_the_options_are_found() -> None:
    assert {option.split("/")[0] for option in OPTIONS} >= {
        "algorithm",
        "benchmark",
        "hparams",
        "sweep",
        "budget",
        "compute",
    }
    assert "paper/gym" in of("hparams") and "hydra/launcher/local" in OPTIONS


def test_the_defaults_are_a_job() -> None:
    made = job()
    assert made.spec.utd == 1 and len(made.members) == 1 and not made.dry
    assert made.asked_by == {"sweep": None, "hparams": "constant", "split": None, "overrides": []}


@pytest.mark.parametrize(
    "option",
    [
        # the import of Brax alone takes seconds
        pytest.param(o, marks=[pytest.mark.slow] * (o == "benchmark/brax"))
        for o in OPTIONS
        if o.split("/")[0] in ("algorithm", "benchmark", "budget", "compute", "log")
    ],
)
def test_every_option_is_a_job(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # which a compute option would set
    group, _, name = option.partition("/")
    made = job(f"{group}={name}")
    if group in ("algorithm", "benchmark"):
        assert getattr(made.spec, group)["name"] == name.split("/")[0]  # bro/xs is bro of a size
    if group != "benchmark":
        assert made.learner().n_params["total"] > 0


@pytest.mark.parametrize(
    ("benchmark", "task", "name"),
    [("gym", "HalfCheetah-v4", "76e7ca9c5c1923b4"), ("dmc", "cheetah-run", "f1a3cbcb3e5ead8e")],
)
def test_a_field_that_came_later_renames_no_run(benchmark: str, task: str, name: str) -> None:
    """The names are from before there was `backend`; another backend is another run."""
    words = (f"benchmark={benchmark}", f"benchmark.task={task}")
    made = job(*words)
    assert run_id(made.spec, made.members[0]) == name and "backend" not in made.spec.benchmark
    pytest.importorskip("envpool", reason="the envpool extra is not installed")
    other = job(*words, "benchmark.backend=envpool")
    assert run_id(other.spec, other.members[0]) != name
    assert dict(other.spec.benchmark) == {**made.spec.benchmark, "backend": "envpool"}


def test_any_diagnostics_can_be_attached_and_none_are_part_of_a_run() -> None:
    plain, names = job(), of("diagnostics")
    for some in (*([name] for name in names), names):
        made = job(f"diagnostics=[{','.join(some)}]")
        assert sorted(made.diagnostics.names) == sorted(some)
        assert made.spec == plain.spec and made.members == plain.members
    widths = job("diagnostics=[passive_critic]", "diagnostics.passive_critic.widths=[8,16]").passive()
    assert list(widths) == [8, 16] and widths[16].n_params["critic"] > widths[8].n_params["critic"]
    assert plain.diagnostics.names == [] and plain.passive() == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diagnostics=[validation]", "diagnostics.validation.every=0"), "diagnostics.validation.every=0: give"),
        (("diagnostics=[newest_td]", "diagnostics.newest_td.newest=0"), "diagnostics.newest_td.newest=0: give"),
        (("diagnostics=[gradient_noise]", "diagnostics.gradient_noise.batches=[64,64]"), "batches=[64, 64]: give two"),
        (("diagnostics=[passive_critic]", "diagnostics.passive_critic.widths=[]"), "widths=[]: give one width"),
        (("diagnostics=[passive_critic]", "algorithm=pql"), "algorithm=pql has no width"),
        (("diagnostics=[validation]", "compute.replay=host"), "set compute.replay=auto"),
        (("+diagnostics={sigma:{a:1}}",), "diagnostics.sigma={'a': 1}: there is no such key; choose one of"),
    ],
)
def test_diagnostics_that_cannot_be(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Mistake) as mistake:
        job(*words)
    assert said in str(mistake.value)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith("qscaled/")) for n in of("hparams")]
)
def test_every_hparams_option_has_a_value_for_each_task(name: str) -> None:
    """For each variant, task and published σ; and where the suite is installed, as a job."""
    values = composed(f"hparams={name}")[0]["hparams"] if name == "constant" else load(f"hparams/{name}")
    option = component(values, "hparams")
    if not isinstance(option, Laws):
        assert job(f"hparams={name}").spec.batch_size == values["batch_size"]
        return
    assert option.variant in option.variants
    for variant, laws in option.variants.items():
        chosen = component(values | {"variant": variant}, "hparams")
        tables = [law["table"] for law in laws.values() if "table" in law]
        tasks = set(tables[0]) if tables else set(laws["batch_size"]["intercept"])
        assert len(tasks) >= 4
        for task in tasks:
            ratios = list(map(Fraction, tables[0][task])) if tables else [Fraction(1, 4), Fraction(1), Fraction(16)]
            for utd in ratios:
                assert 16 <= chosen.batch(utd, task) <= 4096 and chosen.batch(utd, task) % 16 == 0
                assert all(1e-5 < rate < 1e-2 for rate in chosen.rates(utd, task))
            if name.endswith("gym"):
                made = job("benchmark=gym", f"benchmark.task={task}", f"hparams={name}", f"hparams.variant={variant}")
                assert made.spec.batch_size == chosen.batch(Fraction(1), task)
                assert [member.learning_rate for member in made.members] == list(chosen.rates(Fraction(1), task))


def load(option: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))  # type: ignore[return-value]


@pytest.mark.parametrize("name", of("hydra/launcher"))
def test_every_launcher_is_found_and_made(name: str) -> None:
    _, hydra = composed(f"hydra/launcher={name}")
    assert isinstance(instantiate(hydra.launcher), Launcher)
    assert any(plugin.__name__ == "LocalPool" for plugin in Plugins.instance().discover(Launcher))


# Sweeps

SWEPT = ("benchmark.task", "utd", "hparams.batch_size")


@pytest.mark.slow
@pytest.mark.parametrize("name", of("sweep"))
def test_a_sweeps_first_and_last_job_are_typed(name: str) -> None:
    first, *_, last = combinations(name)
    assert {job(f"sweep={name}", *overrides).asked_by["sweep"] for overrides in (first, last)} == {name}


# Dozens to hundreds of jobs to compose
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "quickstart")) for n in of("sweep")])
def test_every_sweep_is_as_many_typed_jobs_as_it_says(name: str) -> None:
    said = dict(re.findall(r"\b(Jobs|Runs): ([\d,]+)", (CONF / f"sweep/{name}.yaml").read_text()))
    jobs = [job(f"sweep={name}", *overrides) for overrides in combinations(name)]
    assert {key: int(n.replace(",", "")) for key, n in said.items()} == {
        "Jobs": len(jobs),
        "Runs": len({(spec_of(made), member) for made in jobs for member in made.members}),
    }
    assert all(made.asked_by["sweep"] == name for made in jobs)


def test_the_dmc_grid_is_the_released_one(published: Path) -> None:
    """Cell by cell: what the authors' archive of BRO's runs holds."""
    with zipfile.ZipFile(published / "qscaled" / "dmc_sweep.zip") as archive:
        names = [re.search(r"utd_(\d+)/([^/]+)/.*bs_(\d+)_lr_([^_]+)\.npy$", name) for name in archive.namelist()]
    released = {(task, int(utd), int(b), float(rate)) for utd, task, b, rate in (n.groups() for n in names if n)}
    grid = load("sweep/dmc-grid")
    tasks, utds, batches = (grid["hydra"]["sweeper"]["params"][k].split(",") for k in SWEPT)
    rates = [float(rate) for rate in grid["hparams"]["learning_rate"]]
    assert released == set(itertools.product(tasks, map(int, utds), map(int, batches), rates))


def spec_of(made: Job) -> str:
    """What tells two jobs apart, but for their members."""
    return repr(
        (dict(made.spec.benchmark), dict(made.spec.algorithm), made.spec.utd, made.spec.batch_size, made.spec.budget)
    )


# Keys that do not exist


@pytest.mark.parametrize(
    "option",
    [
        "algorithm/sac",
        "budget/smoke",
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in ("benchmark/toy", "hparams/constant", "compute/cpu", "log/none")
        ),
    ],
)
def test_an_unknown_key_in_an_options_file_is_an_error(option: str, study: Path) -> None:
    """Hydra would take it, and nobody would ever read it."""
    group, _, name = option.partition("/")
    text = (CONF / f"{option}.yaml").read_text()
    write(study, f"{group}/mine", text)
    assert job(f"{group}=mine").spec == job(f"{group}={name}").spec
    write(study, f"{group}/mine", text + "\ncolour: red\n")
    with pytest.raises(Mistake, match=rf"^{group}\.colour=red: there is no such key; \w"):
        job(f"{group}=mine")
    first = next(line.split(":")[0] for line in text.splitlines() if re.match(r"\w+:", line) and "_target_" not in line)
    write(study, f"{group}/mine", re.sub(rf"^{first}:", f"{first}x:", text, flags=re.M))
    with pytest.raises(Mistake, match=rf"^{group}\.{first}x=.*: there is no such key; did you mean {first}\?"):
        job(f"{group}=mine")


def test_a_missing_key_in_an_options_file_is_an_error(study: Path) -> None:
    text = (CONF / "budget" / "smoke.yaml").read_text()
    write(study, "budget/mine", "\n".join(line for line in text.splitlines() if not line.startswith("log_every")))
    with pytest.raises(Mistake, match=r"^budget\.log_every is not set: give it a value \(a whole number\)"):
        job("budget=mine")


def test_an_unknown_key_at_the_top_is_an_error(study: Path) -> None:
    with pytest.raises(Mistake, match=r"^seeds=\[0, 1\]: there is no such key; did you mean seed\?"):
        job("+seeds=[0,1]")
    write(study, "sweep/mine", "# @package _global_\nudt: 2\n")
    with pytest.raises(Mistake, match=r"^udt=2: there is no such key; did you mean utd\?"):
        job("sweep=mine")
    with pytest.raises(HydraException):
        job("seeds=3")


def test_a_sweeps_config_is_read_as_a_jobs_own() -> None:
    """Where a sweep is planned, Hydra's part is still in it; a value that is not given stays a mistake of its key."""
    words = ["benchmark=toy", "utd=1/4", "hparams.learning_rate=${member_rate}", "+member_rate=1e-3"]
    with pytest.raises(Mistake, match=r"^member_rate=0\.001: there is no such key"):
        typed_job(compose_with_hydra(words))
    made = typed_job(compose_with_hydra(words), beside=("hydra", "member_rate"))
    assert made.members == job("benchmark=toy", "utd=1/4", "hparams.learning_rate=1e-3").members
    with pytest.raises(Mistake, match=r"^member\.seed=\?\?\?: this is not a whole number"):
        typed_job(compose_with_hydra(["benchmark=toy", "seed=???"]))


def compose_with_hydra(words: list[str]) -> DictConfig:
    config = compose("train", words, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def test_a_study_adds_options_and_shadows_none(study: Path) -> None:
    write(study, "hparams/fitted/mine", (CONF / "hparams/constant.yaml").read_text().replace("256", "48"))
    assert job("hparams=fitted/mine").spec.batch_size == 48
    write(
        study,
        "budget/smoke",
        (CONF / "budget/smoke.yaml").read_text().replace("env_steps: 400", "env_steps: 999"),
    )
    assert job("budget=smoke").spec.budget.env_steps == 400


def write(study: Path, option: str, text: str) -> None:
    path = study / "conf" / f"{option}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
