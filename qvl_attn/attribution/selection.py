"""What users type for layers, heads and query, parsed once; and the rows of a capture that a query means. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument, quoted, shortened
from qvl_attn.core.types import Capture, IntArray, Token

QUERY_KINDS = ("question", "last", "answer")
Pairs = tuple[tuple[int, int], ...]  # (layer, head), ascending
_ALL, _TEXT = "all", "text:"


@dataclass(frozen=True)
class Word:
    """A word of the question or the answer, and the positions of the tokens that cover it."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Query:
    """The tokens whose attention a map shows.

    Attributes:
        kind: `question`, `last`, `answer`, or `text` for some words of the question.
        words: these words; empty for the other kinds.
    """

    kind: str
    words: str = ""

    def __post_init__(self) -> None:
        if self.kind not in (*QUERY_KINDS, "text") or (self.kind == "text") != bool(self.words.strip()):
            raise ValueError(f"query {self.kind!r} of {self.words!r}")

    def __str__(self) -> str:
        return f"{_TEXT}{self.words}" if self.words else self.kind

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `question`, `last`, `answer` or `text:words`.

        Raises:
            InputError: the text has another form.
        """
        if text in QUERY_KINDS:
            return cls(text)
        if text.startswith(_TEXT) and text.removeprefix(_TEXT).strip():
            return cls("text", text.removeprefix(_TEXT))
        raise InputError(
            f"{argument('query', text)}: unknown", "write question, last, answer or text:WORDS, as in text:cats"
        )


@dataclass(frozen=True)
class Heads:
    """Heads that were named: `numbers`, which are heads of each layer, or (layer, head) `pairs`; the other is empty."""

    numbers: tuple[int, ...] = ()
    pairs: Pairs = ()

    def __post_init__(self) -> None:
        if bool(self.numbers) == bool(self.pairs):
            raise ValueError("want either numbers or pairs")

    def of(self, layers: Sequence[int]) -> Pairs:
        """Return the (layer, head) pairs: those that were named, or the numbers in each of some layers."""
        return self.pairs or tuple((layer, head) for layer in layers for head in self.numbers)


@dataclass(frozen=True)
class Selection:
    """Layers, heads and query, parsed.

    Attributes:
        layers: 0-based, ascending.
        heads: None for the mean of all heads.
        query: the tokens whose attention a map shows.
    """

    layers: tuple[int, ...]
    heads: Heads | None
    query: Query

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted({*self.layers}) or self.layers[0] < 0:
            raise ValueError(f"layers {self.layers}: want unique numbers, ascending from 0")


def parse_selection(
    layers: str | int | Sequence[int] | None,
    heads: str | None,
    query: str,
    layer_count: int,
    head_count: int,
) -> Selection:
    """Parse what a user names. Nothing else in the package reads these texts.

    Args:
        layers: `all`, `18`, `14-20`, `4,8,12` (0-based, inclusive) or numbers; None for all.
        heads: `3,5` for heads of each layer, or `21.9,21.11` for layer.head; `all` or None for the mean of all heads.
        query: `question`, `last`, `answer` or `text:words`.
        layer_count: number of the model's layers.
        head_count: heads per layer.

    Raises:
        InputError: a text has another form, or there is no such layer or head.
    """
    numbers = tuple(range(layer_count)) if layers is None else _parse_layers(layers, layer_count)
    return Selection(numbers, _parse_heads(heads, numbers, head_count), Query.parse(query))


def layers_text(typed: str | int | Sequence[int] | None, layer_count: int) -> str | None:
    """Return layers as a text: what is a text stays as it is, and numbers become the text that `describe` returns.

    Raises:
        InputError: there is no such layer.
    """
    return typed if typed is None or isinstance(typed, str) else describe(_parse_layers(typed, layer_count))


def _parse_layers(typed: str | int | Sequence[int], layer_count: int) -> tuple[int, ...]:
    numbers = [typed] if isinstance(typed, int) else typed
    text = numbers if isinstance(numbers, str) else ",".join(map(str, numbers))
    if text.strip().lower() == _ALL:
        return tuple(range(layer_count))
    return _parse_numbers(text, layer_count, "layer", argument("layers", typed))


def _parse_heads(text: str | None, layers: Sequence[int], head_count: int) -> Heads | None:
    if text is None or text.strip().lower() == _ALL:
        return None
    typed = argument("heads", text)
    if "." not in text:
        return Heads(_parse_numbers(text, head_count, "head", typed))
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
    return Heads(pairs=tuple(sorted(pairs)))


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


def describe_heads(pairs: Pairs | None) -> str:
    """Format (layer, head) pairs as a user would type them: `21.9,21.11`; `all` for None."""
    return _ALL if pairs is None else ",".join(f"{layer}.{head}" for layer, head in pairs)


def text_positions(tokens: Sequence[Token], question: str, text: str) -> tuple[int, ...]:
    """Return the positions of the question's tokens that cover `text`, for all its occurrences in the question.

    Raises:
        InputError: `text` does not occur in the question; the hint lists the question's words.
    """
    starts = [match.start() for match in re.finditer(f"(?={re.escape(text)})", question)]
    if not starts:
        names = ", ".join(word.text for word in words(tokens, question, "question"))
        typed = argument("query", str(Query("text", text)))
        raise InputError(f"{typed}: not in the question {question!r}", f"its words are: {names}")
    return tuple(
        token.position
        for token in tokens
        if token.role == "question"
        and token.span is not None
        and any(token.span[1] > start and token.span[0] < start + len(text) for start in starts)
    )


def query_rows(capture: Capture, question: str, query: Query) -> IntArray:
    """Return the rows of the capture that a query averages, as indices into its Q axis.

    `answer` selects the rows that produce the text tokens of the answer: the last prompt token produces the first, and
    each answer token the next. Rows that produce control tokens, such as the end token, are left out.

    Raises:
        InputError: words that are not in the question, an empty answer, or a capture without such rows.
    """
    if query.kind == "answer":
        texts = {token.position for token in capture.tokens if token.role == "answer"}
        rows = [row for row, position in enumerate(capture.produces.tolist()) if position in texts]
        if not rows:
            raise InputError(
                f"{argument('query', 'answer')}: the answer is empty, it has no tokens",
                f"use {argument('query', 'last')}",
            )
        return np.array(rows, dtype=np.int64)
    if query.kind == "text":
        found = np.flatnonzero(np.isin(capture.queries, text_positions(capture.tokens, question, query.words)))
    else:
        found = np.flatnonzero(capture.query_role == query.kind)
    if not len(found):
        raise InputError(f"{argument('query', str(query))}: the result has no row of it")
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
    """Yield each word of the question with the rows of its tokens in the capture, which a damaged one may lack."""
    for word in words(capture.tokens, question, "question"):
        rows = np.flatnonzero(np.isin(capture.queries, word.positions))
        if len(rows):
            yield word.text, rows
