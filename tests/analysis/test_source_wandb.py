"""source=wandb, objects in the place of wandb's own: what a run becomes, and what the service is asked."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records import Select, load
from analysis.sources import wandb_service
from analysis.sources.wandb import sigma
from analysis.sources.wandb_service import Patience
from rlscale.typed import Mistake
from tests.analysis.wandb_project import Run, config, read, rows

pytestmark = pytest.mark.usefixtures("study")

REPO = Path(__file__).resolve().parents[2]
SEEDS = r"seed(?P<seed>\d+)/(?P<metric>.+)"


class Api:
    """In the place of wandb.Api."""

    def __init__(self, *there: Run) -> None:
        self.there = list(there)
        self.asked: list[tuple[str, Any]] = []

    def runs(self, path: str, filters: Any = None, order: str = "") -> list[Run]:
        self.asked.append((path, filters))
        if path != "p" and path != "e/p":
            raise ValueError(f"Could not find project {path}")
        return [] if filters == {"tags": {"$in": ["none"]}} else self.there


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the given runs the project's."""

    def put(*runs: Run) -> Api:
        api = Api(*runs)
        monkeypatch.setattr(wandb_service, "connect", lambda: api)
        return api

    return put


# What a run becomes


def test_one_seed_in_a_run(service: Any) -> None:
    nested = config(agent={"critic_lr": "3e-4", "width": 512}, learning_rate=None)
    service(Run("a", nested, rows(loss={"critic": 0.5})))
    [one], dropped = read(
        config__learning_rate="agent.critic_lr",
        config__algorithm={"width": "agent.width"},
        history__metrics={"critic_loss": "loss.critic"},
    )
    assert not dropped
    assert (one.task, one.utd, one.batch_size, one.learning_rate, one.seed) == (
        "Hopper-v4",
        Fraction(1, 4),
        256,
        3e-4,
        1,
    )
    assert one.algorithm_fields == {"width": 512}
    assert one.origin == "e/p/a"
    assert one.curve["env_step"].tolist() == [0, 1000, 2000, 3000, 4000]
    assert one.curve["train_return"].tolist() == [0, 1, 2, 3, 4]
    assert one.curve["critic_loss"].tolist() == [0.5] * 5


def test_many_seeds_in_a_run(service: Any) -> None:
    log = [{"_step": 100 * i, "seed0/return": i, "seed11/return": -i, "mean/return": 0} for i in range(4)]
    log[2]["seed11/return"] = "NaN"
    service(Run("a", config(), log))
    found, dropped = read(seeds=SEEDS, history__env_step="_step", history__train_return="return")
    assert not dropped
    assert [one.seed for one in found] == [0, 11]
    assert found[0].curve["train_return"].tolist() == [0, 1, 2, 3]
    assert found[1].curve["train_return"].tolist() == [0, -1, -3]  # a row without any value is no row
    assert found[1].curve["env_step"].tolist() == [0, 100, 300]
    assert found[1].origin == "e/p/a, seed 11"


def test_rows_of_others_do_not_matter(service: Any) -> None:
    log = rows(3)
    log.insert(1, {"_step": 5, "gpu": 0.3})
    log.append({"_step": 60, "env_step": 2000, "train_return": 7.0})
    service(Run("a", config(), log))
    [one], dropped = read()
    assert one.curve["train_return"].tolist() == [0, 1, 7]
    assert [why for _, why in dropped] == ["steps fall or come twice: the last value logged at a step counts"]


def test_seeds_that_log_at_steps_of_their_own_share_bins(service: Any) -> None:
    log = [{"_step": i, "env_step": step, "train_return": i} for i, step in enumerate([700, 1300, 1900, 2100])]
    service(Run("a", config(), log))
    [one], _ = read(every=1000)
    assert one.curve["env_step"].tolist() == [1000, 2000, 3000]
    assert one.curve["train_return"].tolist() == [0, 1.5, 3]


def test_a_field_of_the_learner_can_be_any_plain_value(service: Any) -> None:
    fields = {"net": {"dims": [256, 256], "norm": None}, "bad": float("nan")}
    service(Run("a", config(**fields), rows()))
    [one], _ = read(config__algorithm={"dims": "net.dims", "norm": "net.norm"})
    assert one.algorithm_fields == {"dims": (256, 256), "norm": None}
    with pytest.raises(Mistake, match=r"bad=nan \(source.config.algorithm\): this cannot tell learners apart"):
        read(config__algorithm={"bad": "bad"})


