"""source=wandb, against stand-ins for the service and against real offline runs; no test has seen the real service.

Three distances: objects in the place of wandb's own (most tests), wandb's real client talking to an HTTP server here
that speaks as much GraphQL as it asks for, and files that a real `wandb.init(mode="offline")` wrote.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from analysis.records import Select, load
from analysis.sources import Found, wandb_service
from analysis.sources.wandb import Wandb, sigma
from analysis.sources.wandb_service import Patience
from rlscale.typed import Mistake, typed

REPO = Path(__file__).resolve().parents[2]
CONF = OmegaConf.load(REPO / "conf" / "source" / "wandb.yaml")
DOORS = ("_target_", "benchmark", "algorithm", "name")
SEEDS = r"seed(?P<seed>\d+)/(?P<metric>.+)"


def source(**changes: Any) -> Wandb:
    """The option as the door would make it; `__` in a name is a dot. Nothing waits."""
    config = OmegaConf.merge(CONF, {"wait_s": 0.0})
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    own = OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k not in DOORS]))
    assert isinstance(own, dict)
    return typed(Wandb, {str(k): v for k, v in own.items()}, "source")


def read(**changes: Any) -> tuple[list[Found], list[tuple[str, str]]]:
    return source(**{"project": "p", **changes}).read(lambda items, count, label: items)


def config(**changes: Any) -> dict[str, Any]:
    return {"task": "Hopper-v4", "utd": 0.25, "batch_size": 256, "learning_rate": 3e-4, "seed": 1} | changes


def rows(count: int = 5, **more: Any) -> list[dict[str, Any]]:
    return [{"_step": 10 * i, "env_step": 1000 * i, "train_return": float(i)} | more for i in range(count)]


class Run:
    """In the place of wandb's Run."""

    entity, project = "e", "p"

    def __init__(self, name: str, config: dict[str, Any], rows: list[dict[str, Any]], state: str = "finished") -> None:
        self.id, self.config, self.rows, self.state = name, config, rows, state
        self.heartbeatAt = "2026-01-01T00:00:00"
        self.scans = 0
        self.fail: list[Exception] = []

    @property
    def historyKeys(self) -> dict[str, Any]:
        return {"lastStep": self.rows[-1]["_step"]}

    @property
    def historyLineCount(self) -> int:
        return len(self.rows)

    def scan_history(self, page_size: int = 1000) -> Iterator[dict[str, Any]]:
        self.scans += 1
        if self.fail:
            raise self.fail.pop(0)
        yield from self.rows


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


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLSCALE_STUDY", str(tmp_path / "study"))
    return tmp_path / "study"


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


# wandb's real client, and a server here


