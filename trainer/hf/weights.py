"""The tensors of a foreign folder, each read when it is asked for: safetensors, or what `torch.save` wrote.

    stored = stored_tensors(folder)              # name -> where it is
    stored["lm_head.weight"].read()

A `pytorch_model.bin` is mapped into memory and unpickled with nothing but tensors allowed, so reading runs no code of
the file.
"""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bamba_data.errors import UserError, one_line


class StoredTensor(NamedTuple):
    file: Path
    read: Callable[[], Tensor]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's safetensors, or, where there are none, of its `pytorch_model*.bin`.

    Raises:
        UserError: There is neither, a file cannot be read, or a name stands in two files.
    """
    stored: dict[str, StoredTensor] = {}
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        found = _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)
        if twice := sorted(stored.keys() & found.keys()):
            raise UserError(f"{file}: {twice[0]} stands in {stored[twice[0]].file.name}, too")
        stored |= found
    if not stored:
        raise UserError(f"{folder}: no .safetensors file is there, and no pytorch_model.bin")
    return stored


def _of_safetensors(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: StoredTensor(file, partial(_safetensor, file, name)) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not readable as safetensors ({error})") from None


def _safetensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
        return tensor


def _of_pickle(file: Path) -> dict[str, StoredTensor]:
    try:
        held = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{file}: not readable as weights that torch saved ({one_line(error, 120)})") from None
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise UserError(f"{file}: holds something other than tensors by name")
    return {name: StoredTensor(file, partial(held.__getitem__, name)) for name in held}
