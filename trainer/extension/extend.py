"""`bamba-data model extend RUN --to TOKENS`: how a model's frequencies are best changed for longer texts.

    made = extended(saved, rows, Target(own=4096, to=16384), evaluations=200, seed=1)
    write_run(saved, made, "s3://bucket/longer")

The weights stay as they are. Losses are of the same texts, whole and cut to the length that the model was trained on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bamba_data.canonical_json import digest
from bamba_data.errors import UserError
from bamba_data.storage.store import open_store

from ..checkpoint.commits import folder_name, require_unused
from ..checkpoint.lease import Lease
from ..checkpoint.reader import SavedCheckpoint, write
from ..checkpoint.tokenizer import FILE
from ..distributed.fsdp import World
from ..evaluation import load_model, losses_by_source
from ..hf.export import max_position_of
from ..loss import IGNORED
from ..model.bamba import Bamba
from ..model.config import ModelConfig
from ..observe.messages import rank_zero_logger
from .methods import Target, first_slow_pair, known_methods, searched, seeds
from .search import Factors, rounded, search
from .texts import Row

ATTENTION = (None, 1.0)  # LongRoPE's factor, or none
BEYOND = 1.25  # times the length's own factor: no frequency is divided by more, as in the paper


@dataclass(frozen=True, slots=True)
class MethodLosses:
    """In nats a target: on texts of the length that was trained, and of the length that is wanted."""

    method: str
    own: float
    target: float


@dataclass(frozen=True, slots=True)
class Extension:
    """What was found.

    Attributes:
        free: The pairs that the search changed, of `pairs` that rotate; the slowest.
        rows: So many texts of `to` tokens the losses are of.
        methods: The known ones, then the one that was searched.
        config: Of the model, with the factors that were searched.
        curve: The lowest loss at the target length after each list that was judged.
    """

    step: int
    own: int
    to: int
    rows: int
    pairs: int
    free: int
    evaluations: int
    seed: int
    methods: tuple[MethodLosses, ...]
    config: ModelConfig
    curve: tuple[float, ...]


def target_of(saved: SavedCheckpoint, to: int, own: int | None) -> Target:
    """From the length that the checkpoint, or the caller, says that it was trained on.

    Raises:
        UserError: `to` is not longer; the model has no attention, or is changed for longer texts already.
    """
    config = saved.config
    if not config.attention_indices:
        raise UserError(f"{saved.name} has no attention, so nothing in it rotates: it takes longer texts as it is")
    if config.rotary_scale is not None or config.rotary_factors is not None:
        raise UserError(f"{saved.name} is changed for longer texts already: extend the model that it was made of")
    trained = own or max_position_of(saved)
    if to <= trained:
        raise UserError(f"--to {to:,}: the model was trained on texts of {trained:,} tokens; ask for longer ones")
    if first_slow_pair(config, trained) == config.rotary_width // 2:
        raise UserError(
            f"every frequency turns all round within {trained:,} tokens, the model saw every angle: nothing is left to "
            "search. Look at longer texts by `model evaluate --by-position --row-tokens`"
        )
    return Target(trained, to)


def extended(
    saved: SavedCheckpoint, rows: Sequence[Row], target: Target, evaluations: int, seed: int, world: World
) -> Extension:
    """Search, by the loss on `rows` of `target.to` tokens; one call on all ranks.

    Args:
        evaluations: So many lists of factors at most are judged, each on all rows.
    """
    config = saved.config
    begin = seeds(config, target)
    if evaluations < len(ATTENTION) * len(begin):
        raise UserError(
            f"--evaluations {evaluations}: what the search begins with takes {len(ATTENTION) * len(begin)} of them"
        )
    model = load_model(saved, world)
    short = _cut(rows, target.own)

    def both(name: str, changed: ModelConfig) -> MethodLosses:
        return MethodLosses(name, mean_loss(model, changed, short, world), mean_loss(model, changed, rows, world))

    first = first_slow_pair(config, target.own)
    known: dict[tuple[float | None, Factors], float] = {}

    def loss_by(attention: float | None, factors: Factors) -> float:
        if (attention, factors) not in known:
            changed = searched(config, target, factors, attention)
            known[attention, factors] = mean_loss(model, changed, rows, world)
        return known[attention, factors]

    # LongRoPE's attention factor is made for models that are trained on with it: by the seeds, it or none.
    attention = min(ATTENTION, key=lambda each: min(loss_by(each, rounded(factors)) for factors in begin))
    budget = evaluations - len(known) // 2
    found = search(lambda each: loss_by(attention, each), begin, first, BEYOND * target.factor, budget, seed)
    best = searched(config, target, found.factors, attention)
    methods = [both(name, changed) for name, changed in known_methods(config, target).items()]
    pairs = config.rotary_width // 2
    return Extension(
        *(saved.commit["step"], target.own, target.to, len(rows), pairs, pairs - first, len(known), seed),
        *((*methods, both("searched", best)), best, found.losses),
    )


def _cut(rows: Sequence[Row], tokens: int) -> list[Row]:
    """The first `tokens` of each."""
    return [{name: value[:, :tokens] if value.dim() > 1 else value for name, value in row.items()} for row in rows]


def mean_loss(model: Bamba, config: ModelConfig, rows: Sequence[Row], world: World) -> float:
    """Nats a target over `rows`, shared out over the ranks, by a model that is of `config` from now on."""
    model.config = config
    mine = [_of_rank(rows, at) for at in range(world.rank, -(-len(rows) // world.size) * world.size, world.size)]
    ((loss, _),) = losses_by_source(model, mine, ["texts"], world.device, micro_rows=1).values()
    return loss


def _of_rank(rows: Sequence[Row], at: int) -> Row:
    """Row `at`; beyond the last one a row without targets, so that ranks run equally many."""
    if at < len(rows):
        return rows[at]
    nothing = torch.full_like(rows[0]["labels"], IGNORED)
    return {**rows[0], "labels": nothing, "row": torch.tensor([-1]), "source": torch.tensor([-1])}


def write_run(saved: SavedCheckpoint, made: Extension, out: str) -> None:
    """The model with the factors that were found, as the first checkpoint of a run at `out`.

    It is read like any other: evaluated, exported, and trained on by `start_from`. It has no moments.

    Raises:
        UserError: `out` holds a run, or something else that was made of a model.
    """
    kept = ("step", "feed", "tokens")
    about: dict[str, Any] = {key: saved.commit[key] for key in kept if key in saved.commit}
    about["hf"] = {**(saved.commit.get("hf") or {}), "max_position_embeddings": made.to}
    about["recipe"] = {**saved.commit["recipe"], "model": made.config.model_dump(mode="json")}
    about |= {"world_size": 1, "extended": {"checkpoint": digest(saved.commit), **summary(made)}}
    store, name = open_store(f"{out}/checkpoints"), folder_name(made.step, digest(about["extended"])[:12])
    lease = Lease(store, rank_zero_logger())
    lease.take()
    try:
        require_unused(store, out, lambda folder: folder.name == name, "Extend into another folder")
        if "tokenizer_sha256" in about["hf"]:
            store.put(f"{name}/{FILE}", saved.store.read(f"{saved.name}/{FILE}"))
        keys = [key for key in saved.index if key.startswith("model.")]
        write(store, name, ((key, saved.tensor(key)) for key in keys), about)
    finally:
        lease.release()


def summary(made: Extension) -> dict[str, Any]:
    """What to tell of it, as JSON."""
    told = asdict(made)
    model = told.pop("config").model_dump(mode="json")
    return {**told, "model": {name: model[name] for name in ("rotary_factors", "rotary_scale")}}


def table(made: Extension) -> str:
    """A line for each method, then the factors."""
    asked = f"{made.rows} texts, {made.evaluations} evaluations, {made.free} of {made.pairs} pairs"
    lines = [f"step {made.step:,}: {asked}", "", f"{'':9}{f'{made.own:,} tokens':>16}{f'{made.to:,} tokens':>16}"]
    lines += [f"{one.method:9}{one.own:16.4f}{one.target:16.4f}" for one in made.methods]
    factors, scale = made.config.rotary_factors or [], made.config.rotary_scale
    lines += ["", "factors  " + " ".join(f"{factor:g}" for factor in factors)]
    return "\n".join([*lines, f"attention factor  {scale.cos_and_sin_by if scale else 1:.4g}"])
