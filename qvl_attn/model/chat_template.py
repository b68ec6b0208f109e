"""Render a checkpoint's chat template, which is a stranger's program, within bounds of time and of the prompt's size.

transformers renders templates in Jinja's sandbox, which keeps them from files and from the interpreter, but neither
from looping for ever nor from growing for ever. So each rendering runs in a thread of its own, which is ended when it
takes too long: no process has to be started, a signal handler would need the main thread, and a trace function would
slow every line. A thread cannot be stopped inside one operation, so powers and large written integers, with which one
takes for ever, are refused before.

Memory is not bounded: a template that is written to fill it still can, for example with a width or a count that it
computes. Nothing else of the machine is within its reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError

from qvl_attn.core.errors import ModelError, QvlAttnError
from qvl_attn.core.runtime import finished_within
from qvl_attn.core.text import plain, shortened

Message = dict[str, Any]

# A rendering takes less than a millisecond.
LIMIT_S = 5.0
# Characters of a template, and of a prompt beside the texts that the user gave. Tokenizing takes time.
MAX_CHARACTERS = 2**16
# The largest integer that a template may write.
_LARGEST = 10**6
_REMEDY = "take the chat_template.jinja of the base model"


def render(processor: Any, messages: Sequence[Message]) -> str:
    """Return the prompt's text, as the processor's template renders it.

    Raises:
        ModelError: the template is broken, refuses the messages, or is over a limit.
    """
    whose = f"{processor.tokenizer.name_or_path}: its chat template"
    _check_template(str(processor.chat_template), whose)
    given = sum(len(item["text"]) for message in messages for item in message["content"] if item["type"] == "text")
    try:
        text = finished_within(
            LIMIT_S,
            lambda: processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True),
        )
        if not isinstance(text, str) or len(text) > MAX_CHARACTERS + given:
            raise ModelError(f"{whose} makes a prompt of over {MAX_CHARACTERS:,} characters", _REMEDY)
    except QvlAttnError:
        raise
    except TimeoutError:
        raise ModelError(f"{whose} took more than {LIMIT_S:g} s and was stopped", _REMEDY) from None
    except Exception as error:  # a template can raise anything
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__} "
        words = shortened(plain(" ".join(str(error).split())))
        raise ModelError(f"{whose} cannot be used: {kind}{words}", _REMEDY) from error
    return text


@lru_cache(maxsize=8)
def _check_template(template: str, whose: str) -> None:
    if len(template) > MAX_CHARACTERS:
        raise ModelError(f"{whose} has over {MAX_CHARACTERS:,} characters", _REMEDY)
    try:
        tokens = list(Environment().lex(template))
    except TemplateError:
        return  # said when it is rendered
    before = ""
    for _, kind, word in tokens:
        # After ( or , a call unpacks its named arguments.
        power = (kind, word) == ("operator", "**") and before not in ("(", ",")
        if power or (kind == "integer" and len(word) > len(str(_LARGEST))):
            raise ModelError(f"{whose} computes with {shortened(word)}, which is refused", _REMEDY)
        before = before if kind == "whitespace" else word
