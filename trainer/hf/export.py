"""A checkpoint as a Hugging Face folder, in one of its forms (form.py).

Tensors are read, cast and written shard by shard; memory holds one shard of `SHARD_BYTES` and, up to three times, the
tensor that is being read. A_log, D and dt_bias stay float32 in the file: they are 1.5 kB a layer and the scan is
sensitive to them. The tokenizer comes out of the dataset that the model was trained on; a model card says of what
checkpoint, data, plan and recipe the folder is.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bamba_data.errors import UserError

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer
from ..observe.messages import say
from .card import model_card
from .form import BAMBA, FolderForm
from .tensor_mapping import TensorMapping

SHARD_BYTES = 4 << 30
KEPT_FLOAT32 = (".A_log", ".D", ".dt_bias")


def export(
    saved: SavedCheckpoint, out: Path, dtype: torch.dtype, tokenizer: RunTokenizer | None, form: FolderForm = BAMBA
) -> None:
    """Into `out`, which must not exist yet; it appears whole or not at all.

    Raises:
        UserError: `out` exists or cannot be made, or the form cannot say this model.
    """
    form.refuse_unsayable(saved.config)
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists: choose a new folder")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made there ({error.strerror})") from None
    bos, eos = (tokenizer.bos, tokenizer.eos) if tokenizer else (None, None)
    max_position = max_position_of(saved)
    config = form.config_json(saved.config, max_position, str(dtype).removeprefix("torch."), bos, eos)
    _write_json(part / "config.json", config)
    sampling = {"bos_token_id": bos, "eos_token_id": eos, "use_cache": config["use_cache"]}
    _write_json(part / "generation_config.json", {key: value for key, value in sampling.items() if value is not None})
    if tokenizer:
        _write_tokenizer(tokenizer, max_position, part)
    shards = list(_shards(saved, form, dtype))
    where: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        total += _write(saved, shard, dtype, part / file)
        where |= dict.fromkeys((piece.theirs for piece in shard), file)
    _write_json(part / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    (part / "README.md").write_text(model_card(saved, form, str(dtype).removeprefix("torch.")), encoding="utf-8")
    part.rename(out)
    say(f"{out}: {len(where)} tensors, {total / 1e9:.2f} GB, step {saved.commit['step']} of {saved.store.url}")


def max_position_of(saved: SavedCheckpoint) -> int:
    """The longest row that the model was trained on, in tokens; of an imported model, what its config said."""
    about = saved.commit.get("hf") or {}
    data = saved.commit["recipe"].get("data") or {}
    return int(about.get("max_position_embeddings") or data.get("row_tokens") or 4096)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _shards(saved: SavedCheckpoint, form: FolderForm, dtype: torch.dtype) -> Iterator[list[TensorMapping]]:
    """The tensors in file order, cut before a shard would grow too large."""
    shard: list[TensorMapping] = []
    shard_bytes = 0
    for piece in form.tensors(saved.config):
        shape = saved.index[f"model.{piece.ours}"]["shape"]
        size = (piece.end - piece.start) * (torch.Size(shape[1:]).numel()) * dtype.itemsize
        if shard and shard_bytes + size > SHARD_BYTES:
            yield shard
            shard, shard_bytes = [], 0
        shard.append(piece)
        shard_bytes += size
    yield shard


def _write(saved: SavedCheckpoint, shard: list[TensorMapping], dtype: torch.dtype, file: Path) -> int:
    """One file; the bytes of its tensors, which are gone from memory when this returns."""
    tensors = {piece.theirs: _tensor(saved, piece, dtype) for piece in shard}
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library leaves it to its owner alone
    return sum(tensor.nbytes for tensor in tensors.values())


def _tensor(saved: SavedCheckpoint, piece: TensorMapping, dtype: torch.dtype) -> Tensor:
    part = piece.in_their_shape(saved.tensor(f"model.{piece.ours}", piece.start, piece.end))
    return part if piece.theirs.endswith(KEPT_FLOAT32) else part.to(dtype)


def _write_tokenizer(tokenizer: RunTokenizer, max_position: int, out: Path) -> None:
    """The file itself, with the small one that makes `AutoTokenizer` open it."""
    (out / "tokenizer.json").write_bytes(tokenizer.data)
    loaded = tokenizer.tokenizer
    names = {
        role: loaded.id_to_token(token)
        for role, token in (("bos_token", tokenizer.bos), ("eos_token", tokenizer.eos))
        if token is not None
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_position,
        "clean_up_tokenization_spaces": False,  # otherwise decoding takes blanks away
        **names,
    }
    _write_json(out / "tokenizer_config.json", config)
