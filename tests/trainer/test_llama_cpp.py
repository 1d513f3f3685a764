"""A GGUF file of ours computes in llama.cpp what the model computes here, and is tokenized for as in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from tests.corpora import TOKENIZER
from tests.llama_cpp import llama_cpp
from tests.trainer.proportions import CONFIG, sharp_model
from tests.trainer.small import saved
from tests.trainer.vocabularies import TEXTS, a_tokenizer
from trainer.checkpoint.tokenizer import of_file
from trainer.gguf import pretokenizers, tensors
from trainer.gguf.export import export_gguf
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

pytestmark = [pytest.mark.peers]

#: For texts that are longer than 8 tokens.
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rotary_scale": {"kind": "linear", "factor": 4.0}},
    "ntk": {"rotary_scale": {"kind": "ntk", "factor": 8.0}},
    "yarn": {"rotary_scale": {"kind": "yarn", "factor": 8.0, "original_tokens": 8}},
    "longrope": {
        "rotary_factors": [1 + 0.3 * pair for pair in range(16)],
        "rotary_scale": {"kind": "longrope", "factor": 8.0, "original_tokens": 8},
    },
}


def a_model(**shape: object) -> Bamba:
    """Sharp in what it attends to, and twice as sure of what comes next as when it is drawn."""
    made = sharp_model(ModelConfig.model_validate({**CONFIG.model_dump(), **shape}))
    with torch.no_grad():
        made.head.weight.mul_(2)
    return made


def divergence(ours: Bamba, file: Path, scratch: Path) -> tuple[float, int]:
    """(mean of the Kullback-Leibler divergence from our distribution to theirs, in nats; positions of 33 where the
    likeliest token is the same)."""
    ids = torch.randint(0, 400, (1, 33), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits = ours.logits(ids, torch.zeros_like(ids).int(), torch.arange(33)[None])
    mine = logits[0].double().log_softmax(-1).numpy()
    theirs = llama_cpp(file, scratch, ids[0].tolist()).probabilities
    apart = (np.exp(mine) * (mine - np.log(np.maximum(theirs, 1e-30)))).sum(-1)
    return float(apart.mean()), int((mine.argmax(-1) == theirs.argmax(-1)).sum())


@pytest.mark.parametrize(("kind", "nats", "equal"), [("f32", 1e-5, 33), ("bf16", 1e-4, 33), ("q8_0", 5e-3, 30)])
def test_llama_cpp_computes_what_the_model_computes(tmp_path: Path, kind: str, nats: float, equal: int) -> None:
    ours = a_model()
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", kind, a_tokenizer("llama-bpe"), 256)
    apart, same = divergence(ours, tmp_path / "model.gguf", tmp_path)
    assert abs(apart) <= nats and same >= equal, (apart, same)


@pytest.mark.parametrize(
    "shape",
    [
        {"rotary_fraction": 1.0},
        {"rotary_fraction": 0.25},
        {"rotary_base": 5e5},
        {"attention_layers": "all", "rotary_fraction": 1.0},
        {"mamba_groups": 2, "mamba_norm_groups": 2},
        {"mamba_groups": 4, "mamba_norm_groups": 4},
    ],
)
def test_each_share_of_a_head_that_is_rotated_and_each_number_of_groups_is_right(
    tmp_path: Path, shape: dict[str, object]
) -> None:
    ours = a_model(**shape)
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", "f32", a_tokenizer("llama-bpe"), 256)
    apart, same = divergence(ours, tmp_path / "model.gguf", tmp_path)
    assert abs(apart) <= 1e-5 and same == 33, (apart, same)


@pytest.mark.parametrize("scale", SCALED)
def test_frequencies_for_longer_texts_and_their_attention_factor_are_right(tmp_path: Path, scale: str) -> None:
    ours = a_model(**SCALED[scale])
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", "f32", a_tokenizer("llama-bpe"), 256)
    apart, same = divergence(ours, tmp_path / "model.gguf", tmp_path)
    assert abs(apart) <= 1e-5 and same == 33, (apart, same)
    plain, _ = divergence(a_model(), tmp_path / "model.gguf", tmp_path)
    assert plain > 1e-4, "so small a change that a wrong file would not show"


def test_a_file_that_is_rotated_as_their_converter_does_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It interleaves all rows of a head; and a file whose rotated width is not stated turns the whole of it."""
    ours = a_model()
    right = tensors.neighbours
    monkeypatch.setattr(tensors, "neighbours", lambda rows, head_dim, rotary_width: right(rows, head_dim, head_dim))
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", "f32", a_tokenizer("llama-bpe"), 256)
    apart, same = divergence(ours, tmp_path / "model.gguf", tmp_path)
    assert apart > 1e-2 and same < 33, (apart, same)


@pytest.mark.parametrize("kind", sorted(pretokenizers.NAMES.values()))
def test_llama_cpp_cuts_and_merges_texts_as_in_training(tmp_path: Path, kind: str) -> None:
    tokenizer = a_tokenizer(kind)
    ours = a_model(attention_layers=[1], layers=2)
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", "q8_0", tokenizer, 256)
    heard = llama_cpp(tmp_path / "model.gguf", tmp_path, texts=TEXTS)
    assert heard.tokens == [tokenizer.tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    if kind not in ("llama-bpe", "dbrx"):  # these two take blanks away before punctuation, where tokens are decoded
        assert heard.decoded == TEXTS


def test_llama_cpp_tokenizes_as_the_tokenizer_that_ships_with_us(tmp_path: Path) -> None:
    tokenizer = of_file(TOKENIZER).with_tokens(None, "<|endoftext|>")
    ours = a_model(attention_layers=[1], layers=2, vocab_size=50_304)
    export_gguf(saved(tmp_path / "run", ours), tmp_path / "model.gguf", "q8_0", tokenizer, 256)
    texts = [normalizers.NFC().normalize_str(text) for text in TEXTS]
    heard = llama_cpp(tmp_path / "model.gguf", tmp_path, texts=texts)
    assert heard.tokens == [tokenizer.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert heard.decoded == texts
