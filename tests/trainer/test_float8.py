"""Float8 products learn what bfloat16 products learn, and nothing that is stored knows of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torchao.float8.float8_linear import Float8Linear

from bamba_data.errors import UserError
from tests.corpora import texts
from tests.trainer.small import CONFIG
from trainer.config import Compute, Optimizer
from trainer.distributed import float8
from trainer.distributed.fsdp import World, distribute, local
from trainer.kernels import backends, reference
from trainer.model.bamba import Bamba
from trainer.model.init_weights import init_weights
from trainer.optim.adamw import AdamW

pytestmark = pytest.mark.slow

#: Sides that are multiples of 16, and a token a byte.
HYBRID = CONFIG.model_copy(update={"vocab_size": 256, "mlp_size": 128, "attention_layers": [2], "mamba_heads": 16})


@pytest.fixture(autouse=True)
def small_linears_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "SMALLEST", 64)


def made(world: World, kind: str, *, low_memory: bool = False, casts: str = "compiled") -> Bamba:
    with torch.device("meta"):
        model = Bamba(HYBRID)
    compute = Compute.model_validate({"float8": kind, "compile": False, "float8_casts": casts})
    distribute(model, compute, world, low_memory=low_memory)
    init_weights(model, HYBRID, 1)
    return model


def rows(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four rows of the bytes of English prose."""
    prose = torch.frombuffer(bytearray("\n".join(texts()).encode()), dtype=torch.uint8)
    ids = prose[step * 516 : (step + 1) * 516].long().view(4, 129)
    return ids[:, :-1], torch.zeros(4, 128, dtype=torch.int32), torch.arange(128).expand(4, -1), ids[:, 1:]


def learned(world: World, kind: str, *, low_memory: bool = False) -> list[float]:
    """The mean loss of every step."""
    model = made(world, kind, low_memory=low_memory)
    optimizer = AdamW(model, Optimizer(), world)
    found = []
    for step in range(20):
        loss, _ = model.losses(*rows(step), torch.tensor(1 / 512))
        loss.backward()
        optimizer.update(3e-3, optimizer.gradient_norm(), torch.tensor(True))
        found.append(loss.item())
    return found


@pytest.fixture(scope="module")
def plain(world: World) -> list[float]:
    return learned(world, "none")


@pytest.mark.costly
@pytest.mark.parametrize(("kind", "low_memory"), [("tensorwise", False), ("rowwise", True)])
def test_the_loss_over_real_text_is_that_of_bfloat16(
    world: World, plain: list[float], kind: str, low_memory: bool
) -> None:
    found = learned(world, kind, low_memory=low_memory)
    assert plain[-1] < 0.5 * plain[0]
    assert found != plain
    assert found == pytest.approx(plain, rel=0.02)
    assert sum(found[-10:]) == pytest.approx(sum(plain[-10:]), rel=0.005)


def test_what_is_stored_is_the_same_to_the_bit(world: World) -> None:
    theirs = dict(made(world, "none").named_parameters())
    ours = dict(made(world, "rowwise").named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(local(value), local(theirs[name])) for name, value in ours.items())


def test_the_linears_of_the_blocks_are_converted_and_neither_the_head_nor_small_ones(world: World) -> None:
    def converted() -> list[str]:
        return [name for name, module in made(world, "tensorwise").named_modules() if isinstance(module, Float8Linear)]

    mixers = [("qkv", "out") if layer == 2 else ("in_proj", "out_proj") for layer in range(4)]
    names = [f"mixer.{name}" for pair in mixers for name in pair]
    assert len(converted()) == len(names) + 4 * 2
    assert {name.split(".", 2)[2] for name in converted()} == {*names, "mlp.gate_up", "mlp.down"}
    sides = {(48, 128): False, (128, 72): False, (64, 128): True}  # small, no multiple of 16, neither
    assert {pair: float8._fits(torch.nn.Linear(*pair)) for pair in sides} == sides


def test_float8_for_a_model_too_small_for_it_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "SMALLEST", 1024)
    with pytest.raises(UserError, match=r"compute\.float8: no linear of this model has two sides of 1024 or more"):
        made(world, "tensorwise")


