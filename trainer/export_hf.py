"""`python -m trainer.export_hf CHECKPOINT OUT`: a checkpoint as a Hugging Face folder that opens as BambaForCausalLM.

Tensors are read, cast and written shard by shard; memory holds one shard of `SHARD_BYTES` and, up to three times, the
tensor that is being read. A_log, D and dt_bias stay float32 in the file: they are 1.5 kB a layer and the scan is
sensitive to them.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from bamba_data import edge
from bamba_data.errors import UserError
from trainer.checkpoint.plain import Saved
from trainer.hf_layout import Piece, config_json, pieces
from trainer.metrics import say

SHARD_BYTES = 4 << 30
KEPT_FLOAT32 = (".A_log", ".D", ".dt_bias")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A run, or one of its checkpoints.")],
    out: Annotated[Path, typer.Argument(help="A new local folder.")],
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer.json that the model was trained with.")] = None,
    bos: Annotated[str | None, typer.Option(help="The token that begins a document.")] = None,
    eos: Annotated[str | None, typer.Option(help="The token that ends a document.")] = None,
) -> None:
    """Write config.json, safetensors and, if given, the tokenizer."""
    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"--dtype {dtype}: bfloat16 or float32")
    export(Saved(checkpoint), out, getattr(torch, dtype), tokenizer, bos, eos)


def export(
    saved: Saved, out: Path, dtype: torch.dtype, tokenizer: Path | None, bos: str | None, eos: str | None
) -> None:
    """Into `out`, which must not exist yet; it appears whole or not at all."""
    if out.exists():
        raise UserError(f"{out} exists: choose a new folder")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    ids = _tokenizer(tokenizer, part, bos, eos)
    row_tokens = saved.commit["recipe"].get("data", {}).get("row_tokens", 4096)
    config = config_json(saved.config, row_tokens, str(dtype).removeprefix("torch."), *ids)
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shards = list(_shards(saved, dtype))
    where: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        total += _write(saved, shard, dtype, part / file)
        where |= dict.fromkeys((piece.theirs for piece in shard), file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (part / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    part.rename(out)
    say(f"{out}: {len(where)} tensors, {total / 1e9:.2f} GB, step {saved.commit['step']} of {saved.store.url}")


def _shards(saved: Saved, dtype: torch.dtype) -> Iterator[list[Piece]]:
    """The tensors in file order, cut before a shard would grow too large."""
    shard: list[Piece] = []
    held = 0
    for piece in pieces(saved.config):
        shape = saved.index[f"model.{piece.ours}"]["shape"]
        size = (piece.end - piece.start) * (torch.Size(shape[1:]).numel()) * dtype.itemsize
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = [], 0
        shard.append(piece)
        held += size
    yield shard


def _write(saved: Saved, shard: list[Piece], dtype: torch.dtype, file: Path) -> int:
    """One file; the bytes of its tensors, which are gone from memory when this returns."""
    tensors = {piece.theirs: _tensor(saved, piece, dtype) for piece in shard}
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library leaves it to its owner alone
    return sum(tensor.nbytes for tensor in tensors.values())


def _tensor(saved: Saved, piece: Piece, dtype: torch.dtype) -> Tensor:
    part = saved.tensor(f"model.{piece.ours}", piece.start, piece.end)
    part = part.unsqueeze(1) if piece.middle else part
    return part if piece.theirs.endswith(KEPT_FLOAT32) else part.to(dtype)


def _tokenizer(file: Path | None, out: Path, bos: str | None, eos: str | None) -> tuple[int | None, int | None]:
    """Copy it with the little file that makes `AutoTokenizer` open it; the ids of the two tokens."""
    if file is None:
        if bos or eos:
            raise UserError("--bos and --eos name tokens of a tokenizer: give --tokenizer too")
        return None, None
    loaded = Tokenizer.from_file(str(file))
    ids = []
    for token in (bos, eos):
        if token is not None and loaded.token_to_id(token) is None:
            raise UserError(f"{file} has no token {token!r}")
        ids.append(None if token is None else loaded.token_to_id(token))
    shutil.copyfile(file, out / "tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    text = json.dumps({key: value for key, value in config.items() if value is not None}, indent=2)
    (out / "tokenizer_config.json").write_text(text + "\n")
    return ids[0], ids[1]


if __name__ == "__main__":
    sys.exit(edge.run(app))