class Server(ThreadingHTTPServer):
    """As much of the service as the client asks for. Asked for fewer rows than there are it samples, as W&B does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.there: list[Run] = []
        self.asked: list[str] = []
        self.refuse: list[tuple[str, int]] = []  # (operation, status), each once
        self.per_page = 2
        self.most_rows = 10_000

    def answer(self, query: str, given: dict[str, Any]) -> Any:
        if "viewer" in query:
            return {
                "viewer": {
                    "id": "1",
                    "username": "me",
                    "entity": "e",
                    "email": "",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        if given.get("project") != "p":
            return {"project": None}
        if "query Runs(" in query:
            first = int(given.get("cursor") or 0)
            here = self.there[first : first + self.per_page]
            edges = [{"node": node(run), "cursor": str(first + i + 1)} for i, run in enumerate(here)]
            more = first + self.per_page < len(self.there)
            pages = {"edges": edges, "pageInfo": {"endCursor": str(first + len(here)), "hasNextPage": more}}
            return {"project": {"internalId": "1", "runCount": len(self.there), "readOnly": False, "runs": pages}}
        run = next(run for run in self.there if run.id == (given.get("name") or given.get("runName") or given["run"]))
        if "query RunHistoryKeys" in query:
            return {"project": {"run": {"historyKeys": run.historyKeys}}}
        if "query RunParquetHistory" in query:
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": [{"_step": 0}]}}}}
        run.scans += 1
        page = [row for row in run.rows if given["minStep"] <= row["_step"] < given["maxStep"]]
        page = page[:: -(-len(page) // min(given["pageSize"], self.most_rows)) or 1]
        return {"project": {"run": {"history": [json.dumps(row) for row in page]}}}


def node(run: Run) -> dict[str, Any]:
    wrapped = {key: {"value": value, "desc": None} for key, value in run.config.items()}
    return {
        "id": run.id, "projectId": "1", "name": run.id, "displayName": run.id, "tags": [], "sweepName": None,
        "state": run.state, "config": json.dumps(wrapped), "group": None, "jobType": None, "commit": None,
        "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": run.heartbeatAt, "description": "",
        "notes": "", "systemMetrics": "{}", "summaryMetrics": "{}", "historyLineCount": run.historyLineCount,
        "user": {"name": "me", "username": "me"}, "historyKeys": run.historyKeys,
    }  # fmt: skip


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = 200, b"{}"
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = asked["query"].replace("#graphql", "").split("query ")[1].split("(")[0].split()[0]
            self.server.asked.append(operation)
            refused = next((one for one in self.server.refuse if one[0] == operation), None)
            if refused:
                self.server.refuse.remove(refused)
                status, answer = refused[1], b'{"errors": [{"message": "rate limit exceeded"}]}'
            else:
                answer = json.dumps({"data": self.server.answer(asked["query"], asked.get("variables") or {})}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials, no settings of whoever runs the tests
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for folder in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(folder, str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    here = Server()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{here.server_port}")
    threading.Thread(target=here.serve_forever, args=(0.02,), daemon=True).start()
    yield here
    here.shutdown()
    here.server_close()


@pytest.mark.slow
def test_the_real_client(server: Server) -> None:
    """Pages of runs, pages of history, all rows of both, a second time from the study."""
    server.there = [Run(f"r{i}", config(seed=i), rows(5)) for i in range(3)]
    server.there[2].rows = [{"_step": i * 500, "env_step": i * 500, "train_return": i} for i in range(2500)]
    found, dropped = read(entity="e")
    assert [one.seed for one in found] == [0, 1, 2] and not dropped
    assert found[2].curve["train_return"].tolist() == list(range(2500))
    assert [run.scans for run in server.there] == [1, 1, 3]  # pages of 1,000 rows, not of 1,000 steps
    assert server.asked.count("Runs") == 2
    server.asked.clear()
    again, _ = read(entity="e")
    assert all(a.curve.equals(b.curve) for a, b in zip(found, again, strict=True))
    assert "HistoryPage" not in server.asked


@pytest.mark.slow  # the real client takes its time for each page
def test_a_page_that_the_service_samples_is_read_in_smaller_ones(server: Server) -> None:
    steps = [*range(1500), 4_000]
    server.there = [Run("a", config(), [{"_step": i, "env_step": i, "train_return": i} for i in steps])]
    server.most_rows = 1200
    [one], dropped = read(entity="e")
    assert one.curve["env_step"].tolist() == steps and not dropped
    server.most_rows = 500  # and if nothing helps it is said
    server.there[0].rows.append({"_step": 4_001, "env_step": 4_001, "train_return": 0})
    assert read(entity="e")[1] == [("e/p/a", "W&B counts 1502 rows of history and gave 1002")]


def test_the_real_client_and_an_unknown_project(server: Server) -> None:
    with pytest.raises(Mistake, match=r"source.project=e/q: W&B shows no such project \(Could not find project q\)"):
        read(entity="e", project="q")


def test_the_real_client_without_a_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(Mistake, match="source=wandb: No API key configured; log in with `wandb login`, or set"):
        read(entity="e")
    assert not server.asked


@pytest.mark.slow  # the client waits for 2 s before each second try of its own
@pytest.mark.parametrize(
    ("operation", "status"),
    [("Viewer", 500), ("Runs", 429), ("RunHistoryKeys", 502), ("RunParquetHistory", 503), ("HistoryPage", 429)],
)
def test_the_real_client_is_refused_for_a_while(server: Server, operation: str, status: int) -> None:
    server.there = [Run("a", config(), rows())]
    server.refuse = [(operation, status)] * 3
    assert len(read(entity="e")[0]) == 1
    server.refuse = [(operation, status)] * 99
    server.there[0].rows = rows(6)
    with pytest.raises(Mistake, match="W&B did not answer in 2 tries"):
        read(entity="e", tries=2)
    server.refuse = []
    assert len(read(entity="e")[0][0].curve) == 6


# Files


WRITE = """
import sys, wandb
folder = sys.argv[1]
settings = wandb.Settings(silent=True, x_disable_stats=True, x_disable_meta=True, console="off")
for seed in (0, 1):
    config = {"task": "Hopper-v4", "utd": 0.25, "batch_size": 256, "agent": {"critic_lr": 3e-4}, "seed": seed}
    if seed:
        config["notes"] = "x" * 100_000  # a record longer than a block of the file
    run = wandb.init(mode="offline", project="p", entity="e", dir=folder, config=config, settings=settings,
                     id=f"r{seed}", tags=["grid", f"t{seed}"])
    run.config.update({"late": {"width": 64}})
    for i in range(150):
        run.log({"env_step": 1000 * i, "train_return": float("nan") if i == 7 else i / 3, "loss": {"critic": -i},
                 "word": "x", "flag": True})
    run.finish(exit_code=seed)