@pytest.mark.parametrize(
    ("value", "exact"),
    [(2, "2"), (0.25, "1/4"), ("1/3", "1/3"), (1 / 3, "1/3"), (2.0, "2"), ("0.5", "1/2"), (0.0078125, "1/128"),
     ("333/1000", "333/1000"), (2 / 3, "2/3"), (1.5, "3/2"), (0.1, "1/10")],
)  # fmt: skip
def test_sigma_is_exact(value: Any, exact: str) -> None:
    assert sigma(value, "utd") == Fraction(exact)


@pytest.mark.parametrize(
    "value", [0.333, "0.333", 0, -1, True, "fast", float("nan"), None, [1], 3.14159, "1e999999999"]
)
def test_sigma_that_cannot_be_told_is_refused(value: Any) -> None:
    with pytest.raises(Mistake, match="utd="):
        sigma(value, "utd")


def test_what_lacks_a_key_is_dropped_and_said(service: Any) -> None:
    lacking = config()
    lacking["utd_ratio"] = lacking.pop("utd")
    service(
        Run("ok", config(), rows()),
        Run("key", lacking, rows()),
        Run("log", config(), [{"_step": 0, "env_step": 1, "train_returns": 1.0}]),
        Run("step", config(), [{"_step": 0, "train_return": 1.0}]),
        Run("half", config(), [{"_step": 0, "env_step": 0.5, "train_return": 1.0}]),
        Run("batch", config(batch_size="large"), rows()),
        Run("rate", config(learning_rate=0), rows()),
        Run("sigma", config(utd=0.333), rows()),
        Run("empty", config(), [{"_step": 0, "env_step": 1, "train_return": "NaN"}]),
    )
    found, dropped = read()
    assert [one.origin for one in found] == ["e/p/ok"]
    assert dict(dropped) == {
        "e/p/key": "its config has no utd (source.config.utd); did you mean utd_ratio? "
        "there are batch_size, learning_rate, seed, task, utd_ratio",
        "e/p/log": "it never logged train_return (source.history); did you mean train_returns? "
        "there are _step, env_step, train_returns",
        "e/p/step": "it never logged env_step (source.history.env_step); did you mean _step? "
        "there are _step, train_return",
        "e/p/half": "env_step=0.5 (source.history.env_step): this is not a whole env step",
        "e/p/batch": "batch_size=large: this is not a whole number; give one such as 256",
        "e/p/rate": "learning_rate=0.0: it must be above 0",
        "e/p/sigma": 'utd=0.333: this is no simple fraction (nearest 1/3); log it as text such as "1/3"',
        "e/p/empty": "no value was logged",
    }


def test_a_crashed_or_short_run_is_kept_unless_told(service: Any) -> None:
    runs = [
        Run("a", config(), rows(9)),
        Run("b", config(seed=2), rows(3), "crashed"),
        Run("c", config(seed=3), rows(3)),
    ]
    service(*runs)
    found, dropped = read()
    assert [one.seed for one in found] == [1, 2, 3] and not dropped
    found, dropped = read(states=["finished"], shortest=5000)
    assert [one.seed for one in found] == [1]
    assert dropped == [
        ("b", "its state is crashed, not one of source.states=[finished]"),
        ("e/p/c", "finished at env step 2000, before source.shortest=5000"),
    ]


def test_through_the_door(service: Any, study: Path, door: Any) -> None:
    log = [{"_step": 1000 * i, "seed0/return": i, "seed1/return": 2 * i} for i in range(5)]
    api = service(Run("a", config(), log), Run("b", config(utd="1/3"), log), Run("c", config(utd=0.3331), log))
    words = [
        "source=wandb", "source.entity=e", "source.project=p", "source.benchmark=gym", "source.algorithm=sac",
        r'source.seeds="seed(?P<seed>\d+)/(?P<metric>.+)"', "source.history.env_step=_step",
        "source.history.train_return=return", "source.filters={state: {$ne: running}}",
    ]  # fmt: skip
    done = door("ingest", study, *words)
    assert "4 runs written" in done.stdout and "left out (2)" in done.stdout
    assert api.asked[-1] == ("e/p", {"state": {"$ne": "running"}})
    assert "0 runs written" in door("ingest", study, *words).stdout
    runs = load(study, Select(algorithm="sac", benchmark="gym", tasks=None, hparams=None, sweep="p")).runs
    assert sorted(zip(runs["utd"], runs["seed"], strict=True)) == [("1/3", 0), ("1/3", 1), ("1/4", 0), ("1/4", 1)]


