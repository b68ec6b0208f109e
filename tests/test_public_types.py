"""The types that stand in the signatures and fields of what is public can be imported, too. Read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import qvl_attn
from tests.helpers.import_graph import module_files

MODULES = module_files()
SPECIAL = ("__init__", "__call__")
# Types that stand there and are not exported.
NOT_EXPORTED = {
    "Engine": "behind an analyzer, for those who build on parts of the package",
    "EncoderEngine": "behind an encoder, for those who build on parts of the package",
    "Workers": "a protocol; the workers that there are stand in `Analyzer.load`",
    "MediaRef": "a file of a sample; samples are made by `load_samples` and taken by `Analyzer.check`",
    "Job": "the sizes of a question, of which an estimate is made",
    "Apart": "which heads a capture has one by one; `Result.heatmap` finds them",
    "Selection": "what is asked for, parsed; `Settings` has it as it is typed",
    "Query": "part of a Selection: the tokens whose attention is shown",
    "Shape": "the model that a profile is for",
    "View": "what a method computes from; the package makes it",
    "VqaRecord": "the fields of a Result",
    "EncoderRecord": "the fields of an EncoderResult",
    "Record": "the fields of every result",
    "Provenance": "the fields of every provenance",
    "FloatArray": "numpy's NDArray[np.float32]",
    "IntArray": "numpy's NDArray[np.int64]",
    "Pairs": "tuples of (layer, head)",
    "Over": "the texts mean, max and min",
    "SaliencyMethod": "the texts gradcam and attention_gradient",
    "Count": "a whole number from 0",
    "_LayerCount": "a whole number from 1",
    "Finite": "a float that is finite",
    "Number": "a float that is finite, or None",
    "ResultJson": "the fields of result.json; they are read by `load`",
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def origins(module: str) -> dict[str, str]:
    """The names of the package that a module knows, each with the module that it comes from."""
    imported = {
        alias.name: node.module
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ImportFrom) and node.module in MODULES
        for alias in node.names
    }
    return imported | dict.fromkeys(definitions(module), module)


@cache
def definitions(module: str) -> dict[str, ast.AST]:
    """The classes, functions and types that a module defines at its top."""
    found: dict[str, ast.AST] = {}
    for node in tree(module).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):  # a call makes a TypeVar
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


def annotations(node: ast.AST, module: str) -> Iterator[tuple[ast.AST, str]]:
    """What a definition says about types, and the module where it says so; of a class with what it inherits."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        yield from ((each.annotation, module) for each in every if each is not None and each.annotation is not None)
        if node.returns is not None:
            yield node.returns, module
    elif isinstance(node, ast.AnnAssign):
        yield node.annotation, module
    elif isinstance(node, ast.Assign):
        yield node.value, module
    elif isinstance(node, ast.ClassDef):
        for member in node.body:
            name = member.name if isinstance(member, ast.FunctionDef) else ""
            if isinstance(member, (ast.FunctionDef, ast.AnnAssign)) and (name[:1] != "_" or name in SPECIAL):
                yield from annotations(member, module)
        for base in node.bases:
            yield base, module
            if isinstance(base, ast.Name) and (home := origins(module).get(base.id)):
                yield from annotations(definitions(home)[base.id], home)


def types_of(name: str) -> set[str]:
    """The names of the package that stand in the signature or the fields of something public."""
    module = f"qvl_attn.{qvl_attn._MODULES[name]}"
    return {
        part.id
        for annotation, home in annotations(definitions(module)[name], module)
        for part in ast.walk(annotation)
        if isinstance(part, ast.Name) and part.id in origins(home)
    } - {name}


def test_the_types_of_what_is_public_are_public():
    shown = {name: types_of(name) for name in qvl_attn._MODULES}
    hidden = {f"{name}: {used}" for name, types in shown.items() for used in types - {*qvl_attn.__all__, *NOT_EXPORTED}}
    assert not hidden
    assert set().union(*shown.values()) - {*qvl_attn.__all__} == {*NOT_EXPORTED}, "an exception that is none"


def test_types_are_found_wherever_they_stand():
    """Parameters, imports for types alone, options, aliases, return types, fields, properties, what is inherited."""
    assert types_of("Analyzer") >= {"Engine", "PictureLike", "Workers", "AskOptions", "Cancel", "Estimate"}
    assert types_of("PictureLike") == {"Media"}
    assert types_of("METHODS") == {"Method"}
    assert types_of("Result") >= {"Capture", "Headline", "Scale", "Drawing", "Query"}
    assert types_of("CheckOptions") >= {"CommonOptions", "SamplingOptions"}
    assert types_of("load_samples") == {"Sample", "Progress"}
