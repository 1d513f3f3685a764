"""A checkpoint read and written one tensor at a time in one process: for export, import, evaluation, generation."""

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import Store

from ..model.bamba import Bamba, is_vector
from ..model.config import ModelConfig
from .commits import read_checkpoint
from .dcp_storage import DTYPES, commit_checkpoint, tensor_entry
from .locate import locate_checkpoint
from .pieces import PieceLocation, fill, read_piece, write_piece


class SavedCheckpoint:
    """A committed checkpoint, at the URL of a run (its newest) or of the checkpoint's own folder."""

    def __init__(self, url: str) -> None:
        self.store, self.name = locate_checkpoint(url)
        self.commit, self.index = read_checkpoint(self.store, self.name)
        self.config = ModelConfig.model_validate(self.commit["recipe"]["model"])

    def tensor(self, key: str, start: int = 0, end: int | None = None) -> Tensor:
        """Rows [start, end) of a tensor, or a scalar; only pieces that hold some of them are read, each verified.

        Raises:
            CorruptCheckpoint: A byte is not what was saved, or some rows are in no piece.
        """
        if key not in self.index:
            raise CorruptCheckpoint(f"{self.store.url}/{self.name}", f"it holds no {key}")
        entry = self.index[key]
        shape = entry["shape"]
        if not shape:
            ((_, _, *place),) = entry["pieces"]
            return read_piece(self.store, self.name, PieceLocation(*place)).view(DTYPES[entry["dtype"]])[0]
        end = shape[0] if end is None else end
        out = torch.empty([end - start, *shape[1:]], dtype=DTYPES[entry["dtype"]])
        filled = 0
        for offsets, sizes, *place in entry["pieces"]:
            low, high = max(start, offsets[0]), min(end, offsets[0] + sizes[0])
            if low >= high:
                continue
            if sizes[1:] != shape[1:]:
                raise UserError(f"{key} is not sharded by rows: load this checkpoint with the ranks that saved it")
            row_bytes = math.prod(shape[1:]) * out.element_size()
            wanted = out[low - start : high - start]
            fill(self.store, self.name, PieceLocation(*place), wanted, (low - offsets[0]) * row_bytes)
            filled += high - low
        if filled != end - start:
            raise CorruptCheckpoint(f"{self.store.url}/{self.name}", f"{key}: {filled} of its rows {start} to {end}")
        return out

    def model_alone(self, device: torch.device | None = None) -> Bamba:
        """The whole model for this process alone, on a GPU if there is one: there in bfloat16, on a CPU in float32.

        Raises:
            UserError: The process is one of a launcher's, each of which would do all the work.
        """
        ranks = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
        if ranks > 1:
            raise UserError(
                f"one process reads and writes texts, and {ranks} ranks were started: leave torchrun out. Prompts are "
                "read in pieces, so a long one needs no second GPU; the loss of long rows is shared out by "
                "`model evaluate --context-ranks`"
            )
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return self.model(device, torch.bfloat16 if device.type == "cuda" else torch.float32)

    def model(self, device: torch.device, dtype: torch.dtype) -> Bamba:
        """The whole model on one device, its matrices in `dtype` and its vectors in float32."""
        with torch.device("meta"):
            model = Bamba(self.config)
        for name, parameter in list(model.named_parameters()):
            value = self.tensor(f"model.{name}")
            wanted = torch.float32 if is_vector(name, parameter) else dtype
            *path, last = name.split(".")
            holder = model.get_submodule(".".join(path))
            setattr(holder, last, torch.nn.Parameter(value.to(device, wanted), requires_grad=False))
        return model


def write(store: Store, name: str, tensors: Iterator[tuple[str, Tensor]], about: dict[str, Any]) -> None:
    """Commit a checkpoint of whole tensors."""
    index: dict[str, Any] = {}
    at = 0
    with store.writer(f"{name}/rank-00000.bin") as file:
        for key, tensor in tensors:
            location = write_piece(file, tensor, "rank-00000.bin", at)
            at += location.length
            index[key] = tensor_entry(tensor.dtype, tensor.shape, [([0] * tensor.dim(), tensor.shape, location)])
            del tensor  # before the next one is made, not when it takes this one's name
    commit_checkpoint(store, name, index, about)
