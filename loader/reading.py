"""Who reads which rows, how far and how fast: what may differ between ranks and between runs.

The other half of what a loader is told, next to `OrderSpec`. Nothing here changes which row comes at which place, so a
run may go on with any other Reading: more ranks, fewer workers, another cache.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bamba_data.errors import UserError

from .arguments import switch, whole_number
from .collate import DEFAULT_FIELDS, FIELDS

#: Tokens that a rank reads ahead: 8 MB of ids, a quarter of a minute of training at 64k tokens/s.
PREFETCH_TOKENS = 1 << 20
CACHE_BYTES = 64 << 30

OnEnd = Literal["stop", "again", "raise"]


@dataclass(frozen=True)
class Share:
    """A rank's part of every batch of `batch_rows` rows: ⌊batch_rows / world_size⌋ of them, or one more.

    With `pad` every rank has equally many, filled up with masked rows. Of each row only the tokens of part `part` of
    `parts`, which are equally long.
    """

    rank: int
    world_size: int
    pad: bool = False
    part: int = 0
    parts: int = 1

    def part_tokens(self, row_tokens: int) -> int:
        """Of a row of so many. Raises UserError where the parts do not divide it."""
        if row_tokens % self.parts:
            raise UserError(
                f"context_ranks: {self.parts} ranks cannot share rows of row_tokens {row_tokens:,} in equal parts: "
                f"take a divisor of {row_tokens:,}"
            )
        return row_tokens // self.parts


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one rank reads an order.

    Attributes:
        rank: This rank, from 0 to `world_size` - 1.
        world_size: Ranks that share every batch. Each row of the order is read by exactly one of them.
        context_rank: Which part of its rows this rank has, from 0 to `context_ranks` - 1.
        context_ranks: Ranks that share every row (context parallelism), each with a part of its tokens, all of them
            with the same `rank` and `world_size`: of 8 processes with `context_ranks` 4, `world_size` is 2. Parts end
            to end are the rows: labels look ahead past the cut, positions and numbers of documents count over the row.
        pad_rows: All ranks get equally many rows, filled up with masked ones (`row` -1, labels -100).
        micro_rows: Hand a rank's rows of a batch out in micro-batches of exactly so many, the last filled up. Every
            rank has equally many micro-batches. None hands them out whole.
        fields: Names of the arrays in a batch, out of `loader.collate.FIELDS`.
        num_workers: Threads that read ahead; 0 reads when asked. Any number gives the same batches.
        prefetch_tokens: Tokens that are read ahead, at most. Two batches are always.
        cache: Folder of verified blocks, which processes of a host share. None is this host's usual one in
            `build_loader`, and no folder in a dataset that you make yourself.
        cache_bytes: What the folder may take on the disk; what was used longest ago goes first.
        max_epochs: End with the batch in which the first source has been read so many times.
        at_end: "all": that is when the last source has been, instead of the "first".
        max_steps: End after so many batches, counted from row 0.
        on_end: What a loader that has an end does when it is read again.
            "again": every `iter()` is a whole pass from row 0; the first one after `load_state_dict` goes on where the
            state is, and begins a pass if that is the end.
            "stop": one pass in all. Every `iter()` goes on where the last one was left; after the end, nothing.
            "raise": as "stop", but to ask for more after the end is a UserError.
            None: as "again", but a state at the end of a pass has nothing left of it, as a finished run has not.

    Raises:
        UserError: A value cannot be; it names the argument.
    """

    rank: int = 0
    world_size: int = 1
    context_rank: int = 0
    context_ranks: int = 1
    pad_rows: bool = False
    micro_rows: int | None = None

    fields: Sequence[str] = DEFAULT_FIELDS
    num_workers: int = 2
    prefetch_tokens: int = PREFETCH_TOKENS
    cache: Path | str | None = None
    cache_bytes: int = CACHE_BYTES

    max_epochs: int | None = None
    at_end: str = "first"
    max_steps: int | None = None
    on_end: OnEnd | None = None

    def __post_init__(self) -> None:
        least = {
            "rank": 0,
            "world_size": 1,
            "context_rank": 0,
            "context_ranks": 1,
            "num_workers": 0,
            "prefetch_tokens": 1,
            "cache_bytes": 0,
        }
        optional = {name: 1 for name in ("micro_rows", "max_epochs", "max_steps") if getattr(self, name) is not None}
        for name, smallest in (least | optional).items():
            object.__setattr__(self, name, whole_number(name, getattr(self, name), smallest))
        if self.rank >= self.world_size:
            raise UserError(f"there is no rank {self.rank} of {self.world_size}: ranks count from 0")
        if self.context_rank >= self.context_ranks:
            raise UserError(
                f"there is no context_rank {self.context_rank} of {self.context_ranks}: parts of a row count from 0"
            )
        switch("pad_rows", self.pad_rows)
        if isinstance(self.fields, str):
            raise UserError(f"fields are {self.fields!r}: they must be a list of names")
        object.__setattr__(self, "fields", tuple(self.fields))
        if unknown := sorted(set(self.fields) - set(FIELDS)):
            raise UserError(f"fields {unknown} are none of {FIELDS}")
        if self.at_end not in ("first", "all"):
            raise UserError(f"at_end is {self.at_end!r}: it can be 'first' or 'all'")
        if self.on_end not in ("stop", "again", "raise", None):
            raise UserError(f"on_end is {self.on_end!r}: it can be 'stop', 'again' or 'raise'")

    @property
    def share(self) -> Share:
        """This rank's part of a batch."""
        return Share(self.rank, self.world_size, self.pad_rows, self.context_rank, self.context_ranks)

    @property
    def folder(self) -> Path | None:
        """`cache` as a path."""
        return None if self.cache is None else Path(self.cache)


def settings(share: Share = Share(0, 1), *positional: Any, **named: Any) -> Reading:
    """`loader.Settings(share, fields, cache, …)` of before 0.2, as a Reading."""
    warnings.warn(
        "loader.Settings(share, …) is loader.Reading(rank=…, world_size=…, …) now", DeprecationWarning, stacklevel=2
    )
    names = ("fields", "cache", "cache_bytes", "max_epochs", "at_end", "max_steps", "micro_rows")
    by_position = dict(zip(names, positional, strict=False))
    if len(positional) > len(names) or (twice := by_position.keys() & named.keys()):
        wrong = f"{sorted(twice)} twice" if len(positional) <= len(names) else f"{len(positional) + 1} arguments"
        raise TypeError(f"Settings takes a share and then {', '.join(names)}: it was given {wrong}")
    return Reading(rank=share.rank, world_size=share.world_size, pad_rows=share.pad, **by_position, **named)
