"""What other libraries' wrappers would do to the rows of a TokenDataset, seen from its reader, and refused.

A TokenDataset gives whole batches of one rank. Two habits of data loaders spoil that without a word: to collect
elements into batches (torch's `batch_size`, which is 1 if nobody says None), and to deal the elements of one rank out
to all (Accelerate's `prepare`, of any DataLoader over an iterable dataset). Both are seen on the stack of the reader:
there is no call that would tell a dataset who wraps it.
"""

import sys
from types import FrameType
from typing import Any

from bamba_data.errors import UserError

#: The class of accelerate.data_loader that hands each process a part of what the first one reads. (Its other way,
#: IterableDatasetShard, fails by itself where batch_size is None.)
_DEALER = "DataLoaderDispatcher"
_FRAMES = 40  # a DataLoader's reader is found within a dozen


def check_reader() -> None:
    """Raises UserError if whoever called the caller would collect its elements, or deal them out to other ranks."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES):
        if frame is None:
            return
        module = frame.f_globals.get("__name__", "")
        if module == "torch.utils.data._utils.fetch" and frame.f_locals.get("auto_collation"):
            raise UserError(
                "a DataLoader would collect elements of this dataset, which are whole batches already: give it "
                "batch_size=None"
            )
        if module == "accelerate.data_loader" and _deals(frame.f_locals.get("self")):
            raise UserError(
                "Accelerate's prepare would deal the rows of this rank out to all ranks, and lose those of the others: "
                "prepare a loader of build_loader(…, rank=…, world_size=…), which stays as it is, or leave this "
                "DataLoader out of prepare"
            )
        frame = frame.f_back


def _deals(reader: Any) -> bool:
    """Whether it is such a class, of a program with several processes."""
    return type(reader).__name__ == _DEALER and sys.modules["accelerate.state"].PartialState().num_processes > 1
