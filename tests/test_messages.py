"""The library's messages name arguments as Python writes them; options are words of the command line alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.helpers.import_graph import module_files

OPTION = re.compile(r"(?:^|(?<=[\s(`'\"/]))--[a-z][a-z_-]*")
# From the name of a command on, options are its own.
COMMAND = re.compile(r"(?:qvl-attn|hf) [a-z].*", re.DOTALL)
# Options that are no argument in a message: notes and names that results and runs keep on disk, and those of other
# commands.
KEPT = {
    "encoders.folder_run": "--embeddings --max-pixels --min-pixels --seed --stretch",
    "evaluation.data.converters.grounding": "--images --one-instance --out --question --split",  # its own
    "evaluation.outputs": "--fail-under --fps --max-pixels",
    "evaluation.run_config": "--attn --by-head --calibrate --device --dtype --faithfulness --fps --max-frames "
    "--methods --model --profile --seed --shard",
    "evaluation.score": "--calibrate --shard",
    "evaluation.sharding": "--shard",
    "media.animation": "--source-fps",
    "media.image": "--stretch",
    "media.sampling": "--end --max-frames --start",
    "model.checkpoint": "--revision",  # of hf
    "model.loading": "--safe_serialization",  # of zero_to_fp32.py
    "results.clip_export": "--media",
    "results.run_folder": "--shard",
    "vqa.figures": "--layers --max-new-tokens --media",
}


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


def options_in(source: str) -> set[str]:
    return {option for text in texts(ast.parse(source)) for option in OPTION.findall(COMMAND.sub("", text))}


def test_messages_name_arguments_and_not_options():
    found = {}
    for module, path in module_files().items():
        name = module.removeprefix("qvl_attn.")
        if not name.startswith("cli."):
            found[name] = options_in(path.read_text(encoding="utf-8"))
    assert {name: options for name, options in found.items() if options} == {
        name: {*options.split()} for name, options in KEPT.items()
    }


def test_an_option_is_found_wherever_it_stands():
    assert options_in('f"--fps {fps:g}: lower (--max-frames)"') == {"--fps", "--max-frames"}
    assert options_in("say(f\"{name} needs '--text'\")") == {"--text"}
    assert options_in('def f():\n    """The value of --fps."""\n    return "a--b -- qvl-attn check --limit 5"') == set()
