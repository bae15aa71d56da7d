"""A stand-in for the W&B service, as far as the real client asks when it logs and uploads; no test sees the real one.

It keeps each run's config and the lines of its history, which the client puts at offsets.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Service(ThreadingHTTPServer):
    """`runs`: id → what the client said of it (`config`, `groupName`, `tags`, …), with its `history` as rows."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.lost = False  # from then on it hangs up on everybody

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is none of ours."""

    def run(self, id: str) -> dict[str, Any]:
        return self.runs.setdefault(id, {"config": {}, "history": [], "exit": None})

    def answer(self, query: str, given: dict[str, Any]) -> Any:
        if "upsertBucket" in query:
            run = self.run(given["name"])
            run |= {key: given[key] for key in ("displayName", "groupName", "tags") if given.get(key) is not None}
            run["config"] |= {k: v["value"] for k, v in json.loads(given["config"] or "{}").items() if k != "_wandb"}
            project = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": "e"}}
            bucket = {"id": f"b{given['name']}", "name": given["name"], "displayName": "", "description": "",
                      "config": "{}", "sweepName": None, "project": project,
                      "historyLineCount": len(run["history"])}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": not run["history"]}}
        if "RunResumeStatus" in query:
            known = self.runs.get(given["name"])
            return {"model": {"id": "1", "name": given["project"], "entity": {"id": "1", "name": "e"},
                              "bucket": known and resumable(given["name"], known["history"])}}  # fmt: skip
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            viewer = {"id": "1", "username": "me", "entity": "e", "email": "", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        return None

    def stream(self, id: str, told: dict[str, Any]) -> None:
        run = self.run(id)
        if lines := (told.get("files") or {}).get("wandb-history.jsonl"):
            at, rows = lines["offset"], [json.loads(line) for line in lines["content"]]
            run["history"][at : at + len(rows)] = rows
        if told.get("complete"):
            run["exit"] = told.get("exitcode")


def resumable(id: str, history: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client is told of a run that is there already, to go on behind its last row."""
    return {"id": f"b{id}", "name": id, "summaryMetrics": "{}", "displayName": id, "logLineCount": 0,
            "historyLineCount": len(history), "eventsLineCount": 0, "eventsTail": "[]", "config": "{}", "tags": [],
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "wandbConfig": '{"t":1}'}  # fmt: skip


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self.body()
        self.close_connection = self.server.lost
        if not self.server.lost:
            self.say({})

    def do_POST(self) -> None:
        told = json.loads(self.body())
        if self.server.lost:
            self.close_connection = True
        elif self.path == "/graphql":
            self.say({"data": self.server.answer(told["query"], told.get("variables") or {})})
        else:  # /files/<entity>/<project>/<id>/file_stream
            self.server.stream(self.path.split("/")[-2], told)
            self.say({})

    def body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def say(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serving() -> Iterator[Service]:
    here = Service()
    threading.Thread(target=here.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield here
    finally:
        here.shutdown()
        here.server_close()
