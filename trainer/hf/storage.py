"""In which numbers the tensors of an export are stored, and how many bytes that takes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.bamba import Bamba
from ..model.config import ModelConfig
from .form import FolderForm
from .fp8 import quantized
from .tensor_mapping import TensorMapping

#: 1.5 kB a layer, to which the scan is sensitive.
KEPT_FLOAT32 = (".A_log", ".D", ".dt_bias")


@dataclass(frozen=True)
class Storage:
    """The numbers of a folder.

    Attributes:
        dtype: Of every tensor but A_log, D and dt_bias, which are float32.
        fp8: The linears are codes of eight bits with scales (fp8.py).
    """

    dtype: torch.dtype = torch.bfloat16
    fp8: bool = False

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def tensors(self, piece: TensorMapping, part: Tensor) -> dict[str, Tensor]:
        """What the file holds of `part`, rows of ours in float32: one tensor, or codes and scales."""
        theirs = piece.in_their_shape(part)
        if self.fp8 and piece.linear:
            codes, scales = quantized(theirs)
            return {piece.theirs: codes, f"{piece.theirs}_scale": scales}
        return {piece.theirs: theirs if piece.theirs.endswith(KEPT_FLOAT32) else theirs.to(self.dtype)}


def sizes(config: ModelConfig, form: FolderForm, storage: Storage) -> Iterator[tuple[TensorMapping, int]]:
    """Each tensor in the order of the files, and how many bytes are stored of it. Nothing is computed: the same code
    runs on tensors without contents."""
    with torch.device("meta"):
        ours = dict(Bamba(config).named_parameters())
    for piece in form.tensors(config):
        part = ours[piece.ours].detach()[piece.start : piece.end]
        yield piece, sum(tensor.nbytes for tensor in storage.tensors(piece, part).values())
