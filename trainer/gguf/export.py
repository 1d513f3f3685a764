"""A checkpoint as one GGUF file for llama.cpp, with the `gguf` package (`pip install 'bamba-data[gguf]'`).

Tensors pass one by one; memory holds, up to three times, the one that is being read, and a slice of it in the type of
the file. What multiplies tokens is stored in that type; norms, convolutions, A, D and dt_bias are float32, as llama.cpp
wants them. The file appears whole or not at all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bamba_data.canonical_json import digest
from bamba_data.errors import UserError

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import RunTokenizer
from ..hf.config_fields import refuse_other_layers, refuse_other_norm
from ..hf.rotary_fields import base_of
from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from ..observe.messages import say
from .tensors import HYBRID, GgufTensor, architecture, gguf_tensors, rotary_divisors
from .vocabulary import Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = ("f32", "bf16", "q8_0")
#: Values of q8_0 that share a scale.
BLOCK = 32
SLICE_BYTES = 64 << 20


def export_gguf(saved: SavedCheckpoint, out: Path, kind: str, tokenizer: RunTokenizer, context_tokens: int) -> None:
    """Write `out`, which must not exist yet.

    Args:
        kind: `f32`, `bf16` or `q8_0` (blocks of 32 values with one float16 scale: 8.5 bits a value).
        context_tokens: The longest text that the model is meant for.

    Raises:
        UserError: The file exists, or llama.cpp cannot say something of this model or tokenizer.
    """
    from gguf import GGUFWriter

    if kind not in TYPES:
        raise UserError(f"--type {kind}: one of {', '.join(TYPES)}")
    if out.suffix != ".gguf":
        raise UserError(f"{out}: --layout gguf writes one file, and llama.cpp's tools look for .gguf: name it so")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists: choose a new file")
    config = saved.config
    _check(config, kind)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size)
    part = out.with_name(f"{out.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise UserError(f"{out}: no file can be made there ({error.strerror})") from None
    writer = GGUFWriter(part, architecture(config))
    try:
        _say_model(writer, saved, kind, context_tokens)
        _say_vocabulary(writer, vocabulary)
        if tokenizer.chat_template is not None:
            writer.add_chat_template(tokenizer.chat_template)
        _write_tensors(writer, saved, kind)
    finally:
        writer.close()
    part.rename(out)
    say(f"{out}: {kind}, {out.stat().st_size / 1e9:.2f} GB, step {saved.commit['step']} of {saved.store.url}")
    if vocabulary.remark:
        say(f"{out}: {vocabulary.remark}")


def _check(config: ModelConfig, kind: str) -> None:
    """`UserError` where llama.cpp, or the type, has no place for this shape."""
    refuse_other_layers(config, "gguf")
    refuse_other_norm(config, "gguf")
    if not config.attention_indices:
        raise UserError("--layout gguf: no layer attends, and llama.cpp opens no hybrid of Mamba layers alone")
    if architecture(config) == HYBRID and config.inner_size != 2 * config.hidden_size:
        raise UserError(
            f"--layout gguf: mamba_heads * mamba_head_dim is {config.inner_size}, and llama.cpp has hybrids of twice "
            f"the hidden_size only, here {2 * config.hidden_size}"
        )
    if architecture(config) != HYBRID and config.rotary_width != config.head_dim:
        raise UserError(
            f"--layout gguf: all layers attend, and {config.rotary_width} of the {config.head_dim} features of a head "
            "are rotated: llama.cpp rotates a part of a head in hybrids only"
        )
    if kind != "q8_0":
        return
    for piece in gguf_tensors(config):
        if piece.matrix and piece.shape[-1] % BLOCK:
            raise UserError(
                f"--type q8_0: {piece.name} has rows of {piece.shape[-1]} values, which is no multiple of {BLOCK}: "
                "take bf16"
            )


def _say_model(writer: "GGUFWriter", saved: SavedCheckpoint, kind: str, context_tokens: int) -> None:
    import gguf

    config, commit = saved.config, saved.commit
    writer.add_name(commit["recipe"].get("name") or "Bamba")
    writer.add_description(f"step {commit['step']}, checkpoint sha256 {digest(commit)}")
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[kind]
    )
    if kind == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.mlp_size)
    writer.add_block_count(config.layers)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_head_count(config.attention_heads)
    writer.add_rope_dimension_count(config.rotary_width)
    writer.add_rope_freq_base(base_of(config))
    if config.rotary_scale and config.rotary_scale.cos_and_sin_by != 1:
        writer.add_rope_scaling_attn_factors(config.rotary_scale.cos_and_sin_by)
    writer.add_rope_scaling_finetuned(True)  # of these architectures it says whether positions count at all
    if architecture(config) != HYBRID:
        writer.add_logit_scale(1.0)  # must be there
        writer.add_head_count_kv(config.kv_heads)
        return
    attention = set(config.attention_indices)
    # a layer without heads of k and v is one of Mamba
    writer.add_head_count_kv([config.kv_heads if layer in attention else 0 for layer in range(config.layers)])
    writer.add_ssm_conv_kernel(CONV_WIDTH)
    writer.add_ssm_inner_size(config.inner_size)
    writer.add_ssm_state_size(config.mamba_state)
    writer.add_ssm_group_count(config.mamba_groups)
    writer.add_ssm_time_step_rank(config.mamba_heads)  # their name for the number of heads


def _say_vocabulary(writer: "GGUFWriter", vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.bos)
    writer.add_eos_token_id(vocabulary.eos)
    # without these two the pre-tokenizer's name decides
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)


def _write_tensors(writer: "GGUFWriter", saved: SavedCheckpoint, kind: str) -> None:
    """The index of the file, then the bytes, tensor by tensor and slice by slice."""
    import gguf

    pieces, made = list(gguf_tensors(saved.config)), rotary_divisors(saved.config)
    types = {
        "f32": gguf.GGMLQuantizationType.F32,
        "bf16": gguf.GGMLQuantizationType.BF16,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
    }
    for name, tensor in made.items():
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), tensor.nbytes)
    for piece in pieces:
        stored = kind if piece.matrix else "f32"
        row_bytes = gguf.quant_shape_to_byte_shape((piece.shape[-1],), types[stored])[0]
        in_bytes = (*piece.shape[:-1], row_bytes)
        writer.add_tensor_info(piece.name, in_bytes, np.dtype(np.uint8), int(np.prod(in_bytes)), types[stored])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    (file,) = writer.fout
    for tensor in made.values():
        writer.write_padding(file, file.tell())
        file.write(tensor.numpy().data)
    for piece in pieces:
        # by the package's own `write_tensor_data` the whole tensor would be in memory once more, in the file's type
        writer.write_padding(file, file.tell())
        for part in _slices(piece, saved):
            file.write(_stored(part, kind if piece.matrix else "f32").data)
    writer.write_padding(file, file.tell())


def _slices(piece: GgufTensor, saved: SavedCheckpoint) -> Iterator[Tensor]:
    """The tensor as the file has it, in float32, some rows at a time."""
    rows = piece.in_their_shape(saved.tensor(f"model.{piece.ours}", piece.start, piece.end).float())
    at_once = max(1, SLICE_BYTES // (rows[0].numel() * rows.itemsize))
    for start in range(0, len(rows), at_once):
        yield rows[start : start + at_once]


def _stored(rows: Tensor, kind: str) -> "np.ndarray[Any, Any]":
    """The bytes of some whole rows."""
    if kind == "q8_0":
        from gguf import GGMLQuantizationType, quants

        return quants.quantize(rows.contiguous().numpy(), GGMLQuantizationType.Q8_0)
    if kind == "bf16":
        return rows.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    return rows.contiguous().numpy()
