"""The model computes what `transformers` computes, keeps documents apart to the bit, and starts as it should."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BambaConfig, BambaForCausalLM

from tests.trainer.small import CONFIG, model, packed
from trainer.hf.bamba_config import config_json, config_of
from trainer.hf.bamba_tensors import tensor_mappings
from trainer.loss import _logit_gradients, _logit_gradients_fused, backward, summed_loss
from trainer.model.bamba import Bamba, vector_parameters
from trainer.model.config import ModelConfig

BAMBA_9B = ModelConfig(
    vocab_size=128256,
    hidden_size=4096,
    mlp_size=14336,
    layers=32,
    attention_layers=[9, 18, 27],
    attention_heads=32,
    kv_heads=8,
    mamba_heads=128,
)


def theirs_of(ours: Bamba) -> BambaForCausalLM:
    """A `transformers` model with our weights."""
    theirs = BambaForCausalLM(BambaConfig(**config_json(ours.config, 4096, "float32", None, None)))
    state = dict(ours.named_parameters())
    loaded = theirs.load_state_dict(
        {piece.theirs: piece.out_of(state[piece.ours].detach()).clone() for piece in tensor_mappings(ours.config)}
    )
    assert not loaded.missing_keys and not loaded.unexpected_keys
    return theirs


def test_loss_and_every_gradient_are_those_of_transformers() -> None:
    ours = model()
    theirs = theirs_of(ours)
    ids, documents, positions, labels = packed([150])
    total, losses = ours.losses(ids, documents, positions, labels)
    total.backward()
    logits = theirs(ids).logits
    reference = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    reference.sum().backward()
    torch.testing.assert_close(losses.flatten(), reference, rtol=1e-4, atol=1e-4)
    grads = {name: parameter.grad for name, parameter in ours.named_parameters()}
    found = dict(theirs.named_parameters())
    for piece in tensor_mappings(ours.config):
        mine, other = grads[piece.ours], found[piece.theirs].grad
        assert mine is not None and other is not None
        scale = other.abs().max().item()
        torch.testing.assert_close(piece.out_of(mine), other, rtol=1e-3, atol=1e-4 * scale)


def test_logits_are_those_of_transformers_and_half_the_head_is_rotated() -> None:
    ours = model()
    theirs = theirs_of(ours)
    ids, documents, positions, _ = packed([77])
    cos, _ = theirs.model.rotary_emb(theirs.model.embed_tokens(ids), positions)
    assert cos.shape[-1] == CONFIG.head_dim // 2
    torch.testing.assert_close(ours.logits(ids, documents, positions), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_document_in_a_packed_row_gets_what_it_gets_alone() -> None:
    ours = model()
    ids, documents, positions, labels = packed([70, 3, 90])
    _, together = ours.losses(ids, documents, positions, labels)
    for start, length in ((0, 70), (70, 3), (73, 90)):
        part = slice(start, start + length)
        _, alone = ours.losses(
            ids[:, part], torch.zeros(1, length, dtype=torch.int32), positions[:, part], labels[:, part]
        )
        torch.testing.assert_close(together[:, part], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[64, 64], [63, 65], [1, 127], [100, 28]])
def test_changing_one_document_changes_no_bit_of_its_neighbours(lengths: list[int]) -> None:
    ours = model()
    ids, documents, positions, labels = packed(lengths)
    labels[:, : lengths[0]] = -100
    other = ids.clone()
    other[:, : lengths[0]] = (other[:, : lengths[0]] + 5) % CONFIG.vocab_size

    def results(tokens: torch.Tensor) -> list[torch.Tensor]:
        ours.zero_grad()
        total, losses = ours.losses(tokens, documents, positions, labels)
        total.backward()
        return [losses, *(p.grad.clone() for p in ours.parameters() if p.grad is not None)]

    first, second = results(ids), results(other)
    assert len(first) == 1 + len(list(ours.parameters()))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_the_loss_in_chunks_is_the_loss_of_all_logits_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, 50, 32, generator=generator, requires_grad=True)
    weight = torch.randn(211, 32, generator=generator, requires_grad=True)
    labels = torch.randint(0, 211, (2, 50), generator=generator)
    labels[0, ::7] = -100
    plain = cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none").view(2, 50)
    wanted = torch.autograd.grad(0.3 * plain.sum(), [hidden, weight])
    for chunk in (1, 7, 100, 1000):
        total, losses = summed_loss(hidden, weight, labels, torch.tensor(0.3), chunk)
        torch.testing.assert_close(losses, plain)
        for got, want in zip(torch.autograd.grad(total, [hidden, weight]), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_loss_without_gradients_makes_the_logits_and_no_other_product() -> None:
    hidden, weight = (torch.randn(n, 32, requires_grad=True) for n in (50, 211))
    with torch.no_grad(), Operations() as seen:
        summed_loss(hidden, weight, torch.zeros(50, dtype=torch.int64), torch.tensor(0.3), 25)
    assert seen.names.count("aten.mm.default") == 2


@pytest.mark.parametrize("chunk", [7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradients_of_a_loss_alone_have_the_same_bits_without_a_pass_over_them(
    dtype: torch.dtype, chunk: int
) -> None:
    def gradients(run: Callable[[torch.Tensor], None]) -> tuple[list[torch.Tensor], list[str]]:
        generator = torch.Generator().manual_seed(3)
        hidden, weight = (torch.randn(n, 32, generator=generator).to(dtype).requires_grad_() for n in (50, 211))
        labels = torch.randint(0, 211, (50,), generator=generator)
        total, _ = summed_loss(hidden, weight, labels, torch.tensor(0.3), chunk)
        with Operations() as seen:
            run(total)
        assert hidden.grad is not None and weight.grad is not None
        return [hidden.grad, weight.grad], seen.names

    wanted, multiplied = gradients(torch.autograd.backward)
    got, seen = gradients(backward)
    assert multiplied.count("aten.mul.Tensor") == 2
    assert not {"aten.mul.Tensor", "aten.clone.default", "aten._to_copy.default"} & set(seen)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    twice, _ = gradients(lambda total: backward(2 * total))
    for one, other in zip(twice, wanted, strict=True):
        torch.testing.assert_close(one, 2 * other)


class Operations(TorchDispatchMode):
    """Notes the names of what torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_for_a_gpu_is_the_softmax_that_runs_here(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(40, 211, generator=generator).to(dtype)
    second, labels = first.clone(), torch.randint(0, 211, (40,), generator=generator)
    labels[::7] = -100
    scale = torch.tensor(0.3)
    torch.testing.assert_close(_logit_gradients(first, labels, scale), _logit_gradients_fused(second, labels, scale))
    torch.testing.assert_close(first, second, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_bamba_9b_has_the_parameters_and_the_cost_that_are_published() -> None:
    with torch.device("meta"):
        made = Bamba(BAMBA_9B)
    assert sum(parameter.numel() for parameter in made.parameters()) == BAMBA_9B.parameters == 9_780_235_392
    assert BAMBA_9B.matmul_parameters == 9_253_158_912
    assert BAMBA_9B.flops_per_token(4096) == pytest.approx(56.28e9, rel=2e-4)
    assert len(list(tensor_mappings(BAMBA_9B))) == 407


def test_a_published_config_is_understood_and_written_back() -> None:
    assert config_of(config_json(BAMBA_9B, 4096, "bfloat16", 128000, 128001), "x") == BAMBA_9B


def test_first_values_are_those_of_mamba2_and_the_same_every_time() -> None:
    ours = model()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, dict(model().named_parameters())[name])
    mixer = ours.blocks[0].mixer
    assert (mixer.A_log.exp() >= 0.999).all() and (mixer.A_log.exp() <= 16.01).all()
    steps = softplus(mixer.dt_bias)
    assert (steps > 0.9e-3).all() and (steps < 0.11).all()
    assert ours.blocks[1].mixer.out.weight.abs().max() < 1 / (64 * 8) ** 0.5 + 1e-6
    total, losses = ours.losses(*packed([200]))
    assert (total / (losses != 0).sum()).item() == pytest.approx(math.log(331), rel=0.05)


def test_vectors_are_all_that_is_small() -> None:
    ours = model()
    small = dict(vector_parameters(ours))
    assert all(
        parameter.dim() == 2 and parameter.shape[1] > 4
        for name, parameter in ours.named_parameters()
        if name not in small
    )
    assert "blocks.0.mixer.A_log" in small and "blocks.0.mixer.conv_weight" in small


def test_a_block_is_one_graph_forward_and_backward() -> None:
    ours = model()
    ids, documents, positions, _ = packed([40, 24])
    rows = ours.rows(documents, positions)
    for block in ours.blocks[:2]:
        x = ours.embedding(ids).detach().requires_grad_()
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        (got,) = torch.autograd.grad(compiled(x, rows).square().sum(), x)
        (wanted,) = torch.autograd.grad(block(x, rows).square().sum(), x)
        torch.testing.assert_close(got, wanted)
