"""Progress of long work: rate and time left, a line per minute in a log, bars on a terminal."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys

import pytest
from rich.console import Console

from qvl_attn.cli import progress
from qvl_attn.cli.console import find_model
from qvl_attn.cli.progress import LOG_EVERY_S, Pace, progress_bars
from qvl_attn.model.loading import load_weights
from tests.helpers.check_runs import one_line
from tests.helpers.processes import ENV, PATIENCE_S


@pytest.mark.parametrize(
    ("pace", "now_s", "done", "total", "description"),
    [
        (Pace(0, 0), 10, 32, 112, "3.2/s, 25 s left"),
        (Pace(100, 0), 110, 32, 112, "3.2/s, 25 s left"),
        (Pace(0, 0), 10, 10, 99, "1.0/s, 89 s left"),
        (Pace(0, 0), 10, 10, 100, "1.0/s, 2 min left"),
        (Pace(0, 0), 60, 30, 60, "30.0/min, 60 s left"),
        (Pace(0, 0), 60, 2, 40, "2.0/min, 19 min left"),
        (Pace(0, 0), 3600, 30, 90, "30.0/h, 2 h 00 min left"),
        (Pace(0, 0), 36_000, 5, 10, "0.5/h, 10 h 00 min left"),
        (Pace(0, 0), 60, 60, 60 + 60 * 150, "1.0/s, 2 h 30 min left"),
        (Pace(0, 0), 10, 20, 20, "2.0/s, 0 s left"),
        (Pace(0, 0), 0, 5, 20, ""),
        (Pace(0, 0), 5, 0, 20, ""),
        (Pace(0, 7), 5, 7, 20, ""),
    ],
)
def test_rate_and_time_left(pace, now_s, done, total, description):
    assert pace.describe(now_s, done, total) == description


def test_a_continued_run_counts_only_its_own_work():
    """900 of 1,000 were done before; ten in ten seconds are 1 per second, not 91."""
    assert Pace(0, 900).describe(10, 910, 1000) == "1.0/s, 2 min left"


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now_s = 5.0

        def monotonic(self):
            return self.now_s

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_stage_that_begins_again_has_a_new_pace(clock, capsys):
    with progress_bars(enabled=True) as update:
        update("looking", 0, 10)
        clock.now_s += 1000
        update("looking", 10, 10)
        update("looking", 0, 10)
        clock.now_s += LOG_EVERY_S
        update("looking", 6, 10)
    assert capsys.readouterr().err == "looking: 6 of 10, 6.0/min, 40 s left\n"


def test_a_log_has_at_most_a_line_per_minute(clock, capsys):
    with progress_bars(enabled=True) as update:
        for done in range(901):
            update("asking", 100 + done, 1000)
            clock.now_s += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 900 // LOG_EVERY_S - 1, "fifteen minutes, without a line at the end"
    assert lines[0] == "asking: 160 of 1,000, 1.0/s, 14 min left"
    assert lines[-1] == "asking: 940 of 1,000, 1.0/s, 60 s left"


def test_work_of_less_than_a_minute_prints_nothing(clock, capsys):
    with progress_bars(enabled=True) as update:
        for done in range(60):
            update("asking", done, 60)
            clock.now_s += 0.9
        update("asking", 60, 60)
    assert capsys.readouterr().err == ""


def test_a_slow_sample_is_printed_when_it_is_done(clock, capsys):
    with progress_bars(enabled=True) as update:
        update("asking", 0, 3)
        clock.now_s += 600
        update("asking", 1, 3)
        update("asking", 2, 3)
    assert capsys.readouterr().err == "asking: 1 of 3, 6.0/h, 20 min left\n"


def test_each_stage_has_its_own_pace(clock, capsys):
    with progress_bars(enabled=True) as update:
        update("checking the data", 100, 101)
        clock.now_s += 1000
        update("asking", 0, 90)
        clock.now_s += 100
        update("asking", 10, 90)
    assert capsys.readouterr().err == "asking: 10 of 90, 6.0/min, 13 min left\n"


def test_quiet_prints_nothing(clock, capsys):
    with progress_bars(enabled=False) as update:
        for done in range(100):
            update("asking", done, 100)
            clock.now_s += 100
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def screen(monkeypatch):
    """What a terminal gets on stderr."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "stderr", Console(file=screen, force_terminal=True, width=100))
    return screen


