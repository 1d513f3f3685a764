"""What the kernels cannot compute is refused by name, on any device and for a compiler, before they read beyond it."""

import re
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bamba_data.errors import UserError
from tests.trainer.kernels.cases import Case, draw, rows_of_documents
from trainer.data.batch import Batch
from trainer.kernels import ops
from trainer.kernels.supported import STATE_MAX, STATES, part_width, unsupported
from trainer.model.config import ModelConfig

WHOLE = rows_of_documents(2, 20, [[3], [7, 8]])
CASE = draw(WHOLE).to(torch.float32)


def wider(tensor: Tensor) -> Tensor:
    """The same numbers, every second one of a larger tensor."""
    return tensor.repeat_interleave(2, -1)[..., ::2]


MIX: dict[str, tuple[Callable[[Case], Case], str]] = {
    "50 ids for 20 tokens": (
        lambda case: case._replace(documents=torch.zeros(2, 50, dtype=torch.int32)),
        "documents has the shape (2, 50), not (2, 20)",
    ),
    "ids of one row": (
        lambda case: case._replace(documents=case.documents[:1]),
        "documents has the shape (1, 20), not (2, 20)",
    ),
    "ids as the loader's int64": (
        lambda case: case._replace(documents=case.documents.long()),
        "documents are torch.int64, not int32",
    ),
    "a document that comes back": (
        lambda case: case._replace(documents=case.documents.flip(1)),
        "mix: document ids must ascend along a row; in row 0 token 16 has 1 and the next one 0",
    ),
    "a convolution of width 3": (
        lambda case: case._replace(conv_weight=case.conv_weight[:, :3]),
        "conv_weight has the shape (64, 3), not (64, 4)",
    ),
    "a bias too few": (lambda case: case._replace(conv_bias=case.conv_bias[:-2]), "a state of 15"),
    "another width": (
        lambda case: case._replace(zxbcdt=case.zxbcdt[..., :-1]),
        "zxbcdt is 97 wide, not 98: z 32 | x, B and C 64 | dt 2",
    ),
    "half a state": (lambda case: case._replace(conv_bias=case.conv_bias[:-1]), "not 32 (norm_weight) and twice"),
    "heads that do not divide": (
        lambda case: case._replace(A_log=torch.zeros(3)),
        "norm_weight has 32 channels, which 3 heads (A_log) do not divide",
    ),
    "a D too few": (lambda case: case._replace(D=case.D[:1]), "D has the shape (1,), not (2,)"),
    "halves": (lambda case: case._replace(zxbcdt=case.zxbcdt.half()), "zxbcdt is torch.float16"),
    "columns apart": (
        lambda case: case._replace(zxbcdt=wider(case.zxbcdt)),
        "zxbcdt's last dimension has the stride 2, not 1",
    ),
    "no tokens": (
        lambda case: case._replace(zxbcdt=case.zxbcdt[:, :0], documents=case.documents[:, :0]),
        "2 rows of 0 tokens: nothing to compute",
    ),
    "no rows": (
        lambda case: case._replace(zxbcdt=case.zxbcdt[:0], documents=case.documents[:0]),
        "0 rows of 20 tokens: nothing to compute",
    ),
    "groups that do not divide the heads": (lambda case: case._replace(groups=3), "3 groups do not divide 2 heads"),
    "groups that do not divide the states": (
        lambda case: case._replace(conv_bias=case.conv_bias[:-2], groups=2),
        "conv_bias has 62 channels, not 32 (norm_weight) and twice 2 states",
    ),
    "groups of the norm": (
        lambda case: case._replace(norm_groups=3),
        "norm_groups: 3 do not divide 32 channels",
    ),
    "a parameter elsewhere": (lambda case: case._replace(D=case.D.to("meta")), "D is on meta, zxbcdt on cpu"),
}


@pytest.mark.parametrize("what", MIX)
def test_what_mix_does_not_take_is_refused_by_name(what: str) -> None:
    change, says = MIX[what]
    with pytest.raises(UserError, match=re.escape(says)):
        change(CASE).mixed()


@pytest.mark.parametrize("what", [name for name in MIX if "elsewhere" not in name and "back" not in name])
def test_the_same_is_refused_where_only_shapes_are_known(what: str) -> None:
    """What a compiler sees; but not whether documents come back."""
    change, says = MIX[what]
    changed = change(CASE)
    with FakeTensorMode() as mode:
        fake = Case(*(mode.from_tensor(tensor) for tensor in changed[:8]), *changed[8:])
        with pytest.raises(UserError, match=re.escape(says)):
            fake.mixed()


