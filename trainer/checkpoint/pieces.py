"""Pieces of tensors in the files of a checkpoint, written and read as fast as the disk goes, each with its digest.

Several threads work at once: a piece each where digests are made and pieces are read, a block each of a file that is
written (`direct`). What is read goes straight into the memory of the tensor that wants it: beside the
tensors a load needs a block a thread, and that only for tensors on a GPU or for a part of a piece.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, BinaryIO

import torch
import xxhash
from torch import Tensor

from bamba_data.errors import CorruptCheckpoint
from bamba_data.storage.store import Store

from . import direct
from .direct import DirectFile

BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class PieceLocation:
    """A piece of a tensor: its bytes in an object of the checkpoint's folder, and their xxh3_128."""

    file: str
    start: int
    length: int
    digest: str


def size_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def in_threads(work: Sequence[Callable[[], Any]], sizes: Sequence[int]) -> list[Any]:
    """What each of `work` returns, in its order, the largest begun first. Of several errors the first in order is
    raised, when none of `work` is under way any more."""
    with ThreadPoolExecutor(threads(), "pieces") as pool:
        futures = {number: pool.submit(work[number]) for number in sorted(range(len(work)), key=lambda n: -sizes[n])}
        try:
            return [futures[number].result() for number in range(len(work))]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def threads() -> int:
    """This process's share of the host's cores, between two and eight: a disk is fast with several requests at once."""
    return max(2, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


# ---- write


def write_pieces(file: BinaryIO, tensors: Sequence[Tensor], name: str) -> list[PieceLocation]:
    """All pieces of a file, in their order: on a disk by several threads, past the cache."""
    sizes = [size_bytes(tensor) for tensor in tensors]
    starts = list(accumulate(sizes, initial=0))[:-1]
    if not file.seekable() or sum(sizes) < direct.BLOCK_BYTES:  # an upload; or too small for it to matter
        return [write_piece(file, tensor, name, start) for tensor, start in zip(tensors, starts, strict=True)]
    data = [_raw(tensor) for tensor in tensors]
    whole = DirectFile(file, data, starts, threads())
    blocks = whole.work()
    sums: list[Callable[[], Any]] = [partial(xxhash.xxh3_128_hexdigest, piece) for piece in data]
    digests = in_threads([*sums, *blocks], [*sizes, *[direct.BLOCK_BYTES] * len(blocks)])[: len(data)]
    whole.end()
    return [PieceLocation(name, *one) for one in zip(starts, sizes, digests, strict=True)]


def write_piece(file: BinaryIO, tensor: Tensor, name: str, at: int) -> PieceLocation:
    """The next piece of a file that is written from its beginning to its end."""
    data = _raw(tensor)
    file.write(data)
    return PieceLocation(name, at, len(data), xxhash.xxh3_128_hexdigest(data))


def _raw(tensor: Tensor) -> memoryview:
    return memoryview(_bytes(tensor.detach().cpu().contiguous()).numpy().data)


# ---- read


def read_piece(store: Store, folder: str, place: PieceLocation) -> Tensor:
    """The bytes of a piece, checked."""
    data = torch.empty(place.length, dtype=torch.uint8)
    fill(store, folder, place, data)
    return data


def fill(store: Store, folder: str, place: PieceLocation, target: Tensor | None = None, first: int = 0) -> None:
    """Read all of a piece, and its bytes from `first` on into the memory of `target`, which is contiguous and on any
    device; of a piece that is not what was saved, too.

    Raises:
        CorruptCheckpoint: It is not what was saved.
    """
    wanted = torch.empty(0, dtype=torch.uint8) if target is None else _bytes(target)
    last = first + len(wanted)
    summed = xxhash.xxh3_128()
    spare: Tensor | None = None
    for start in range(0, place.length, BLOCK_BYTES):
        end = min(start + BLOCK_BYTES, place.length)
        straight = first <= start and end <= last and not wanted.is_cuda
        if straight:
            block = wanted[start - first : end - first]
        else:
            spare = _spare(place, pinned=wanted.is_cuda) if spare is None else spare
            block = spare[: end - start]
        data = block.numpy().data
        try:
            length = store.read_into(f"{folder}/{place.file}", place.start + start, data)
        except FileNotFoundError:
            raise CorruptCheckpoint(f"{store.url}/{folder}", f"{place.file} is missing") from None
        summed.update(data[:length])
        low, high = max(start, first), min(end, last)
        if not straight and low < high:
            wanted[low - first : high - first].copy_(block[low - start : high - start])
    if summed.hexdigest() != place.digest:
        raise CorruptCheckpoint(
            f"{store.url}/{folder}/{place.file}",
            f"bytes {place.start:,} to {place.start + place.length:,} are not what was saved",
        )


def _spare(place: PieceLocation, *, pinned: bool) -> Tensor:
    return torch.empty(min(BLOCK_BYTES, place.length), dtype=torch.uint8, pin_memory=pinned)


def _bytes(tensor: Tensor) -> Tensor:
    """Of a contiguous tensor, sharing its memory."""
    return tensor.view(-1).view(torch.uint8)
