"""Write the arguments that the library's messages name as options of the command line."""

from __future__ import annotations

import ast
import re

_NAMES = """
alpha answer at attn batch-size blur box-format box-units by by-head calibrate colormap columns concurrency csv
data-root debug denoise device device-map draw-size dtype embeddings end engine fail-under faithfulness fps
gpus-per-worker heads image input-dir interp json label layer layers limit max-frames max-new-tokens max-pixels media
method methods min-pixels mode model n offline out over overwrite profile prompts query question quiet revision saliency
scale seed shard side-by-side smooth source-fps split start store-heads stretch stride system text top top-percent video
window
"""
OPTIONS = frozenset(_NAMES.split())
# Arguments of the Python API whose option has another name, and a method that an option stands for.
OTHER_NAMES = {
    "blur_cells": "blur",
    "clip_scale": "scale",
    "count": "n",
    "draw_size_px": "draw-size",
    "encode_folder": "input-dir",
    "end_s": "end",
    "folder": "input-dir",
    "images": "image",
    "start_s": "start",
    "texts": "text",
}
# An argument is a word of its own. Before that, a text that `core.text.quoted` or repr wrote: what it quotes is the
# user's, and an apostrophe, which follows a letter, begins none.
_ARGUMENT = re.compile(
    r"""
    (?<!\w) (?P<quote>['"]) (?: \\. | (?!(?P=quote))[^\\] )* (?P=quote) (?!\w)
    | (?<![\w./\\-]) ` (?P<name>[a-z][a-z_]*) (?: = (?P<written>[^`]*) )? ` (?! [\w/\\-] | \.\w )
    """,
    re.VERBOSE | re.DOTALL,
)


def spelled(message: str) -> str:
    """Return a message of the library with `max_pixels=100` as --max-pixels 100: see `core.text.argument`.

    Text of the user that is quoted, and words that only contain backticks, stay as they are.
    """
    return _ARGUMENT.sub(_option, message)


def _option(match: re.Match[str]) -> str:
    name, written = match["name"], match["written"]
    if name is None:
        return match[0]
    option = OTHER_NAMES.get(name, name.replace("_", "-"))
    if option not in OPTIONS:
        return match[0]
    return " ".join([f"--{option}", *([] if written is None else _typed(written))])


def _typed(written: str) -> list[str]:
    """Return the words that one types for a value that is written in Python; a flag has none."""
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):  # cut
        return [written]
    return [] if isinstance(value, bool) else [_word(value)]


def _word(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
