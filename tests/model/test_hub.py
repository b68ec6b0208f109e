"""The real hub client against a local server: gated, private, missing, broken and unreachable models."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.processes import PATIENCE_S

ANSWERS = {
    "gated": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "missing": (404, "RepoNotFound"),
    "revision": (404, "RevisionNotFound"),
    "broken": (418, "Teapot"),
}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        status, code = next((answer for name, answer in ANSWERS.items() if f"someone/{name}" in self.path), (404, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(endpoint, model, cats, folder, *args):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_ETAG_TIMEOUT": "2"}
    return subprocess.run(
        [sys.executable, "-m", "qvl_attn", "ask", str(cats), "how many cats?", "--model", model, *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("someone/gated", ["gated", "hf auth login", "hf download someone/gated"]),
        ("someone/private", ["private", "hf auth login"]),
        ("someone/missing", ["not found on the hub"]),
        ("someone/revision", ["no revision v9"]),
        ("someone/broken", ["cannot be reached", "--model demo"]),
    ],
)
def test_an_error_of_the_hub_becomes_one_line(hub, cats, tmp_path, model, words):
    options = ("--revision", "v9") if model == "someone/revision" else ()
    process = ask(hub, model, cats, tmp_path, *options)
    assert (process.returncode, process.stdout) == (1, ""), process.stderr
    for word in words:
        assert word in process.stderr
    assert len([line for line in process.stderr.splitlines() if not line.startswith("hint: ")]) == 1, process.stderr


def test_a_hub_out_of_reach(cats, tmp_path):
    process = ask("http://127.0.0.1:9", "Qwen/Qwen2.5-VL-3B-Instruct", cats, tmp_path)
    assert process.returncode == 1, process.stderr
    assert "hf download Qwen/Qwen2.5-VL-3B-Instruct" in process.stderr
    assert "--model demo" in process.stderr
    assert "Traceback" not in process.stderr
