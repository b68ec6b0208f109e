"""Parts of a data set, for as many processes: which samples are whose. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from qvl_attn.errors import InputError

if TYPE_CHECKING:
    from qvl_attn.samples import Sample

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
            raise InputError(f"--shard {typed}: they are 1/{of} to {of}/{of}", f"at most {MOST_SHARDS:,}")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples of this part, in their order.

        A hash of the names of what is shown decides, and nothing else of the data set: all questions about a picture
        are in one part, where it is read once for all of them.
        """
        return [one for one in samples if _place(one) % self.of == self.number - 1]


def _place(sample: Sample) -> int:
    return int.from_bytes(sha256("\0".join(sample.names).encode()).digest()[:8])
