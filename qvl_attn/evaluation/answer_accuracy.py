"""Whether an answer is right, as VQA counts it. Pure, standard library only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ANNOTATORS = 10
AGREEING = 3

_APOSTROPHES = str.maketrans("", "", "'‘’")
# VQA's marks, and those Chinese ones that NFKC does not turn into one of them.
_MARKS = ';/[]"{}()=+\\_-><@`,?!。、“”'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}


def normalise(text: str) -> str:
    """An answer as VQA compares it: "Two." is "2", "a Red car" is "red car", "don't" is "dont".

    The rules are those of VQA's vqaEval.py (`processPunctuation`, `processDigitArticle`; Antol et al. 2015, Goyal et
    al. 2017). A mark vanishes everywhere if it stands beside a space anywhere in the text, or if a number in the text
    has a comma; otherwise it becomes a space. A period vanishes if no digit follows it; none and zero to ten become
    digits; a, an and the are dropped.

    It differs in four things. NFKC comes first, and Chinese marks count as marks. Apostrophes are dropped where VQA has
    a table of contractions, which makes the same words equal and a few more ("its" and "it's"). What has nothing but
    articles keeps them, so that the choice "A" is not the choice "an", nor an empty answer. And what is normalised once
    is normalised for good.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES).split())
    words = _PERIOD.sub("", _without_marks(text)).split()
    kept = [_DIGITS.get(word, word) for word in words if word not in _ARTICLES]
    # What a mark stood between may now be one character.
    return unicodedata.normalize("NFKC", " ".join(kept or words))


def _without_marks(text: str) -> str:
    all_vanish = _COMMA_IN_NUMBER.search(text) is not None
    left = text
    for mark in _MARKS:
        vanishes = all_vanish or f"{mark} " in text or f" {mark}" in text
        left = left.replace(mark, "" if vanishes else " ")
    return left


def accuracy(answer: str, references: Sequence[str]) -> float:
    """How right an answer is, from 0 to 1, all compared normalised.

    Up to nine references are accepted alternatives: 1 if the answer is one of them. Ten or more are what as many people
    answered, and the answer is as right as VQA has it (Antol et al. 2015; vqaEval.py, `evaluate`): each person
    is left out once, and of the n values min(1, matches among the others / 3) the mean is taken. With m matches of n
    that is (m · min(1, (m − 1) / 3) + (n − m) · min(1, m / 3)) / n; with ten, 0.3 for one, 0.6 for two, 0.9 for three.

    Raises:
        ValueError: there are no references.
    """
    if not references:
        raise ValueError("an answer cannot be right or wrong without references")
    wanted = normalise(answer)
    matches = sum(normalise(reference) == wanted for reference in references)
    if len(references) < ANNOTATORS:
        return float(matches > 0)
    others = len(references) - matches
    return (matches * min(1, (matches - 1) / AGREEING) + others * min(1, matches / AGREEING)) / len(references)
