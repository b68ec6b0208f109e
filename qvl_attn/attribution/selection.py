"""Parse the user's layers, heads and queries into indices. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import quoted, shortened
from qvl_attn.core.types import Capture, IntArray, Token

QUERY_KINDS = ("question", "last", "answer")


@dataclass(frozen=True)
class Word:
    """A word of the question or the answer, and the positions of the tokens that cover it."""

    text: str
    positions: tuple[int, ...]


def parse_layers(text: str | int | Sequence[int] | None, layer_count: int) -> tuple[int, ...]:
    """Parse `all`, `18`, `14-20`, `4,8,12` (0-based, inclusive) or numbers to ascending layer numbers; None is all.

    Raises:
        InputError: the text has another form, or the model has no such layer.
    """
    if text is None:
        return tuple(range(layer_count))
    if not isinstance(text, str):
        text = ",".join(map(str, [text] if isinstance(text, int) else text))
    if text.strip().lower() == "all":
        return tuple(range(layer_count))
    return _parse_numbers(text, layer_count, "layer", f"--layers {shortened(text)}")


def parse_heads(text: str | None, layers: Sequence[int], head_count: int) -> tuple[tuple[int, int], ...] | None:
    """Parse `3,5` (heads of each of `layers`) or `21.9,21.11` (layer.head) to (layer, head) pairs; None is all heads.

    Args:
        text: the value of `--heads`.
        layers: the captured layers.
        head_count: heads per layer.

    Raises:
        InputError: the text has another form, or there is no such head or layer.
    """
    if text is None or text.strip().lower() == "all":
        return None
    typed = f"--heads {shortened(text)}"
    if "." not in text:
        heads = _parse_numbers(text, head_count, "head", typed)
        return tuple((layer, head) for layer in layers for head in heads)
    pairs = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", part, re.ASCII)
        if not match:
            wrong = quoted(part.strip())
            raise InputError(f"{typed}: {wrong} is not layer.head", "write 3,5 or 21.9,21.11, not both")
        layer, head = _number(match[1]), _number(match[2])
        if layer not in layers:
            raise InputError(f"{typed}: layer {shortened(match[1])} is not among layers {describe(layers)}")
        if head >= head_count:
            raise InputError(f"{typed}: no head {shortened(match[2])}", f"the model has heads 0 to {head_count - 1}")
        pairs.add((layer, head))
    return tuple(sorted(pairs))


def _parse_numbers(text: str, count: int, noun: str, typed: str) -> tuple[int, ...]:
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+))?\s*", part, re.ASCII)
        if not match:
            raise InputError(
                f"{typed}: {quoted(part.strip())} is not a {noun}",
                f"write 18, 14-20 or 4,8,12 ({noun}s from 0)",
            )
        ends = match[1], match[2] or match[1]
        first, last = map(_number, ends)
        if max(first, last) >= count:
            beyond = shortened(ends[last >= count])
            raise InputError(f"{typed}: no {noun} {beyond}", f"the model has {noun}s 0 to {count - 1}")
        if last < first:
            raise InputError(f"{typed}: {quoted(part.strip())} is descending", f"write {last}-{first}")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def _number(digits: str) -> int:
    """Return a number, or, if it has too many digits for Python, one beyond all layers and heads."""
    return int(digits) if len(digits) < 20 else 10**20


def default_layers(layer_count: int) -> tuple[int, ...]:
    """Return the default layers of the headline map: those whose middle is at 50 to 85 % of the depth.

    Published work on Qwen2.5-VL finds grounding there (layer 22 of 36 in arXiv 2502.17422), not in the mean of all
    layers and not in the last layer. The middle of layer l of n is at (l + 0.5) / n.
    """
    return tuple(layer for layer in range(layer_count) if 0.5 <= (layer + 0.5) / layer_count <= 0.85)


def describe(numbers: Sequence[int]) -> str:
    """Format ascending numbers as a user would type them: `0-3,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def describe_layers(layers: Sequence[int]) -> str:
    """Format layers: `layer 18`, `layers 14-20`."""
    return f"layer{'s' if len(layers) > 1 else ''} {describe(layers)}"


def parse_query(text: str) -> str:
    """Check the form of `question`, `last`, `answer` or `text:words`.

    Raises:
        InputError: the text has another form.
    """
    if text in QUERY_KINDS or (text.startswith("text:") and text.removeprefix("text:").strip()):
        return text
    raise InputError(
        f"--query {shortened(text)}: unknown", "write question, last, answer or text:WORDS, as in text:cats"
    )


def text_positions(tokens: Sequence[Token], question: str, text: str) -> tuple[int, ...]:
    """Return the positions of the question's tokens that cover `text`, for all its occurrences in the question.

    Raises:
        InputError: `text` does not occur in the question; the hint lists the question's words.
    """
    starts = [match.start() for match in re.finditer(f"(?={re.escape(text)})", question)]
    if not starts:
        names = ", ".join(word.text for word in words(tokens, question, "question"))
        raise InputError(f"--query text:{text}: not in the question {question!r}", f"its words are: {names}")
    return tuple(
        token.position
        for token in tokens
        if token.role == "question"
        and token.span is not None
        and any(token.span[1] > start and token.span[0] < start + len(text) for start in starts)
    )


def query_rows(capture: Capture, question: str, query: str) -> IntArray:
    """Return the rows of the capture that a query averages, as indices into its Q axis.

    `answer` selects the rows that produce the text tokens of the answer: the last prompt token produces the first, and
    each answer token the next. Rows that produce control tokens, such as the end token, are left out.

    Raises:
        InputError: unknown query, an empty answer, or a capture without such rows.
    """
    parse_query(query)
    if query == "answer":
        texts = {token.position for token in capture.tokens if token.role == "answer"}
        rows = [row for row, position in enumerate(capture.produces.tolist()) if position in texts]
        if not rows:
            raise InputError("--query answer: the answer is empty, it has no tokens", "use --query last")
        return np.array(rows, dtype=np.int64)
    if query in QUERY_KINDS:
        found = np.flatnonzero(capture.query_role == query)
    else:
        positions = text_positions(capture.tokens, question, query.removeprefix("text:"))
        found = np.flatnonzero(np.isin(capture.queries, positions))
    if not len(found):
        raise InputError(f"--query {query}: the result has no row of it")
    return found


def words(tokens: Sequence[Token], text: str, role: str) -> tuple[Word, ...]:
    """Join the tokens of a text into words.

    Tokens are joined if they share a character (pieces of one emoji), or if letters or digits meet without a space
    between them. Chinese, Japanese and Korean text has no spaces: there each token is a word.

    Args:
        tokens: tokens of the whole sequence.
        text: the question or the answer.
        role: role of the tokens to join: `question` or `answer`.
    """
    groups: list[tuple[int, int, list[int]]] = []
    for token in tokens:
        if token.role != role or token.span is None:
            continue
        start, stop = token.span
        if groups and (start < groups[-1][1] or _continues_word(text, start)):
            first, last, positions = groups[-1]
            groups[-1] = (first, max(last, stop), [*positions, token.position])
        else:
            groups.append((start, stop, [token.position]))
    return tuple(
        Word(text[start:stop].strip(), tuple(positions))
        for start, stop, positions in groups
        if text[start:stop].strip()
    )


def _continues_word(text: str, boundary: int) -> bool:
    if not 0 < boundary < len(text):
        return False
    return all(character.isalnum() and not _is_wide(character) for character in text[boundary - 1 : boundary + 1])


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def produced_words(capture: Capture, answer: str) -> Iterator[tuple[str, IntArray]]:
    """Yield each word of the answer with the rows of the capture that produced its tokens."""
    row_of = {position: row for row, position in enumerate(capture.produces.tolist()) if position >= 0}
    for word in words(capture.tokens, answer, "answer"):
        rows = [row_of[position] for position in word.positions if position in row_of]
        if rows:
            yield word.text, np.array(rows, dtype=np.int64)


def question_words(capture: Capture, question: str) -> Iterator[tuple[str, IntArray]]:
    """Yield each word of the question with the rows of its tokens in the capture."""
    for word in words(capture.tokens, question, "question"):
        yield word.text, np.flatnonzero(np.isin(capture.queries, word.positions))
