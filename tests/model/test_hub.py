"""The real hub client against a local server: gated, private, missing, broken and unreachable models."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.processes import ENV, PATIENCE_S

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
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


# Each request in its turn, in a process that is not offline: its exit code, stdout and stderr as a line of JSON.
ASK = """
import json, sys
from typer.testing import CliRunner
from qvl_attn.cli.app import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


def ask(endpoint, cats, folder, *requests):
    environment = {name: value for name, value in ENV.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_ETAG_TIMEOUT": "2"}
    words = [["ask", str(cats), "how many cats?", "--model", *request] for request in requests]
    process = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_an_error_of_the_hub_becomes_one_line(hub, cats, tmp_path):
    expected = {
        "gated": ["gated", "hf auth login", "hf download someone/gated"],
        "private": ["private", "hf auth login"],
        "missing": ["not found on the hub"],
        "revision": ["no revision v9"],
        "broken": ["cannot be reached", "--model demo"],
    }
    revision = {"revision": ["--revision", "v9"]}
    answers = ask(hub, cats, tmp_path, *([f"someone/{name}", *revision.get(name, [])] for name in expected))
    for words, (code, stdout, stderr) in zip(expected.values(), answers, strict=True):
        assert (code, stdout) == (1, ""), stderr
        for word in words:
            assert word in stderr
        assert len([line for line in stderr.splitlines() if not line.startswith("hint: ")]) == 1, stderr


def test_a_hub_out_of_reach(cats, tmp_path):
    ((code, _, stderr),) = ask("http://127.0.0.1:9", cats, tmp_path, ["Qwen/Qwen2.5-VL-3B-Instruct"])
    assert code == 1, stderr
    assert "hf download Qwen/Qwen2.5-VL-3B-Instruct" in stderr
    assert "--model demo" in stderr
    assert "Traceback" not in stderr