def test_between_stages_the_terminal_is_free(screen):
    show_cursor, hide_cursor = "\x1b[?25h", "\x1b[?25l"
    with progress_bars(enabled=True) as update:
        assert screen.getvalue() == "", "a download may show its own bar"
        for answer in range(2):
            for done in range(4):
                update("answer tokens", done, 0)
            update("answer tokens", 3, 3)
            assert screen.getvalue().count(hide_cursor) == screen.getvalue().count(show_cursor) == answer + 1
            assert "3/" not in screen.getvalue(), "it is not known how many there will be"
        update("asking", 0, 2)
        assert screen.getvalue().count(show_cursor) == 2
    assert screen.getvalue().count(show_cursor) == 3, "after an error too"


def test_results_go_to_a_pipe_or_above_the_bars(screen, capsys, monkeypatch):
    with progress_bars(enabled=True) as update:
        update("asking", 1, 2)
        print("answer: 2")
    assert capsys.readouterr().out == "answer: 2\n"
    assert "answer: 2" not in screen.getvalue()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with progress_bars(enabled=True) as update:
        update("asking", 1, 2)
        print("answer: [b]2[/b]")
    assert capsys.readouterr().out == ""
    assert re.search(r"\x1b\[2Kanswer: \[b\]2\[/b\]\n", screen.getvalue()), "on a line of its own"


def load_demo():
    engine = find_model("demo", offline=True, bars=True).engine
    return load_weights(engine.checkpoint, engine.config, engine.placement)


def test_a_terminal_shows_how_many_weights_are_read(screen, capfd):
    """With transformers' own loading: its bar is replaced by ours, above which lines can be printed."""
    with progress_bars(enabled=True):
        weights = load_demo().state_dict()
        assert screen.getvalue().count("\x1b[?25h") == 1, "the bar is removed when they are read"
    total = int(re.search(r"loading the weights.* 0/(\d+)", screen.getvalue())[1])
    assert len(weights) - 1 <= total <= len(weights), "a tied weight is read once"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_log_gets_no_bar_of_the_weights(capfd, enabled):
    with progress_bars(enabled=enabled):
        load_demo()
    assert capfd.readouterr() == ("", "")


def test_a_log_says_how_many_weights_are_read_after_a_minute(clock, capsys):
    """With a clock that shows 40 s more whenever it is read."""
    clock.monotonic = lambda: setattr(clock, "now_s", clock.now_s + 40) or clock.now_s
    with progress_bars(enabled=True):
        load_demo()
    assert re.match(r"loading the weights: \d+ of \d+, [\d.]+/min, .* left\n", capsys.readouterr().err)
    load_demo()
    assert capsys.readouterr().err == "", "the next program that loads a model"


def test_a_terminal_shows_bars_and_removes_them():
    """In a real pseudo-terminal; the process ends once the bar was redrawn a few times."""
    code = (
        "import select, sys\n"
        "from itertools import count\n"
        "from qvl_attn.cli.progress import progress_bars\n"
        "with progress_bars(enabled=True) as update:\n"
        "    for done in count():\n"
        "        update('asking', 20 + min(done, 4), 40)\n"
        "        if select.select([sys.stdin], [], [], 0.05)[0]: break\n"
        "print('over', flush=True)\n"
    )
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code]
    env = {name: value for name, value in ENV.items() if name not in ("NO_COLOR", "CI")} | {"TERM": "xterm-256color"}
    pipes = {"stdin": subprocess.PIPE, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, env=env | {"COLUMNS": "120"}, **pipes)
    os.close(theirs)
    output = b""
    try:
        while select.select([ours], [], [], PATIENCE_S)[0]:
            output += os.read(ours, 2**16)
            if output.count(b"\x1b[2K") > 3 and b"24/40" in output and b" left" in output:
                process.stdin.close()
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0
    text = output.decode()
    assert "asking" in text
    assert "24/40" in one_line(text)
    assert "━" in text
    assert "/s, " in text
    assert " left" in text
    assert text.count("\x1b[2K") > 3, "the bar is redrawn"
    assert text.rstrip().endswith("over")
    assert "asking" not in text.rpartition("\x1b[2K")[2], "the bar is removed"
