"""VQA accuracy of an answer. Pure, standard library only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ANNOTATORS = 10
AGREEING = 3

_APOSTROPHES = str.maketrans("", "", "'‘’")
# VQA's punctuation marks, and the Chinese ones that NFKC does not map to one of them.
_MARKS = ';/[]"{}()=+\\_-><@`,?!。、“”'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}


def normalise(text: str) -> str:
    """Return an answer as VQA compares it: "Two." is "2", "a Red car" is "red car", "don't" is "dont".

    The rules are those of VQA's vqaEval.py (`processPunctuation`, `processDigitArticle`; Antol et al. 2015, Goyal et
    al. 2017). A mark is removed everywhere if the text has it next to a space, or if a number in the text has a comma;
    otherwise it becomes a space. A period is removed if no digit follows it; none and zero to ten become digits; a, an
    and the are dropped.

    There are five differences. NFKC is applied first, and Chinese marks count as marks. Apostrophes are dropped where
    VQA uses a table of contractions: this makes the same words equal, and a few more ("its" and "it's"). A text of
    articles only keeps them, so that the choice "A" differs from the choice "an" and from an empty answer. And
    references are normalised as answers are: see `accuracy`. Normalisation is idempotent.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES).split())
    words = _PERIOD.sub("", _without_marks(text)).split()
    content_words = [_DIGITS.get(word, word) for word in words if word not in _ARTICLES]
    # Characters that a mark separated may now combine.
    return unicodedata.normalize("NFKC", " ".join(content_words or words))


def _without_marks(text: str) -> str:
    remove_all = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _MARKS:
        remove = remove_all or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if remove else " ")
    return result


def accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the accuracy of an answer, from 0 to 1. All texts are normalised before they are compared.

    VQA itself removes only the marks of its references, so that "two", which becomes "2", has no match in "two" and
    "yes", and scores 0; here it matches.

    Up to nine references are accepted alternatives: the accuracy is 1 if the answer equals one of them. Ten or more
    references are the answers of as many annotators, and the accuracy is VQA's (Antol et al. 2015; vqaEval.py,
    `evaluate`): each annotator is left out once, and the n values min(1, matches among the others / 3) are averaged.
    With m matches of n this is (m · min(1, (m − 1) / 3) + (n − m) · min(1, m / 3)) / n; with ten annotators, 0.3 for
    one match, 0.6 for two, 0.9 for three.

    Raises:
        ValueError: there are no references.
    """
    if not references:
        raise ValueError("an answer cannot be right or wrong without references")
    normalised = normalise(answer)
    matches = sum(normalise(reference) == normalised for reference in references)
    if len(references) < ANNOTATORS:
        return float(matches > 0)
    others = len(references) - matches
    return (matches * min(1, (matches - 1) / AGREEING) + others * min(1, matches / AGREEING)) / len(references)
