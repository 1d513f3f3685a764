"""A question of a person, in words, as a `Question`: what cannot be answered is refused first."""

from collections.abc import Sequence

from bamba_data.errors import UserError

from .gpus import gpu_named
from .model_parts import ModelCost, WeightFormat
from .report import Question
from .shapes import shape_beside, shape_of

BATCHES = (1, 8, 32, 64, 128)
CONTEXTS = (1024, 16_384, 65_536)


def question(
    model: str,
    beside: str,
    gpu: str,
    weights: str,
    batches: Sequence[int] | None,
    contexts: Sequence[int] | None,
    in_tokens: int,
) -> Question:
    """The question; None for batches and contexts asks for the usual ones.

    Raises:
        UserError: A model, a GPU or a weight format that is not known, or one model beside itself.
    """
    if model == beside:
        raise UserError(f"--beside {beside}: the same model twice; name another one")
    kinds: dict[str, WeightFormat] = {"bf16": "bf16", "fp8": "fp8"}
    if weights not in kinds:
        raise UserError(f"--weights {weights}: bf16 or fp8")
    names = (_short(model), _short(beside))
    if names[0] == names[1]:
        names = (model, beside)
    ours = shape_of(model)
    return Question(
        name=names[0],
        ours=ModelCost(ours, kinds[weights]),
        beside=names[1],
        theirs=ModelCost(shape_beside(beside, ours), kinds[weights]),
        gpu=gpu_named(gpu),
        batches=sorted(set(batches or BATCHES)),
        contexts=sorted(set(contexts or CONTEXTS)),
        in_tokens=in_tokens,
    )


def refuse_beside_row_tokens(**options: object) -> None:
    """`UserError` for an option of the other question, which --row-tokens would leave without use."""
    if stated := [name.replace("_", "-") for name, value in options.items() if value]:
        raise UserError(f"--{stated[0]} beside --row-tokens: that is of serving a model, and rows are of training one")


def _short(model: str) -> str:
    """A name for the head of a table: the last word of a path or URL."""
    return model.rstrip("/").rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml") or model
