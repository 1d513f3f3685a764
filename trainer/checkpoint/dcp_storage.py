"""Where torch's distributed checkpoints put their tensors: raw little-endian bytes, one object a rank, every piece
with its digest, and `index.json` that says which piece of which tensor lies where. No pickle on either side.

A checkpoint exists when its `commit.json` does; that is created once, after all else is written. What is read is
held against its digest, so a torn or flipped byte is an error, never a weight.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from bamba_data.canonical_json import digest, dumps, loads
from bamba_data.errors import BambaError, CorruptCheckpoint, CorruptManifest, PublishUnknown
from bamba_data.records import seal
from bamba_data.storage.store import Store

from .pieces import PieceLocation, fill, in_threads, read_piece, write_pieces

INDEX, COMMIT = "index.json", "commit.json"
FORMAT = "bamba-checkpoint/2"
MAX_INDEX_BYTES = 1 << 30
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16", "int64", "int32")}


class CheckpointWriter(StorageWriter):
    """Writes one checkpoint into `folder` of `store` and commits it with `about`, which may be any JSON.
    `before_commit` may still forbid it, by raising."""

    def __init__(
        self, store: Store, folder: str, about: dict[str, Any], before_commit: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self.store, self.folder, self.before_commit = store, folder, before_commit
        self.about = copy.deepcopy(about)  # it is written later, from another thread, while training goes on

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a writer is for one checkpoint, whose folder is known."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up: a store needs no folders."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        for rank, plan in enumerate(plans):
            object.__setattr__(plan, "storage_data", f"rank-{rank:05d}.bin")  # the plan is a frozen dataclass
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> "Future[list[WriteResult]]":
        written: list[WriteResult] = []
        if plan.items:
            tensors = [planner.resolve_data(item) for item in plan.items]
            assert all(isinstance(tensor, Tensor) for tensor in tensors), "the state is tensors only"
            with self.store.writer(f"{self.folder}/{plan.storage_data}") as file:
                places = write_pieces(file, cast(list[Tensor], tensors), plan.storage_data)
            written = [WriteResult(item.index, one.length, one) for item, one in zip(plan.items, places, strict=True)]
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On one rank, when all have written: the index, then the commit."""
        places = {result.index: result.storage_data for rank in results for result in rank}
        index = {name: _described(name, tensor, places) for name, tensor in metadata.state_dict_metadata.items()}
        commit_checkpoint(self.store, self.folder, index, self.about, self.before_commit)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def commit_checkpoint(
    store: Store,
    folder: str,
    index: dict[str, Any],
    about: dict[str, Any],
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Make a checkpoint of what lies in `folder`: the index first, then the commit, by which it exists.

    Raises:
        PublishUnknown: Somebody else committed this very folder.
    """
    store.put(f"{folder}/{INDEX}", dumps(index))
    commit = sealed({**about, "index": digest(index)})
    before_commit()
    # "Not created" may be the answer to our own first try, whose reply was lost: read back.
    if not store.create(f"{folder}/{COMMIT}", commit) and store.read(f"{folder}/{COMMIT}") != commit:
        raise PublishUnknown(f"{store.url}/{folder} was committed by somebody else")


def sealed(commit: dict[str, Any]) -> bytes:
    """The text of a commit, which vouches for itself."""
    return seal({**commit, "format": FORMAT})


def _described(name: str, tensor: Any, places: dict[MetadataIndex, PieceLocation]) -> dict[str, Any]:
    """A tensor's entry in the index."""
    located = [(chunk.offsets, chunk.sizes, places[MetadataIndex(name, chunk.offsets)]) for chunk in tensor.chunks]
    return tensor_entry(tensor.properties.dtype, tensor.size, located)


def tensor_entry(
    dtype: torch.dtype, shape: Sequence[int], located: Iterable[tuple[Sequence[int], Sequence[int], PieceLocation]]
) -> dict[str, Any]:
    """A tensor's entry in the index; `located`: (offsets, sizes, location) of each of its pieces."""
    pieces = [[list(offsets), list(sizes), *astuple(location)] for offsets, sizes, location in located]
    return {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape), "pieces": pieces}


def read_index(store: Store, folder: str, wanted_digest: str) -> dict[str, Any]:
    """The index of a committed checkpoint; `CorruptCheckpoint` if it is not the committed one."""
    where = f"{store.url}/{folder}"
    try:
        index = loads(store.read(f"{folder}/{INDEX}"), f"{where}/{INDEX}", MAX_INDEX_BYTES)
    except FileNotFoundError:
        raise CorruptCheckpoint(where, f"{INDEX} is missing") from None
    except CorruptManifest as error:
        raise CorruptCheckpoint(where, str(error)) from None
    if digest(index) != wanted_digest:
        raise CorruptCheckpoint(where, f"{INDEX} is not the one that was committed")
    return cast(dict[str, Any], index)


class CheckpointReader(StorageReader):
    """Reads the checkpoint in `folder`, whatever the number of ranks that wrote it."""

    def __init__(self, store: Store, folder: str, index: dict[str, Any]) -> None:
        super().__init__()
        self.store, self.folder, self.index = store, folder, index

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a reader is for one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        places: dict[MetadataIndex, PieceLocation] = {}
        for name, entry in self.index.items():
            chunks = []
            for offsets, sizes, *place in entry["pieces"]:
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                places[MetadataIndex(name, torch.Size(offsets))] = PieceLocation(*place)
            properties = TensorProperties(DTYPES[entry["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
        return Metadata(tensors, storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.places: dict[MetadataIndex, PieceLocation] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        targets = [planner.resolve_tensor(item) for item in plan.items]
        work = [partial(self._read, *pair) for pair in zip(plan.items, targets, strict=True)]
        in_threads(work, [self.places[item.storage_index].length for item in plan.items])
        for item, target in zip(plan.items, targets, strict=True):
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, item: ReadItem, target: Tensor) -> None:
        """The part of a piece that `target` wants; rows of a piece go into its memory as they lie in the file."""
        entry, place = self.index[item.storage_index.fqn], self.places[item.storage_index]
        sizes = next(s for o, s, *_ in entry["pieces"] if torch.Size(o) == item.storage_index.offset)
        dtype = DTYPES[entry["dtype"]]
        rows = not any(item.storage_offsets[1:]) and list(item.lengths[1:]) == sizes[1:]
        if rows and target.is_contiguous() and target.dtype == dtype:
            first_row = item.storage_offsets[0] if sizes else 0
            row_bytes = math.prod(sizes[1:]) * target.element_size()
            fill(self.store, self.folder, place, target.detach(), first_row * row_bytes)
            return
        part = read_piece(self.store, self.folder, place).view(dtype).view(sizes)
        for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
            part = part.narrow(dimension, start, length)
        target.detach().copy_(part)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def cause(error: BaseException) -> BambaError | OSError | None:
    """The error of ours, or of the disk, inside what torch raises when a rank fails to save or to load."""
    failures = getattr(error, "failures", {})
    for wrapped in failures.values():
        if isinstance(wrapped[0], BambaError | OSError):
            return wrapped[0]
    return None