# Asking the service


def test_tags_and_filters_become_one_question(service: Any) -> None:
    api = service(Run("a", config(), rows()))
    read(entity="e")
    read(tags=["x", "y"])
    read(filters={"config.utd": {"$in": [1, 2]}})
    read(tags=["x"], filters={"state": "finished"})
    assert api.asked == [
        ("e/p", {}),
        ("p", {"tags": {"$in": ["x", "y"]}}),
        ("p", {"config.utd": {"$in": [1, 2]}}),
        ("p", {"$and": [{"tags": {"$in": ["x"]}}, {"state": "finished"}]}),
    ]


def test_what_has_not_changed_is_never_fetched_again(service: Any, study: Path) -> None:
    done, going = Run("done", config(), rows()), Run("going", config(seed=2), rows(3), "running")
    service(done, going)
    first, _ = read()
    again, _ = read()
    assert (done.scans, going.scans) == (1, 1)
    assert all(a.curve.equals(b.curve) for a, b in zip(first, again, strict=True))
    done.heartbeatAt = "2026-02-02"  # of a finished run this means nothing
    going.heartbeatAt = "2026-02-02"
    going.rows = rows(4)
    assert len(read()[0][1].curve) == 4
    assert (done.scans, going.scans) == (1, 2)
    done.rows = rows(7)  # resumed, and finished once more
    assert len(read()[0][0].curve) == 7
    assert (done.scans, going.scans) == (2, 2)
    read(history__metrics={"n": "_step"})  # another mapping asks for nothing new
    assert (done.scans, going.scans) == (2, 2)


def test_a_damaged_cache_is_fetched_again(service: Any, study: Path) -> None:
    run = Run("a", config(), rows())
    service(run)
    [whole], _ = read()
    [kept] = study.rglob("a.history")
    text = kept.read_text()
    for damaged in (text[:-9], text.replace("AAAA", "AAAB", 1), "", "\n", text.partition("\n")[2]):
        kept.write_text(damaged)
        scans = run.scans
        [one], _ = read()
        assert run.scans == scans + 1
        assert one.curve.equals(whole.curve)
        assert kept.read_text() == text


