"""Where a shard's writes had got to: what a read must have seen that is to see one's own writes."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import RouterMisuse


@dataclass(frozen=True, slots=True)
class Token:
    """A position in the WAL of one shard's primary, in bytes. `str()` is for a cookie or a header, `parse` reads it."""

    shard: str
    lsn: int

    def __str__(self) -> str:
        return f"{self.shard}@{self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:X}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that `str()` wrote; raises `ValueError` for any other text."""
        shard, at, position = text.partition("@")
        high, slash, low = position.partition("/")
        if not (shard and at and slash):
            raise ValueError(f"not a token of a shard's position: {text[:40]!r}")
        return cls(shard, (int(high, 16) << 32) + int(low, 16))

    def for_shard(self, name: str) -> int:
        """The position, for a read on that shard; raises `RouterMisuse` when it is another's."""
        if name != self.shard:
            raise RouterMisuse(
                f"the token is of shard {self.shard}, and the call goes to shard {name}",
                hint="Take the token from the route that wrote: each shard has positions of its own.",
            )
        return self.lsn