def scanned(**changes: Tensor) -> Tensor:
    make = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 20, 3, 16), "dt": (2, 20, 3), "B": (2, 20, 1, 16), "C": (2, 20, 1, 16), "A_log": (3,), "D": (3,)}
    tensors = {name: torch.randn(shape, generator=make) for name, shape in {**shapes, "dt_bias": (3,)}.items()}
    return ops.scan(*({**tensors, "documents": WHOLE} | changes).values())[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": torch.zeros(2, 20, 3, 40)}, "heads of 40 channels: the kernels take multiples of 16 up to 256"),
        ({"B": torch.zeros(2, 20, 1, 24), "C": torch.zeros(2, 20, 1, 24)}, "a state of 24: the kernels have tiles of"),
        ({"C": torch.zeros(2, 20, 1, 32)}, "C has the shape (2, 20, 1, 32), not (2, 20, 1, 16)"),
        ({"dt": torch.zeros(2, 3, 20)}, "dt has the shape (2, 3, 20), not (2, 20, 3)"),
        ({"B": torch.zeros(2, 20, 1, 16).bfloat16()}, "B is torch.bfloat16, x is torch.float32"),
        ({"x": torch.zeros(2, 20, 48)}, "x has the shape (2, 20, 48): 4 dimensions are expected"),
        ({"B": torch.zeros(2, 20, 2, 16)}, "scan: 2 groups do not divide 3 heads"),
        ({"state_in": torch.zeros(2, 3, 16, 16)}, "a state and its document enter together"),
        ({"documents": WHOLE[:, :10]}, "documents has the shape (2, 10), not (2, 20)"),
        ({"documents": WHOLE.flip(1)}, "scan: document ids must ascend along a row"),
    ],
)
def test_what_the_scan_does_not_take_is_refused_by_name(changes: dict[str, Tensor], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        scanned(**changes)


def test_the_scan_takes_views_of_any_strides(triton_kernels: torch.device) -> None:
    make = torch.Generator().manual_seed(1)
    dt, B = torch.randn(2, 20, 3, generator=make), torch.randn(2, 20, 1, 16, generator=make)
    if triton_kernels.type == "cuda":
        pytest.skip("the inputs here are on the host")
    wanted = scanned(dt=dt, B=B, documents=WHOLE)
    got = scanned(dt=dt.mT.contiguous().mT, B=wider(B), documents=WHOLE.T.contiguous().T)
    assert torch.equal(got, wanted)


def test_a_swiglu_without_two_halves_is_refused() -> None:
    for shape in ((2, 5), (2, 0), (0, 4)):
        with pytest.raises(UserError, match="holds no gate and up of equal width"):
            ops.swiglu(torch.zeros(shape))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("mamba_head_dim", 100, "heads of 100 channels: the kernels take multiples of 16 up to 256"),
        ("mamba_head_dim", 8, "heads of 8 channels"),
        ("mamba_head_dim", 272, "heads of 272 channels"),
        ("mamba_state", 100, "a state of 100: the kernels have tiles of 16, 32, 64, 128 and 256"),
        ("mamba_heads", 1024, "1024 heads of 64 are 65,536 channels: the norm takes 32,768 at most"),
    ],
)
def test_a_model_that_no_kernel_computes_is_refused_with_the_reason(field: str, value: int, says: str) -> None:
    sizes = {"vocab_size": 100, "hidden_size": 8, "mlp_size": 64, "layers": 2, "attention_heads": 1, "kv_heads": 1}
    with pytest.raises(ValidationError, match=re.escape(says)):
        ModelConfig.model_validate({**sizes, "mamba_heads": 2, field: value})
    ModelConfig.model_validate({**sizes, "mamba_heads": 2, field: value, "attention_layers": "all"})


def test_every_size_that_a_model_may_have_is_computed() -> None:
    for head_dim in (16, 48, 128, 192, 256):
        for state in STATES:
            assert unsupported(head_dim, state, 1) is None
            out = draw(rows_of_documents(1, 3, [[1]]), heads=1, head_dim=head_dim, state=state).mixed()
            assert out.shape == (1, 3, head_dim)
            assert head_dim % part_width(head_dim, state) == 0 and part_width(head_dim, state) * state <= STATE_MAX
    assert [part_width(*sizes) for sizes in ((256, 128), (256, 256), (128, 256), (96, 64), (80, 16))] == [
        128,
        64,
        64,
        32,
        16,
    ]
    assert (
        unsupported(16, 256, 1, "float32") == "a state of 256 in float32: the kernels take 128 at most, 256 in bfloat16"
    )


def test_a_batch_whose_documents_come_back_never_reaches_the_device() -> None:
    rows = {name: torch.zeros(1, 4) for name in ("input_ids", "labels", "position_ids")}
    ids = torch.tensor([[0, 1, 0, 0]])
    with pytest.raises(UserError, match="seq_idx: document ids must ascend along a row; in row 0 token 1 has 1 and"):
        Batch.of({**rows, "seq_idx": ids, "row": torch.zeros(1), "source": torch.zeros(1)})