def test_a_kill_keeps_what_was_fetched(service: Any, study: Path) -> None:
    script = f"""
import os, sys
sys.path[:0] = [{str(REPO)!r}, {str(Path(__file__).parent)!r}]
import test_source_wandb as t
class Deadly(t.Run):
    def scan_history(self, page_size=1000):
        yield self.rows[0]
        os._exit(9)
runs = [t.Run(f"r{{i}}", t.config(seed=i), t.rows()) for i in range(2)]
t.wandb_service.connect = lambda: t.Api(*runs, Deadly("r2", t.config(seed=2), t.rows()))
t.read(threads=1)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO).returncode == 9
    assert sorted(path.name for path in study.rglob("*.history")) == ["r0.history", "r1.history"]
    runs = [Run(f"r{i}", config(seed=i), rows()) for i in range(3)]
    service(*runs)
    assert [one.seed for one in read()[0]] == [0, 1, 2]
    assert [run.scans for run in runs] == [0, 0, 1]


def test_threads_are_as_many_as_said(service: Any) -> None:
    together, now, most = threading.Barrier(3, timeout=10), [0], [0]
    lock = threading.Lock()

    class Meeting(Run):
        def scan_history(self, page_size: int = 1000) -> Iterator[dict[str, Any]]:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            together.wait()  # fewer than three at once would break it
            with lock:
                now[0] -= 1
            yield from self.rows

    service(*(Meeting(f"r{i}", config(seed=i), rows()) for i in range(9)))
    assert [one.seed for one in read(threads=3)[0]] == list(range(9))  # in the order of the service all the same
    assert most[0] == 3


def test_too_many_requests_are_waited_out(service: Any) -> None:
    run = Run("a", config(), rows())
    run.fail = [RuntimeError("HTTP 429: rate limit exceeded"), RuntimeError("HTTP 502"), ConnectionResetError("gone")]
    service(run)
    assert len(read(tries=4)[0]) == 1
    assert run.scans == 4


def test_patience_ends_and_what_was_fetched_stays(service: Any) -> None:
    fine, bad = Run("a", config(), rows()), Run("b", config(seed=2), rows())
    bad.fail = [RuntimeError("HTTP 429: rate\nlimit exceeded")] * 9
    service(fine, bad)
    with pytest.raises(Mistake, match=r"^e/p/b: W&B did not answer in 3 tries \(HTTP 429: rate limit exceeded\); what"):
        read(tries=3, threads=1)
    assert bad.scans == 3
    bad.fail = []
    assert len(read()[0]) == 2
    assert (fine.scans, bad.scans) == (1, 4)


def test_a_mistake_of_ours_is_not_asked_again(service: Any) -> None:
    run = Run("a", config(), rows())
    run.fail = [AttributeError("no such thing")]
    service(run)
    with pytest.raises(AttributeError):
        read()
    assert run.scans == 1


def test_waits_double_up_to_a_minute_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    def ask() -> None:
        raise TimeoutError("late")

    random.seed(0)
    with pytest.raises(Mistake, match="in 9 tries"):
        Patience(9, 2.0, Stop())(ask, "x")
    most = np.minimum(60.0, 2.0 * 2.0 ** np.arange(8))
    assert len(waits) == 8
    assert (waits <= most).all() and (waits >= most / 2).all()
    assert len({w / m for w, m in zip(waits, most, strict=True)}) == 8


def test_a_run_that_is_gone_is_dropped(service: Any) -> None:
    gone = Run("b", config(seed=2), rows())
    kind = type("RunNotFoundError", (Exception,), {"__module__": "wandb.apis.public.runs"})
    gone.fail = [kind("Could not find run b")]
    service(Run("a", config(), rows()), gone)
    found, dropped = read()
    assert len(found) == 1
    assert dropped == [("b", "W&B does not give its history: Could not find run b")]


# One sentence each


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"project": None}, "source.project=None, source.folder=None: give one of the two"),
        ({"folder": "x"}, "source.project=p, source.folder=x: give one of the two"),
        ({"project": None, "folder": "x", "filters": {"a": 1}}, "source.filters={'a': 1}: only the service takes them"),
        ({"project": None, "folder": "/nowhere"}, "source.folder=/nowhere: there is no such folder"),
        ({"project": "q"}, r"source.project=q: W&B shows no such project \(Could not find project q\)"),
        ({"tags": ["none"]}, r"source.tags=\[none\], source.filters={}: none of the 1 runs of p is meant"),
        ({"threads": 0}, "source.threads=0: give at least 1"),
        ({"shortest": -1}, "source.wait_s=0.0, source.shortest=-1: neither"),
        ({"seeds": "seed("}, "source.seeds=seed.: this is no regular expression"),
        ({"seeds": "seed"}, "source.seeds=seed: it needs two groups"),
        ({"config__seed": None}, "source.config.seed=null: name the key"),
        ({"history__train_return": None}, "source.history.train_return=null, eval_return=null: name at least one"),
        ({"history__metrics": {"env_step": "x"}}, "source.history.metrics.env_step: this is a column already"),
        ({"history__eval_return": "evaluation"}, "source.history: eval_return is mapped to evaluation, which no run"),
        ({"history__metrics": {"a": "env_steps"}}, "a is mapped to env_steps, which no run .*did you mean env_step"),
        ({"config__task": "env"}, "source=wandb: none of 1 can be used; e/p/a: its config has no env"),
        ({"seeds": SEEDS}, "no key of its history is like source.seeds=seed"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(service: Any, study: Path, changes: dict[str, Any], said: str) -> None:
    service(Run("a", config(), rows()))
    with pytest.raises(Mistake, match=said) as caught:
        read(**changes)
    assert "\n" not in str(caught.value)
