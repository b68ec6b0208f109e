"""The library's messages name arguments as Python writes them; options are words of the command line alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.import_graph import module_files

OPTION = re.compile(r"(?:^|(?<=[\s(`'\"/]))--[a-z][a-z_-]*")
COMMAND = re.compile(r"\b(?:qvl-attn|hf|python -m) [a-z]\S*\b")
# Options that are no argument in a message: notes and names that results and runs keep on disk (`media[0].notes` is
# read from there, too), and those of other commands.
KEPT = {
    "encoders.folder_run": "--embeddings --max-pixels --min-pixels --seed --stretch",
    "evaluation.data.converters.grounding": "--images --one-instance --out --question --split",  # its own
    "evaluation.outputs": "--fail-under --fps --max-pixels",
    "evaluation.run_config": "--attn --by-head --calibrate --device --dtype --faithfulness --fps --max-frames "
    "--methods --model --profile --seed --shard",
    "evaluation.rows": "--calibrate --shard",
    "evaluation.sharding": "--shard",
    "media.animation": "--source-fps",
    "media.image": "--stretch",
    "media.sampling": "--end --max-frames --start",
    "model.checkpoint": "--revision",  # of hf
    "model.loading": "--safe_serialization",  # of zero_to_fp32.py
    "results.clip_export": "--media",
    "results.figures": "--media",
    "results.run_folder": "--shard",
    "vqa.figures": "--layers --max-new-tokens",
}
# Commands that messages name: other programs, and two that stand beside the function that does the same in Python.
COMMANDS = {"media.image": "qvl-attn ask, qvl-attn video", "model.checkpoint": "hf auth, hf download"}
# Arguments that only one module names, since they are too common for an option of another name.
OWN = {"count": "demo.dataset", "folder": "encoders.folder_pictures"}


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module but for docstrings; the values in an f-string are written {}."""
    nodes = list(ast.walk(tree))
    bodies = [node.body for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    apart = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    apart |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield node.value


def found_in(source: str, pattern: re.Pattern[str]) -> set[str]:
    return {found for text in texts(ast.parse(source)) for found in pattern.findall(text)}


@pytest.fixture(scope="module")
def sources():
    """The library's modules but for the command line, by name."""
    named = {module.removeprefix("qvl_attn."): path for module, path in module_files().items()}
    return {name: path.read_text(encoding="utf-8") for name, path in named.items() if not name.startswith("cli.")}


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        (OPTION, {name: {*options.split()} for name, options in KEPT.items()}),
        (COMMAND, {name: {*commands.split(", ")} for name, commands in COMMANDS.items()}),
        # `core.text` has `argument`, and answers and messages of msgspec are without this mark.
        (re.compile("`"), {name: {"`"} for name in ("core.text", "core.typed_json", "evaluation.answer_accuracy")}),
    ],
    ids=["options", "commands", "backticks"],
)
def test_messages_name_arguments_alone_and_with_argument(sources, pattern, kept):
    found = {name: found_in(source, pattern) for name, source in sources.items()}
    assert {name: texts for name, texts in found.items() if texts} == kept


def test_options_of_another_name_are_arguments_of_one_module(sources):
    naming = re.compile(rf"argument\([\"']({'|'.join(OWN)})[\"']")
    assert {(name, module) for module, source in sources.items() for name in naming.findall(source)} == {*OWN.items()}


def test_an_option_is_found_wherever_it_stands():
    assert found_in('f"--fps {fps:g}: lower (--max-frames)"', OPTION) == {"--fps", "--max-frames"}
    assert found_in("say(f\"{name} needs '--text'\")", OPTION) == {"--text"}
    assert found_in('say("the same qvl-attn check --limit 5")', OPTION) == {"--limit"}
    assert found_in('def f():\n    """The value of --fps."""\n    return "a--b -- c"', OPTION) == set()


def test_a_command_is_found_wherever_it_stands():
    assert found_in('f"{a}, then (`qvl-attn check`) again"', COMMAND) == {"qvl-attn check"}
    assert found_in('def f():\n    """See `qvl-attn methods`."""\n    return "qvl-attn: no"', COMMAND) == set()
