"""Segments of many epochs in one file, for sources whose epochs are tiny: they would fill a disk with files of a few
hundred bytes each.

The first two epochs have files of their own, so that what is read once makes nothing for later; then files hold 2, 4,
8, ... epochs, up to SHARED_BYTES. So a source that is read ten thousand times is some dozens of files.
"""

from typing import Any

from bamba_data.format.shard import Tokens

from ..sources.base import Blocks

SHARED_BYTES = 1 << 18  # of a file, nearly; a disk takes 4 KiB for the smallest


def epochs_together(epoch: int, epoch_bytes: int) -> range:
    """The epochs whose segments lie in one file with those of `epoch`; one epoch has `epoch_bytes` of ids."""
    epochs_in_bytes = max(1, SHARED_BYTES // max(1, epoch_bytes))
    together = min(1 << (max(1, epoch).bit_length() - 1), 1 << (epochs_in_bytes.bit_length() - 1))
    first = epoch - epoch % together
    return range(first, first + together)


class ReadOnce:
    """Blocks that are read once, however many epochs want them."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._read: dict[int, Tokens] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blocks, name)

    def read(self, block: int) -> Tokens:
        if block not in self._read:
            self._read[block] = self._blocks.read(block)
        return self._read[block]