"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two offline runs as the installed wandb package writes them."""
    folder = tmp_path_factory.mktemp("offline")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True, env=env, cwd=folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, and no network that would answer."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    shutil.copytree(written, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def read_files(folder: Path, **changes: Any) -> tuple[list[Found], list[tuple[str, str]]]:
    return read(
        **{"project": None, "folder": str(folder), "config__learning_rate": "agent.critic_lr",
           "config__algorithm": {"width": "late.width"}, "history__metrics": {"loss": "loss.critic"}, **changes}
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("offline-run-*/run-*.wandb"), key=lambda path: path.name)


def test_offline_runs_are_read_whole(folder: Path) -> None:
    found, dropped = read_files(folder)
    assert not dropped
    assert [(one.seed, one.origin) for one in found] == [(0, "r0"), (1, "r1")]
    for one in found:
        assert (one.task, one.utd, one.batch_size, one.learning_rate) == ("Hopper-v4", Fraction(1, 4), 256, 3e-4)
        assert one.algorithm_fields == {"width": 64}
        assert one.curve["env_step"].tolist() == [1000 * i for i in range(150)]
        want = np.arange(150) / 3
        want[7] = np.nan
        assert np.array_equal(one.curve["train_return"], want, equal_nan=True)
        assert one.curve["loss"].tolist() == [-i for i in range(150)]


def test_offline_tags_states_and_the_folder_of_an_online_run(folder: Path) -> None:
    assert [one.seed for one in read_files(folder, tags=["t1"])[0]] == [1]
    assert read_files(folder, states=["finished"])[1] == [
        ("r1", "its state is failed, not one of source.states=[finished]")
    ]
    at = files(folder)[0].parent
    at.rename(at.with_name(at.name.removeprefix("offline-")))
    assert [one.seed for one in read_files(folder)[0]] == [0, 1]
    with pytest.raises(Mistake, match=r"no run-\*.wandb is in it"):
        read_files(folder / "wandb" / "nothing" if (folder / "wandb" / "nothing").mkdir() else folder / "wandb/nothing")


def test_a_resumed_offline_run_is_one_run(folder: Path) -> None:
    first, second = files(folder)
    second.rename(second.with_name(first.name))
    [one], dropped = read_files(folder)
    assert one.seed == 1 and len(one.curve) == 150
    assert [what for what, _ in dropped] == ["r0"]  # steps that came twice are said


def test_a_file_cut_anywhere_is_a_crashed_run_or_none(folder: Path) -> None:
    first, _ = files(folder)
    whole = first.read_bytes()
    last = 150
    for end in [*range(3, len(whole) - 60, 7931), *range(len(whole) - 60, len(whole) - 1, 11)]:
        first.write_bytes(whole[:end])
        found, dropped = read_files(folder, states=["crashed", "failed"])
        rows = [len(one.curve) for one in found if one.seed == 0]
        assert len(rows) + len([what for what, _ in dropped if what == "r0"]) == 1
        if rows:
            last = rows[0]
    first.write_bytes(whole[:-1])
    assert last == 150 and not read_files(folder, states=["crashed", "failed"])[1]


def test_a_run_killed_before_it_wrote_anything_does_not_hide_the_next_try(folder: Path) -> None:
    first, second = files(folder)
    empty = first.parent.with_name("offline-run-20000101_000000-r1") / second.name
    empty.parent.mkdir()
    empty.touch()
    found, dropped = read_files(folder)
    assert sorted((one.seed, len(one.curve)) for one in found) == [(0, 150), (1, 150)] and not dropped


def test_a_damaged_file_is_dropped_and_said(folder: Path) -> None:
    first, _ = files(folder)
    whole = first.read_bytes()
    for at in range(0, len(whole) // 32768 * 32768, 4973):
        broken = bytearray(whole)
        broken[at] ^= 0x5A
        first.write_bytes(broken)
        found, [(what, why)] = read_files(folder)
        assert [one.seed for one in found] == [1]
        assert what == "r0" and ("is damaged at byte" in why or "does not begin as" in why)


def test_a_wandb_without_the_record_type_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    with pytest.raises(Mistake, match=r"none of 2 can be used; r0: .*has no wandb.proto.wandb_internal_pb2; install"):
        read_files(folder)
