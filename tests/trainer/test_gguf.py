"""A GGUF file holds each tensor, size and token where llama.cpp looks, or is refused by what cannot be said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bamba_data.errors import UserError
from tests.bamba_data.memory import grown
from tests.corpora import TOKENIZER
from tests.trainer.proportions import CONFIG, sharp_model
from tests.trainer.small import saved
from tests.trainer.vocabularies import a_tokenizer
from trainer.checkpoint.tokenizer import RunTokenizer, of_file
from trainer.gguf.export import export_gguf
from trainer.gguf.pretokenizers import NAMES
from trainer.gguf.tensors import neighbours
from trainer.gguf.vocabulary import TokenKind, vocabulary_of
from trainer.hf.layouts import ExportOptions, export_checkpoint
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0.0), ("bf16", 2**-8), ("q8_0", 1 / 127)])
def test_each_tensor_is_in_the_file_to_the_precision_of_its_type(tmp_path: Path, kind: str, tolerance: float) -> None:
    gguf = pytest.importorskip("gguf")
    ours = sharp_model()
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", kind, a_tokenizer("llama-bpe"), 256)
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    gate_up, a_log = ours.get_parameter("blocks.0.mlp.gate_up.weight"), ours.get_parameter("blocks.0.mixer.A_log")
    qkv = ours.get_parameter("blocks.1.mixer.qkv.weight")
    wanted = {
        "token_embd.weight": ours.embedding.weight,
        "output.weight": ours.head.weight,
        "blk.0.ffn_gate.weight": gate_up[:896],
        "blk.0.ffn_up.weight": gate_up[896:],
        "blk.0.ssm_in.weight": ours.get_parameter("blocks.0.mixer.in_proj.weight"),
        "blk.0.ssm_a": -a_log.exp()[:, None],
        "blk.0.ssm_conv1d.weight": ours.get_parameter("blocks.0.mixer.conv_weight"),
        "blk.1.attn_k.weight": neighbours(qkv[256:320], 64, 32),
        "blk.1.attn_v.weight": qkv[320:],
    }
    for name, value in wanted.items():
        found = gguf.quants.dequantize(held[name].data, held[name].tensor_type).reshape(value.shape)
        mine = value.detach().numpy()
        scale = np.abs(mine).max(-1, keepdims=True) if kind == "q8_0" else np.abs(mine)
        bound = tolerance * scale if value.dim() > 1 and "ssm_a" not in name and "conv" not in name else 0.0
        assert (np.abs(found - mine) <= bound).all(), name
    matrices = {"f32": "F32", "bf16": "BF16", "q8_0": "Q8_0"}[kind]
    for name, tensor in held.items():
        vector = any(part in name for part in ("norm", "bias", "conv1d", "ssm_a", "ssm_d"))
        assert tensor.tensor_type.name == ("F32" if vector else matrices), name


def test_rows_that_are_rotated_come_to_stand_beside_their_partners_and_no_others() -> None:
    rows = torch.arange(16.0)[:, None]  # two heads of 8, of which 4 are rotated: 0 goes with 2, and 1 with 3
    assert neighbours(rows, 8, 4).flatten().tolist() == [0, 2, 1, 3, 4, 5, 6, 7, 8, 10, 9, 11, 12, 13, 14, 15]


def test_the_file_says_the_shape_of_the_model_and_its_tokens(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    tokenizer = replace(a_tokenizer("qwen2"), chat_template="{{ messages }}")
    export_gguf(saved(tmp_path / "run", sharp_model()), tmp_path / "model.gguf", "bf16", tokenizer, 4096)
    said = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()}
    assert said["general.architecture"] == "granitehybrid"
    assert said["granitehybrid.rope.dimension_count"] == 32
    assert said["granitehybrid.rope.scaling.finetuned"] is True
    assert said["granitehybrid.attention.head_count_kv"] == [0, 1, 0, 1]
    assert said["granitehybrid.ssm.inner_size"] == 512 and said["granitehybrid.ssm.time_step_rank"] == 8
    assert said["granitehybrid.context_length"] == 4096
    assert said["tokenizer.ggml.pre"] == "qwen2" and said["tokenizer.chat_template"] == "{{ messages }}"
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert said["tokenizer.ggml.eos_token_id"] == said["tokenizer.ggml.bos_token_id"] == 0
    assert said["tokenizer.ggml.tokens"][0] == "<|end|>" and len(said["tokenizer.ggml.tokens"]) == 512


def test_the_file_says_the_groups_of_heads_and_the_norm_is_cut_into_them(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    ours = sharp_model(ModelConfig.model_validate({**CONFIG.model_dump(), "mamba_groups": 4, "mamba_norm_groups": 4}))
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", "f32", a_tokenizer("qwen2"), 4096)
    read = gguf.GGUFReader(tmp_path / "model.gguf")
    shapes = {tensor.name: list(tensor.shape) for tensor in read.tensors}
    assert read.fields["granitehybrid.ssm.group_count"].contents() == 4
    assert shapes["blk.0.ssm_norm.weight"] == [128, 4] and shapes["blk.0.ssm_conv1d.weight"] == [4, 512 + 8 * 128]


def test_the_tokenizer_that_ships_with_us_has_a_name_and_kinds_of_tokens() -> None:
    tokenizer = of_file(TOKENIZER).with_tokens(None, "<|endoftext|>")
    vocabulary = vocabulary_of(tokenizer, 50_304)
    assert (vocabulary.pre, vocabulary.eos, vocabulary.add_bos) == ("trillion", 50279, False)
    assert vocabulary.kinds[50279] == TokenKind.CONTROL
    assert vocabulary.tokens[50254] == " " * 24 and vocabulary.kinds[50254] == TokenKind.USER_DEFINED
    assert vocabulary.kinds[50280:] == [TokenKind.UNUSED] * 24
    assert "does not normalize to NFC" in (vocabulary.remark or "")


def changed(**fields: Any) -> RunTokenizer:
    """A tokenizer.json of llama-bpe with other values at the top, or in `model`."""
    good = a_tokenizer("llama-bpe")
    stated = json.loads(good.data)
    model = {**stated["model"], **fields.pop("model", {})}
    return RunTokenizer(json.dumps({**stated, "model": model, **fields}).encode(), None, good.eos, "tokenizer.json")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
AROUND = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
}
TWICE = {**AROUND, "single": [AROUND["single"][0], *AROUND["single"]]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pre_tokenizer": BYTE_LEVEL}, r"no pre-tokenizer that cuts as this one does \(ByteLevel, with ignore_merges\)"),
    ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "no pre-tokenizer that cuts"),
    ({"pre_tokenizer": None}, r"no pre-tokenizer that cuts as this one does \(none"),
    ({"normalizer": {"type": "Lowercase"}}, "its normalizer is Lowercase"),
    ({"model": {"end_of_word_suffix": "</w>"}}, "model.end_of_word_suffix is '</w>'"),
    ({"model": {"byte_fallback": True}}, "model.byte_fallback is True"),
    ({"post_processor": TWICE}, r"it puts \[0, 0\] before and \[\] after a text"),
]


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_tokenizer_that_llama_cpp_cannot_have_is_refused_by_what_is_odd(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"^tokenizer.json: .*{named}"):
        vocabulary_of(changed(**fields), 512)


def test_a_token_that_swallows_blanks_is_refused() -> None:
    stated = json.loads(a_tokenizer("llama-bpe").data)
    stated["added_tokens"][0]["lstrip"] = True
    with pytest.raises(UserError, match=r"the token '<\|end\|>' has lstrip, which GGUF cannot say"):
        vocabulary_of(RunTokenizer(json.dumps(stated).encode(), None, 0, "tokenizer.json"), 512)


def test_what_ends_a_text_is_not_left_to_llama_cpp() -> None:
    good = a_tokenizer("llama-bpe")
    with pytest.raises(UserError, match="no token ends a text"):
        vocabulary_of(RunTokenizer(good.data, None, None, "tokenizer.json"), 512)


def test_a_token_that_the_tokenizer_puts_first_is_put_first_by_llama_cpp_too() -> None:
    vocabulary = vocabulary_of(changed(post_processor=AROUND), 512)
    assert (vocabulary.bos, vocabulary.add_bos, vocabulary.add_eos) == (0, True, False)
    with pytest.raises(UserError, match="it puts token 0 before a text, and the model was trained with 7 there"):
        vocabulary_of(RunTokenizer(changed(post_processor=AROUND).data, 7, 0, "tokenizer.json"), 512)


@pytest.mark.parametrize("name", sorted(NAMES.values()))
def test_a_vocabulary_of_ones_own_has_the_name_of_how_it_cuts(name: str) -> None:
    assert vocabulary_of(a_tokenizer(name), 512).pre == name


@pytest.mark.parametrize(
    ("shape", "kind", "named"),
    [
        ({"mamba_heads": 4}, "f32", "mamba_heads \\* mamba_head_dim is 256, and llama.cpp has hybrids of twice"),
        ({"attention_layers": []}, "f32", "no layer attends"),
        ({"attention_layers": "all"}, "f32", "llama.cpp rotates a part of a head in hybrids only"),
        ({"mlp_size": 100}, "q8_0", "ffn_down.weight has rows of 100 values, which is no multiple of 32: take bf16"),
        ({"mamba_groups": 4}, "f32", "the layout gguf .* mamba_groups is 4, mamba_norm_groups 1: no layout can say it"),
        ({}, "q4_0", "--type q4_0: one of f32, bf16, q8_0"),
    ],
)
def test_a_model_that_llama_cpp_cannot_have_is_refused_by_what_is_odd(
    tmp_path: Path, shape: dict[str, Any], kind: str, named: str
) -> None:
    pytest.importorskip("gguf")
    ours = sharp_model(ModelConfig.model_validate({**CONFIG.model_dump(), **shape}))
    with pytest.raises(UserError, match=named):
        export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", kind, a_tokenizer("llama-bpe"), 256)
    assert not list(tmp_path.glob("model*"))


def test_the_command_writes_one_file_and_refuses_what_is_of_folders(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    saved(tmp_path / "run", sharp_model())
    (tmp_path / "tokenizer.json").write_bytes(a_tokenizer("llama-bpe").data)

    def export(out: str, options: ExportOptions, tokenizer: str = "tokenizer.json") -> None:
        chosen = tokenizer if tokenizer == "none" else str(tmp_path / tokenizer)
        eos = None if tokenizer == "none" else "<|end|>"
        export_checkpoint(str(tmp_path / "run"), tmp_path / out, "gguf", options, chosen, None, eos)

    export("model.gguf", ExportOptions())
    size = (tmp_path / "model.gguf").stat().st_size
    with pytest.raises(UserError, match="exists: choose a new file"):
        export("model.gguf", ExportOptions(type="f32"))
    assert (tmp_path / "model.gguf").stat().st_size == size
    with pytest.raises(UserError, match=r"llama.cpp's tools look for \.gguf: name it so"):
        export("model", ExportOptions())
    with pytest.raises(UserError, match="--dtype float32: the layout gguf has no such choice"):
        export("other.gguf", ExportOptions(dtype="float32"))
    with pytest.raises(UserError, match=r"--tokenizer none: llama\.cpp opens no model without its tokenizer"):
        export("other.gguf", ExportOptions(), "none")
    with pytest.raises(UserError, match="--type bf16: the layout bamba has no such choice; of gguf it is one"):
        export_checkpoint(
            str(tmp_path / "run"), tmp_path / "x", "bamba", ExportOptions(type="bf16"), "none", None, None
        )


@pytest.mark.costly
def test_an_export_holds_one_tensor_in_memory(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    shape = {"hidden_size": 512, "mlp_size": 2048, "mamba_heads": 16, "layers": 12}
    large = Bamba(CONFIG.model_copy(update=shape))
    count = sum(value.numel() for value in large.parameters())
    saved(tmp_path / "run", large)
    (tmp_path / "tokenizer.json").write_bytes(a_tokenizer("llama-bpe").data)
    script = """
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.checkpoint.tokenizer import of_file
from trainer.gguf.export import export_gguf
import gguf
saved = SavedCheckpoint(sys.argv[1])
tokenizer = of_file(Path(sys.argv[2])).with_tokens(None, "<|end|>")
before = peak()
export_gguf(saved, Path(sys.argv[3]), "bf16", tokenizer, 256)
done(None, before)
"""
    _, grew = grown(script, tmp_path / "run", tmp_path / "tokenizer.json", tmp_path / "model.gguf")
    largest = 4 * 512 * 4096
    assert grew < 8 * largest < 2 * count  # bytes: the model itself in bfloat16 is more
