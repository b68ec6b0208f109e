"""What was generated: which token plays which role, and the text they make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from qvl_attn.core.types import Token


def answer_tokens(tokenizer: Any, ids: Sequence[int], first_position: int) -> tuple[tuple[Token, ...], str]:
    """Roles of the tokens that were generated, and the text they make.

    Control tokens (the end of the turn) are `template`; the others are `answer` and carry the characters of the text
    that they cover: several tokens can share one character.

    Args:
        tokenizer: of the model.
        ids: of the tokens, in order.
        first_position: of the first of them.
    """
    special = set(tokenizer.all_special_ids)
    plain = [token for token in ids if token not in special]
    text = tokenizer.decode(plain, clean_up_tokenization_spaces=False)

    def whole(count: int) -> int:
        return len(tokenizer.decode(plain[:count], clean_up_tokenization_spaces=False).rstrip("\ufffd"))

    ends = list(accumulate((whole(i + 1) for i in range(len(plain))), max))
    tokens, seen = [], 0
    for i, token in enumerate(ids):
        piece = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if token in special:
            tokens.append(Token(first_position + i, piece, "template"))
            continue
        start = ends[seen - 1] if seen else 0
        stop = min(max(ends[seen], start + 1), len(text))
        tokens.append(Token(first_position + i, piece, "answer", (min(start, stop), stop)))
        seen += 1
    return tuple(tokens), text
