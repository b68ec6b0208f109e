"""What the package logs is printed on stderr, line by line, while a command runs."""

from __future__ import annotations

import logging
import re

import pytest
from typer.testing import CliRunner

from qvl_attn.attribution.profiles import Profile, profile_json, shape_of
from qvl_attn.cli.app import app
from qvl_attn.cli.console import printed_log
from qvl_attn.core.files import write_json
from tests.helpers.loading import without_loading

LOG = logging.getLogger("qvl_attn")


@pytest.fixture
def run(tmp_path, monkeypatch, demo, cats):
    """Ask on the embedded model, with a profile, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)
    profile = Profile("mine", "measured", "a test", shape_of(demo.engine.config), layers=(2, 3))
    write_json(tmp_path / "mine.json", profile_json(profile, {}))
    options = ("--model", "demo", "--device", "cpu", "--dtype", "float32", "--profile", "mine.json")
    return lambda *args: CliRunner().invoke(app, ["ask", str(cats), "how many cats?", *options, *map(str, args)])


def test_the_lines_of_a_run_are_in_order(run):
    done = run()
    assert done.exit_code == 0, done.output
    lines = re.sub(r"\d+(\.\d+)?", "N", done.stderr).splitlines()
    assert re.fullmatch(r"demo \(\w+\): floatN on cpu \(N MiB of weights, N \wiB free\)", lines[0])
    assert lines[1:5] == [
        "headline: layers N-N (profile mine: calibrated; --profile none for the default layers)",
        lines[2],
        "loading the weights: N MiB",
        "loaded in N s",
    ]
    assert lines[2].startswith("eager attention: floatN, and it needs about N MiB of")
    assert len(lines) == len(set(lines))


def test_quiet_prints_none(run):
    done = run("--quiet")
    assert (done.exit_code, done.stderr) == (0, "")


def test_after_a_command_nothing_is_printed_any_more(run, capfd):
    before = LOG.level, list(LOG.handlers)
    assert run("--layers", "99").exit_code == 2
    assert (LOG.level, LOG.handlers) == before
    LOG.info("a message")
    assert capfd.readouterr() == ("", "")


def test_a_message_is_printed_as_it_is(capfd):
    with printed_log():
        logging.getLogger("qvl_attn.vqa.engine").info("100%s of \x1b[31m%d; [bold]`attn='rows'`[/bold]")
        logging.getLogger("other").info("not ours")
    assert capfd.readouterr().err == "100%s of [31m%d; [bold]--attn rows[/bold]\n"
