"""source=wandb by wandb's real client, which talks to an HTTP server here that speaks as much GraphQL as it asks for.

No test has seen the real service.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlscale.typed import Mistake
from tests.analysis.wandb_project import Run, config, read, rows

pytestmark = pytest.mark.usefixtures("study")


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


@pytest.mark.slow
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
