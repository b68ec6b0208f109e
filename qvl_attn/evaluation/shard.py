"""Parts of a data set, for as many processes: which samples are whose. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from qvl_attn.core.errors import InputError

if TYPE_CHECKING:
    from qvl_attn.evaluation.data.samples import Sample

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of several parts.

    Attributes:
        number: which, from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, typed: str) -> Self:
        """Of `2/8`.

        Raises:
            InputError: it is not written so.
        """
        number, _, of = typed.partition("/")
        if not (number.isascii() and number.isdigit() and of.isascii() and of.isdigit() and len(typed) < 20):
            raise InputError(f"--shard {typed}: want NUMBER/OF, as in 2/8")
        if not 1 <= int(number) <= int(of) <= MOST_SHARDS:
            raise InputError(f"--shard {typed}: want 1/N to N/N, and N at most {MOST_SHARDS:,}")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples of this part, in their order.

        All questions about a picture are in one part, where it is read once for all of them. The pictures are put in
        the order of a hash of their names, and cut into parts of as many samples as can be.
        """
        counts = Counter(one.names for one in samples)
        mine, before = set(), 0
        for names in sorted(counts, key=_order):
            if before * self.of // len(samples) == self.number - 1:
                mine.add(names)
            before += counts[names]
        return [one for one in samples if one.names in mine]


def _order(names: Sequence[str]) -> bytes:
    return sha256("\0".join(names).encode()).digest()