@pytest.mark.parametrize("low_memory", [False, True])
def test_casts_by_the_kernel_give_every_gradient_the_bits_of_torchao_s(world: World, low_memory: bool) -> None:
    def gradients(casts: str) -> tuple[set[type], dict[str, Tensor]]:
        model = made(world, "tensorwise", low_memory=low_memory, casts=casts)
        model.losses(*rows(0), torch.tensor(1 / 512))[0].backward()
        kinds = {type(module) for module in model.modules() if isinstance(module, Float8Linear)}
        return kinds, {name: local(one.grad) for name, one in model.named_parameters() if one.grad is not None}

    theirs, wanted = gradients("compiled")
    ours, got = gradients("kernel")
    assert theirs == {Float8Linear} and ours.isdisjoint(theirs)
    assert got.keys() == wanted.keys()
    assert [name for name, grad in got.items() if not torch.equal(grad, wanted[name])] == []


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own imports
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_with_the_kernel_a_block_keeps_turned_codes_in_place_of_what_they_are_of(world: World, recompute: str) -> None:
    """As compiled, by the partitioner that a GPU's compiler takes: of what each product reads, and of its weight, one
    float8 matrix and nothing wider; nothing where it is made again."""
    compute = Compute.model_validate(
        {"float8": "tensorwise", "float8_casts": "kernel", "compile": False, "recompute": recompute}
    )
    with torch.device("meta"):
        model = Bamba(HYBRID)
    distribute(model, compute, world, low_memory=True)
    init_weights(model, HYBRID, 1)
    ids, documents, positions, _ = rows(0)
    known, block, kept = model.rows(documents, positions), model.blocks[1], list[Tensor]()
    compiled = torch.compile(block.forward, backend="aot_eager_decomp_partition", fullgraph=True)
    x = model.embedding(ids).detach().float().requires_grad_()
    with saved_tensors_hooks(lambda saved: (kept.append(saved), saved)[1], lambda saved: saved):
        out = compiled(x, known)
    codes = sorted(sorted(one.shape) for one in kept if one.dtype == torch.float8_e4m3fn)  # some as views the other way
    linears = [module for module in block.modules() if isinstance(module, Float8Linear)]
    tokens, sides = ids.numel(), [(one.in_features, one.out_features) for one in linears]
    if recompute == "full":
        assert codes == []
    else:
        assert codes == sorted(map(sorted, [*sides, *((into, tokens) for into, _ in sides)]))
        held = {one.untyped_storage().data_ptr() for one in kept}
        assert not any(module.weight.untyped_storage().data_ptr() in held for module in linears)
        made = {HYBRID.inner_size, HYBRID.hidden_size, 2 * HYBRID.mlp_size}  # by the scan, out_proj and gate_up
        wide = {one.shape[-1] for one in kept if one.dtype == torch.bfloat16 and one.numel() >= tokens * 64}
        assert HYBRID.mlp_size not in wide and made < wide
    out.sum().backward()


def test_without_gradients_nothing_is_made_for_a_backward(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, documents, positions, _ = rows(0)
    model = made(world, "tensorwise", casts="kernel")
    wanted = model.logits(ids, documents, positions)
    monkeypatch.setattr(
        backends, "backend", lambda tensor, *_: SimpleNamespace(**(vars(reference) | {"float8_cast": None}))
    )
    with torch.no_grad():
        assert torch.equal(model.logits(ids, documents, positions), wanted)


def test_casts_by_the_kernel_are_refused_where_each_row_has_a_scale() -> None:
    with pytest.raises(ValidationError, match=r"float8_casts: kernel is for one scale a matrix, and float8 is rowwise"):
        Compute.model_validate({"float8": "rowwise", "float8_casts": "kernel"})


def test_a_kernel_whose_codes_are_others_on_this_device_begins_no_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reference.float8_cast

    def one_bit_off(*given: Any) -> tuple[Tensor, Tensor]:
        codes, turned = honest(*given)
        turned.view(torch.uint8)[5, 7] ^= 1
        return codes, turned

    monkeypatch.setattr(backends, "backend", lambda *_: SimpleNamespace(float8_cast=one_bit_off))
    with pytest.raises(
        UserError, match=r"compute\.float8_casts: the kernel's codes of torch\.float8_e4m3fn on cpu are"
    ):
        made(world, "tensorwise", casts="kernel")


@pytest.mark.parametrize(
    ("kind", "casts"), [("rowwise", "compiled"), ("tensorwise", "kernel")], ids=["by row", "by the kernel"]
)
@pytest.mark.parametrize("recompute", [pytest.param("none", marks=pytest.mark.costly), "selective"])
def test_a_block_in_float8_is_one_graph_forward_and_backward(
    world: World, recompute: str, kind: str, casts: str
) -> None:
    """By the capture of graphs alone: machine code for a CPU takes minutes."""
    compute = Compute.model_validate({"float8": kind, "float8_casts": casts, "compile": False, "recompute": recompute})
    with torch.device("meta"):
        model = Bamba(HYBRID)
    distribute(model, compute, world, low_memory=True)
    init_weights(model, HYBRID, 1)
    ids, documents, positions, _ = rows(0)
    known = model.rows(documents, positions)
    for block in model.blocks[1:3]:
        x = model.embedding(ids).detach().float().requires_grad_()
        compiled = torch.compile(block.forward, backend="aot_eager", fullgraph=True)
        (got,) = torch.autograd.grad(compiled(x, known).square().sum(), x)
        (wanted,) = torch.autograd.grad(block(x, known).square().sum(), x)
        torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)
