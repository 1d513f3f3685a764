"""A checkpoint as a Hugging Face folder, in one of its forms (form.py).

Tensors are read, cast or quantized, and written shard by shard; memory holds one shard of `SHARD_BYTES` and, up to
three times, the tensor that is being read. The tokenizer comes out of the dataset that the model was trained on; a
model card says of what checkpoint, data, plan and recipe the folder is.
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
from ..model.config import ModelConfig
from ..observe.messages import say
from .card import model_card
from .form import BAMBA, FolderForm
from .fp8 import quantization_config
from .storage import Storage, sizes
from .tensor_mapping import TensorMapping

SHARD_BYTES = 4 << 30


def export(
    saved: SavedCheckpoint,
    out: Path,
    dtype: torch.dtype,
    tokenizer: RunTokenizer | None,
    form: FolderForm = BAMBA,
    *,
    fp8: bool = False,
) -> None:
    """Into `out`, which must not exist yet; it appears whole or not at all.

    Args:
        dtype: Of what is neither quantized nor kept in float32 (storage.py).
        fp8: Quantize the linears.

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
    storage = Storage(dtype, fp8)
    config = form.config_json(saved.config, max_position, storage.dtype_name, bos, eos)
    if fp8:
        config["quantization_config"] = quantization_config()
    _write_json(part / "config.json", config)
    sampling = {"bos_token_id": bos, "eos_token_id": eos, "use_cache": config["use_cache"]}
    _write_json(part / "generation_config.json", {key: value for key, value in sampling.items() if value is not None})
    if tokenizer:
        _write_tokenizer(tokenizer, max_position, part)
    shards = list(_shards(saved.config, form, storage))
    where: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        written = _write(saved, shard, storage, part / file)
        total += sum(written.values())
        where |= dict.fromkeys(written, file)
    _write_json(part / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    (part / "README.md").write_text(model_card(saved, form, storage), encoding="utf-8")
    part.rename(out)
    say(f"{out}: {len(where)} tensors, {total / 1e9:.2f} GB, step {saved.commit['step']} of {saved.store.url}")
    if (openers := form.openers_of(saved.config)) != form.opened_by:
        say(f"{out}: its norm has groups: open it in {openers}; transformers 4 would compute another norm, silently")


def max_position_of(saved: SavedCheckpoint) -> int:
    """The longest row that the model was trained on, in tokens; of an imported model, what its config said."""
    about = saved.commit.get("hf") or {}
    data = saved.commit["recipe"].get("data") or {}
    return int(about.get("max_position_embeddings") or data.get("row_tokens") or 4096)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _shards(config: ModelConfig, form: FolderForm, storage: Storage) -> Iterator[list[TensorMapping]]:
    """The tensors in file order, cut before a shard would grow too large."""
    shard: list[TensorMapping] = []
    shard_bytes = 0
    for piece, size_bytes in sizes(config, form, storage):
        if shard and shard_bytes + size_bytes > SHARD_BYTES:
            yield shard
            shard, shard_bytes = [], 0
        shard.append(piece)
        shard_bytes += size_bytes
    yield shard


def _write(saved: SavedCheckpoint, shard: list[TensorMapping], storage: Storage, file: Path) -> dict[str, int]:
    """One file; the bytes of each of its tensors, which are gone from memory when this returns."""
    tensors: dict[str, Tensor] = {}
    for piece in shard:
        tensors |= storage.tensors(piece, saved.tensor(f"model.{piece.ours}", piece.start, piece.end))
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library leaves it to its owner alone
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _write_tokenizer(tokenizer: RunTokenizer, max_position: int, out: Path) -> None:
    """The file itself, with the small one that makes `AutoTokenizer` open it."""
    (out / "tokenizer.json").write_bytes(tokenizer.data)
    loaded = tokenizer.tokenizer
    # what the vocabulary has not, transformers would add to it
    names: dict[str, str | None] = {
        role: text for role, text in tokenizer.special_tokens if loaded.token_to_id(text) is not None
    }
    names |= {
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
    if tokenizer.chat_template is not None:
        (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
