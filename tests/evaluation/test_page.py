"""The page of a check as a file: when it is written, rewritten and refused, its contents and its safety."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.evaluation import page as check_page
from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.figures import CONTROLS, FIGURES
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.rows import read_scores
from tests.helpers.check_pages import EVIL, EVIL_FILE, KINDS, RANDOM, page_data
from tests.helpers.processes import ENV, ROOT

PAGE = ROOT / "qvl_attn" / "render" / "html" / "assets"
AGAIN = """
import sys
from typer.testing import CliRunner
from qvl_attn.cli.app import app
for folder in sys.argv[1:]:
    done = CliRunner().invoke(app, ["report", folder])
    assert done.exit_code == 0, done.output
print(sorted({"torch", "transformers"} & sys.modules.keys()))
"""


def report(*args):
    return CliRunner().invoke(app, ["report", *map(str, args)])


@pytest.fixture
def copied(finished_check, tmp_path):
    """Return a copy of a run, to damage it."""

    def copy(kind):
        return shutil.copytree(finished_check(kind).folder, tmp_path / kind)

    return copy


def altered(file, **changes):
    """Change fields of a JSON file; `...` removes a field."""
    value = json.loads(file.read_text(encoding="utf-8"))
    value |= changes
    file.write_text(json.dumps({name: field for name, field in value.items() if field is not ...}), encoding="utf-8")


# When it is written


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_and_a_merge_write_the_page_and_list_it(finished_check, kind):
    run = finished_check(kind)
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert "report.html" in run.summary["files"]
    assert set(run.summary["files"]) == files
    assert run.page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_it_is_made_again_byte_for_byte_without_torch_model_and_data(finished_check, copied):
    folders = [copied(kind) for kind in KINDS]
    for folder in folders:
        (folder / "report.html").unlink()
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, *map(str, folders)], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    for kind, folder in zip(KINDS, folders, strict=True):
        assert (folder / "report.html").read_bytes() == finished_check(kind).page.read_bytes(), kind


def test_a_page_elsewhere_leaves_the_run_as_it_was(copied, tmp_path):
    folder = copied("heads")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert report(folder, "--out", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_bytes() == before[folder / "report.html"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    again = report(folder, "--out", tmp_path / "page.html")
    assert again.exit_code == 2
    assert "page.html" in again.output


def test_a_run_of_an_older_version_has_a_page_without_pictures(copied):
    folder = copied("boxed")
    shutil.rmtree(folder / "gallery")
    assert report(folder).exit_code == 0
    page = page_data(folder / "report.html")
    assert page["cards"] == page["blocks"] == []
    assert len(page["rows"]) == 24


# Errors


def only_its_id(run):
    first = json.loads((run / "scores.jsonl").read_text().split("\n")[0])
    (run / "scores.jsonl").write_text(json.dumps({"id": first["id"]}) + "\n")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda run: (run / "summary.json").unlink(), 2, "is not finished: it has no summary.json"),
        (lambda run: (run / "summary.json").write_text("{"), 1, "summary.json cannot be read as JSON"),
        (lambda run: (run / "summary.json").write_text("[]"), 1, "summary.json is not a JSON object"),
        (lambda run: altered(run / "summary.json", model=...), 1, "summary.json is damaged"),
        (lambda run: altered(run / "summary.json", notes=...), 1, "summary.json is damaged"),
        (lambda run: altered(run / "summary.json", settings=[]), 1, "summary.json is damaged"),
        (
            lambda run: (run / "scores.jsonl").write_text('{"id": "a"}\n'),
            1,
            "line 1 is about 'a', no sample of this run",
        ),
        (only_its_id, 1, "scores.jsonl: line 1 is not a row"),
        (
            lambda run: (run / "scores.jsonl").write_text("{\n"),
            1,
            "scores.jsonl: line 1 is not a JSON object with an id",
        ),
        (lambda run: min((run / "gallery").glob("*.npz")).write_bytes(b"PK"), 1, ".npz"),
        (lambda run: min((run / "gallery").glob("*.npz")).rename(run / "gallery" / "a.npz"), 1, "of another sample"),
    ],
)
def test_a_damaged_run_is_an_error_of_one_line_and_the_page_stays(copied, spoil, code, words):
    folder = copied("boxed")
    before = (folder / "report.html").read_bytes()
    spoil(folder)
    done = report(folder)
    assert done.exit_code == code, done.output
    output = " ".join(done.output.split())
    assert words.replace(" ", "") in output.replace(" ", "")
    assert "Traceback" not in done.output
    assert output.startswith("error: ")
    assert (folder / "report.html").read_bytes() == before


def test_a_check_stands_alone(finished_check, tmp_path):
    done = report(finished_check("boxed").folder, finished_check("heads").folder, "--out", tmp_path / "page.html")
    assert done.exit_code == 2
    assert not (tmp_path / "page.html").exists()


# Contents


@pytest.mark.parametrize("kind", KINDS)
def test_its_numbers_are_those_of_the_summary_and_the_rows(finished_check, kind):
    run, page = finished_check(kind), page_data(finished_check(kind).page)
    for name in ("headline", "accuracy", "answers_and_grounding", "layers", "heads", "methods", "headline_map"):
        assert page[name] == run.summary[name], name
    for name in ("headline_of", "samples", "pictures", "with_boxes", "errors", "groups", "notes", "data"):
        assert page[name] == run.summary[name], name
    assert page["query"] == run.summary["settings"]["query"]
    assert page["model"].items() <= run.summary["model"].items()
    rows = [row for row in run.rows if row.get("half") != "first"]
    assert [row["id"] for row in page["rows"]] == [row["id"] for row in rows]
    assert page["left_out"] == 0
    for row, want in zip(page["rows"], rows, strict=True):
        for name in ("media", "question"):
            assert row[name] == want[name]
        for name in ("answer", "error"):
            assert row[name] == want.get(name, "")
        assert row["references"] == list(dict.fromkeys(want["references"]))
        assert row["right"] == (None if want["accuracy"] is None else want["accuracy"] >= 0.5)
        assert row["grounded"] == want.get("grounded")
        assert row["area"] == want.get("area")
        assert row["figures"] == [want.get("headline", {}).get(name) for name in FIGURES]
        controls = want.get("controls", {})
        assert row["controls"] == [[controls.get(c, {}).get(name) for name in FIGURES] for c in CONTROLS]


@pytest.mark.parametrize("kind", KINDS)
def test_its_cards_are_the_examples(finished_check, kind):
    run, page = finished_check(kind), page_data(finished_check(kind).page)
    text = run.page.read_text(encoding="utf-8")
    pictures = re.findall(r'<script type="text/plain" id="picture-(\d+)">([^<]*)</script>', text)
    examples = read_examples(run.folder)
    assert {page["rows"][card["row"]]["id"] for card in page["cards"]} == examples.keys()
    for card in page["cards"]:
        example = examples[page["rows"][card["row"]]["id"]]
        assert tuple(b64decode(pictures[i][1]) for i in card["pictures"]) == example.jpegs
        assert [tuple(size_px) for size_px in card["sizes_px"]] == [
            cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR).shape[1::-1] for file in example.jpegs
        ]
        assert card["boxes"] == [boxes.tolist() for boxes in example.boxes]
        assert card["grids"] == [list(values.shape) for values in example.values]
        for name in ("places", "times_s"):
            assert tuple(card[name]) == getattr(example, name)
        for name in ("of", "uniform", "high"):
            assert card[name] == getattr(example, name)
    assert [int(name) for name, _ in pictures] == list(range(len({*(picture for _, picture in pictures)})))


@pytest.mark.parametrize("most", [0, 3, 20, 23, 24])
def test_rows_beyond_the_maximum_are_left_out_but_never_those_with_examples(finished_check, monkeypatch, most):
    monkeypatch.setattr(check_page, "MAX_ROWS", most)
    run = finished_check("boxed")
    examples = read_examples(run.folder)
    assert RANDOM <= len(examples) < 20
    page = page_data(check_html(run.summary, read_scores(run.folder), examples))
    ids = [row["id"] for row in page["rows"]]
    count = max(most, len(examples))
    assert len(ids) == count
    assert page["left_out"] == 24 - count
    assert examples.keys() <= {*ids}
    order = [row["id"] for row in run.rows]
    assert ids == [name for name in order if name in ids]
    others = [name for name in order if name not in examples]
    assert [name for name in ids if name not in examples] == others[: count - len(examples)]
    assert {page["rows"][card["row"]]["id"] for card in page["cards"]} == examples.keys()


# Safety and size


class _Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def evil_page(run):
    """Return a page with an evil string in place of every text."""
    scores = [
        replace(score, id=score.id + EVIL, media=(EVIL,), question=EVIL, answer=EVIL, references=(EVIL, "\u2028"))
        for score in read_scores(run.folder)
    ]
    examples = {name + EVIL: example for name, example in read_examples(run.folder).items()}
    summary = run.summary | {"data": EVIL, "headline_map": EVIL, "notes": [EVIL]}
    summary["model"] = summary["model"] | dict.fromkeys(("name", "revision", "dtype", "device", "attention"), EVIL)
    return check_html(summary, scores, examples)


def test_evil_texts_stay_texts(finished_check):
    data = page_data(finished_check("evil").page)
    assert data["rows"][1]["question"] == f"what? {EVIL}"
    assert data["rows"][1]["references"] == [EVIL]
    assert data["rows"][1]["media"] == [EVIL_FILE]
    assert data["rows"][2]["error"]
    assert data["rows"][2]["id"] == f"broken {EVIL}"
    elements = _Elements(finished_check("heads").page.read_text(encoding="utf-8")).elements
    page = evil_page(finished_check("heads"))
    assert _Elements(page).elements == elements
    assert page.count("</script>") == sum(tag == "script" for tag, _ in elements)
    assert page_data(page)["rows"][0]["answer"] == EVIL


def test_the_policy_allows_only_the_style_and_the_script_of_the_page(finished_check):
    text = finished_check("boxed").page.read_text(encoding="utf-8")
    elements = _Elements(text).elements
    (policy,) = (attrs["content"] for tag, attrs in elements if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (code,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert rules.pop(rule) == f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert {attrs.get("type") for tag, attrs in elements if tag == "script"} == {None, "application/json", "text/plain"}
    assert not [attrs for _, attrs in elements if any(name.startswith("on") or name == "style" for name in attrs)]
    assert not [attrs for _, attrs in elements if attrs.get("src") or (attrs.get("href") or "data:,") != "data:,"]


@pytest.mark.parametrize("kind", ["boxed", "clips"])
def test_a_card_adds_little_more_than_its_picture_and_its_map(finished_check, kind):
    run = finished_check(kind)
    scores, examples = read_scores(run.folder), read_examples(run.folder)
    added_bytes = len(check_html(run.summary, scores, examples)) - len(check_html(run.summary, scores, {}))
    pictures = sum(len(b64encode(file)) for file in {file for example in examples.values() for file in example.jpegs})
    cells = sum(values.size for example in examples.values() for values in example.values)
    assert added_bytes < pictures + 4 * cells + 1500 * len(examples)
    assert len(run.page.read_bytes()) < 150_000 + pictures + 4 * cells + 2500 * len(scores)


# Texts


def _words(text):
    """Return the texts by language, in the order of the file."""
    words = {"en": {}, "zh": {}}
    parts = re.split(r"(?:^  (en|zh): \{|^Object\.assign\(WORDS\.(en|zh), \{)", text, flags=re.MULTILINE)
    for i in range(1, len(parts), 3):
        body = re.split(r"^(?:  \},|\}\);)", parts[i + 2], flags=re.MULTILINE)[0]
        pairs = re.finditer(r'(?:(\w+)|"([^"]+)"):\s+"((?:[^"\\]|\\.)*)"', body)
        words[parts[i] or parts[i + 1]] |= {match[1] or match[2]: match[3] for match in pairs}
    return words


def used_keys(scripts):
    """Return the keys in `t("...")`, also in conditional expressions, in `data-t`, and of figures and controls."""
    keys = set()
    for name in scripts:
        text = (PAGE / name).read_text(encoding="utf-8")
        keys |= {*re.findall(r'data-t(?:-label)?="(\w+)"', text)}
        for first in re.findall(r"\bt\(([^,()`]*)", text):
            keys |= {*re.findall(r'"(\w+)"', first)}
        for names in re.findall(r"const names = \[([^\]]*)\]", text):
            keys |= {f"f_{name}" for name in re.findall(r'"(\w+)"', names)}
    return keys | {f"f_{name}" for name in (*FIGURES, "area")} | {f"c_{name}" for name in CONTROLS}


def test_every_text_is_there_in_both_languages():
    scripts = ("words.js", "chart.js", "matrix.js", "cards.js", "table.js", "check.js")
    strings = ("strings.js", "strings_check.js")
    words = _words("\n".join((PAGE / name).read_text(encoding="utf-8") for name in strings))
    keys = used_keys(("base.html", "check.html", "colours.html", *scripts))
    assert {
        "sort",
        "smooth",
        "brightest",
        "f_lift",
        "c_other",
        "theme",
        "wrong",
        "up",
        "close",
        "f_deletion_blur",
    } <= keys
    for language, known in words.items():
        assert keys - known.keys() == set(), language
        assert not [name for name in keys if not known[name].strip()], language
    for name in words["en"]:
        places = {language: {*re.findall(r"\{\d\}", words[language][name])} for language in words}
        assert places["en"] == places["zh"], name


def test_undefined_figures_are_null_and_not_nan(finished_check):
    for kind in ("bare", "evil", "boxed"):
        text = finished_check(kind).page.read_text(encoding="utf-8")
        data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
        json.loads(data, parse_constant=lambda name: pytest.fail(name))
    assert all(value is None for row in page_data(finished_check("bare").page)["rows"] for value in row["figures"][:5])
    assert np.isfinite(page_data(finished_check("bare").page)["rows"][0]["figures"][5])
