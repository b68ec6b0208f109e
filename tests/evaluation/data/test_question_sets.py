"""Question sets: those that ship, their format, and the command that lists them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.question_sets import PromptItem, load_prompts, shipped_sets

SETS = {name: load_prompts(str(path)) for name, path in shipped_sets().items()}
ENGLISH = ["colour", "counting", "existence", "generic", "place", "reading", "video"]
README = Path(__file__).parents[3] / "prompts" / "README.md"


def run(*args):
    return CliRunner().invoke(app, ["prompts", *map(str, args)])


def lines_of(done):
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_the_sets_that_ship():
    assert sorted(SETS) == sorted([*ENGLISH, *(f"{name}-zh" for name in ENGLISH)])


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_set_is_small_in_one_language_and_without_control_tokens(name):
    items = SETS[name]
    chinese = name.endswith("-zh")
    assert 5 <= len(items) <= 12
    assert len({item.question for item in items}) == len(items)
    for item in items:
        assert item.language == ("zh" if chinese else "en")
        assert re.fullmatch(rf"{name.removesuffix('-zh')}-[a-z]+{'-zh' if chinese else ''}", item.id)
        assert bool(re.search("[\u4e00-\u9fff]", item.question)) == chinese
        assert item.question.isascii() != chinese
        assert "<|" not in item.question
        assert item.question == item.question.strip()


def test_ids_are_unique_over_all_sets():
    ids = [item.id for items in SETS.values() for item in items]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ENGLISH)
def test_each_question_is_there_in_both_languages(name):
    assert [f"{item.id}-zh" for item in SETS[name]] == [item.id for item in SETS[f"{name}-zh"]]


def test_the_generic_prompt_of_relative_attention_comes_first():
    assert SETS["generic"][0].question == "Write a general description of the image."


def test_the_readme_names_the_sets_and_how_many_questions_they_have():
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (\d+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    counts = [(name, int(count)) for english, chinese, count in rows for name in (english, chinese)]
    assert sorted(counts) == sorted((name, len(items)) for name, items in SETS.items())


@pytest.mark.parametrize("language", ["3", "null", '""', '" "', '["en"]'])
def test_a_language_is_a_text(tmp_path, language):
    file = tmp_path / "set.jsonl"
    file.write_text(f'{{"id": "a", "question": "x?", "language": {language}}}')
    with pytest.raises(InputError) as caught:
        load_prompts(str(file))
    assert caught.value.details == ("line 1: language: want a non-empty string",)


def faults_of(tmp_path, *lines):
    """Return all faults of the lines of a question set."""
    file = tmp_path / "set.jsonl"
    file.write_bytes("\n".join(lines).encode())
    with pytest.raises(InputError) as caught:
        load_prompts(str(file))
    return list(caught.value.details)


def test_every_fault_of_every_line_is_reported(tmp_path):
    lines = [
        '{"id": "a", "question": "x?"}',
        "[]",
        '{"id": 1, "quesion": "x?", "language": ""}',
        '{"id": "a", "question": "y?"}',
        '{"id": "b", "question": "<image> y?", "x_a": 1, "meta": 2}',
        "{",
        '{"id": "c", "question": "x?", "image": "a.png"}',
        f'{{"id": "d", "question": "x?", "meta": {"1" * 5000}}}',
    ]
    assert faults_of(tmp_path, *lines) == [
        "line 2: not a JSON object",
        "line 3: id: want a non-empty string",
        "line 3: question: want a non-empty string",
        "line 3: language: want a non-empty string",
        "line 3: quesion: unknown field: did you mean question? (meta and x_... are free)",
        "line 4: id 'a' is used twice",
        "line 5: question: contains <image>: leave it out; the pictures come before the question",
        "line 6: not JSON",
        "line 7: image: a question set names no pictures; this looks like a data set",
        "line 8: a number with too many digits",
    ]


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_line_feed_only(tmp_path, char):
    file = tmp_path / "set.jsonl"
    file.write_text(f'{{"id": "a", "question": "first{char}second?"}}\r\n{{"id": "b", "question": "x?"}}', "utf-8")
    assert [item.question for item in load_prompts(str(file))] == [f"first{char}second?", "x?"]


def test_the_time_grows_with_the_lines_and_not_with_their_square(tmp_path, monkeypatch):
    """A set of 20,000 questions took half a minute: all ids before each line were collected anew."""
    loads, hashed = json.loads, []

    class Counted(str):
        __slots__ = ()
        __eq__ = str.__eq__

        def __hash__(self):
            hashed.append(self)
            return str.__hash__(self)

    def counted(line, **options):
        return {name: Counted(value) for name, value in loads(line, **options).items()}

    monkeypatch.setattr("qvl_attn.evaluation.data.jsonl.json.loads", counted)
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"id": f"q{i}", "question": "q?"}) + "\n" for i in range(500)))
    assert len(load_prompts(str(file))) == 500
    assert 500 <= len(hashed) < 10 * 500


def test_a_language_may_be_left_out(tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text('{"id": "a", "question": "x?"}\n{"id": "b", "question": "y?", "language": "fr"}')
    assert load_prompts(str(file)) == (PromptItem("a", "x?"), PromptItem("b", "y?", "fr"))


def test_the_command_lists_the_sets():
    header, *rows = lines_of(run())
    assert header.split() == ["set", "questions", "language", "first", "question"]
    first_at = header.index("first question")
    cells = [(*row[:first_at].split(), row[first_at:]) for row in rows]
    assert cells == [
        (name, str(len(items)), items[0].language, items[0].question) for name, items in sorted(SETS.items())
    ]


def test_the_command_lists_the_sets_as_json():
    rows = [json.loads(line) for line in lines_of(run("--json"))]
    assert {row["name"]: row["questions"] for row in rows} == {name: len(items) for name, items in SETS.items()}
    assert all(set(row) == {"name", "questions", "language", "first"} for row in rows)


def test_what_ships_is_listed_and_not_files_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("counting").write_text("mine")
    Path("video").mkdir()
    assert len(lines_of(run())) == 1 + len(SETS)


@pytest.mark.parametrize("name", ["counting", "reading-zh"])
def test_the_command_prints_a_set(name):
    assert lines_of(run(name)) == [f"{item.id}\t{item.question}" for item in SETS[name]]


def test_its_json_output_is_a_question_set(tmp_path):
    lines = ['{"id": "a", "question": "x?"}', '{"id": "b", "question": "\\u51e0\\u4e2a\\uff1f", "language": "zh"}']
    file = tmp_path / "set.jsonl"
    file.write_text("\n".join(lines))
    assert lines_of(run(file, "--json")) == lines


def test_control_characters_never_reach_the_terminal(tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"id": "a\tb", "question": "\x1b[31mcats\x07\u202e\n?"}))
    assert lines_of(run(file)) == ["a b\t[31mcats ?"]


def test_an_unknown_set_is_an_error_that_lists_the_sets():
    done = run("nothing")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: nothing: no such file or question set" in done.stderr
    assert "Traceback" not in done.stderr
    assert all(name in re.split(r"[\s,]+", done.stderr) for name in SETS)


def test_the_command_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from typer.testing import CliRunner; from qvl_attn.cli.app import app;"
        "assert all(CliRunner().invoke(app, ['prompts', *args]).exit_code == 0 for args in ([], ['counting']));"
        "print(sorted({'torch', 'transformers', 'numpy', 'cv2', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
