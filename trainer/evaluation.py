"""Loss on rows that training never saw, by source, and perplexity of any text file.

    bamba-data model evaluate CHECKPOINT --data URL                     the dataset's held-out documents, once
    bamba-data model evaluate CHECKPOINT --text FILE --tokenizer JSON        a text, in rows of the recipe's length
    bamba-data model evaluate CHECKPOINT --text FILE --by-position           by the tokens of context

Losses are in nats a token. Under `torchrun` the model is sharded over the ranks, and the rows are shared out; with
`--context-ranks N` each row is, among N neighbours (context/).
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from bamba.loader import Reading, build_loader
from bamba.loader.order.plan import loads
from bamba_data.canonical_json import dumps
from bamba_data.errors import UserError
from bamba_data.terminal import emit

from .checkpoint.reader import SavedCheckpoint
from .checkpoint.restore import load
from .checkpoint.tokenizer import of_checkpoint
from .config import Compute
from .context.group import ALONE, ContextGroup, part_of_rows
from .data.batch import Batch, SourceSums
from .distributed.fsdp import World, distribute, joined
from .loss import IGNORED
from .model.bamba import Bamba
from .positions import draw, losses_by_position, table, write_csv

LONG_TOKENS = 8192  # of a row: there is work enough in one


@torch.no_grad()
def losses_by_source(
    model: Bamba,
    batches: Iterable[Mapping[str, Tensor]],
    sources: Sequence[str],
    device: torch.device,
    micro_rows: int,
) -> dict[str, tuple[float, int]]:
    """{source: (mean loss in nats a target, how many targets)}, over all ranks that call this together; a source of
    which no row came is left out."""
    by_source = SourceSums(len(sources), device)
    for loaded in batches:
        for part in Batch.of(loaded).micro(micro_rows):
            on = part.to(device)
            _, losses = model.losses(on.input_ids, on.documents, on.positions, on.labels)
            by_source.add(on, losses)
    table = torch.stack(by_source.vectors())
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(table)
    summed = zip(sources, *table.tolist(), strict=True)
    return {name: (total / count, round(count)) for name, total, count in summed if count}


def text_rows(
    ids: Sequence[int], row_tokens: int, rank: int, ranks: int, context: ContextGroup = ALONE
) -> Iterator[dict[str, Tensor]]:
    """This rank's rows of a text as batches of one row, as the loader would make them; every rank gets equally many.

    Rows begin where the one before ended, so the first tokens of each have little before them: the figure is a little
    high. The first token of all is only an input.

    Args:
        context: This rank among those that hold the rows, of each of which it gets its part.

    Raises:
        UserError: Rows have no equal parts, or parts that are too short.
    """
    inputs, labels = torch.tensor(ids[:-1]), torch.tensor(ids[1:])
    rows = -(-len(labels) // row_tokens)
    own = part_of_rows(row_tokens, context)
    for row in range(rank, -(-rows // ranks) * ranks, ranks):
        here = slice(row * row_tokens, (row + 1) * row_tokens)
        real = len(labels[here])
        yield {
            "input_ids": pad(inputs[here], (0, row_tokens - real))[None, own],
            "labels": pad(labels[here], (0, row_tokens - real), value=IGNORED)[None, own],
            "position_ids": torch.arange(row_tokens)[None, own],
            "seq_idx": torch.zeros(1, row_tokens)[:, own],
            "row": torch.tensor([row if real else -1]),
            "source": torch.tensor([0 if real else -1]),
        }


def load_model(saved: SavedCheckpoint, world: World) -> Bamba:
    """The model of a checkpoint, without gradients: whole where there is one rank, else sharded over all of them."""
    cuda = world.device.type == "cuda"
    if world.size == 1:
        return saved.model(world.device, torch.bfloat16 if cuda else torch.float32)
    with torch.device("meta"):
        model = Bamba(saved.config)
    distribute(model, Compute(dtype="bfloat16" if cuda else "float32", compile=False), world)
    load(saved.store, saved.name, {f"model.{name}": value.detach() for name, value in model.named_parameters()})
    return model


Rows = tuple[Sequence[str], Iterable[Mapping[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to judge, and on what: `data` or `text`.

    Attributes:
        checkpoint: A run, or one of its checkpoints: a path or URL.
        data: Datasets, of which the held-out documents are taken.
        tokenizer: Another tokenizer.json than the dataset's.
        rows: So many rows of the held-out part; None for all.
        row_tokens: Of a text; None for those of the run's recipe.
        context_ranks: So many neighbouring ranks share each row.
    """

    checkpoint: str
    data: Sequence[str]
    text: Path | None = None
    tokenizer: Path | None = None
    rows: int | None = None
    row_tokens: int | None = None
    context_ranks: int = 1

    def tokens_of_a_row(self, saved: SavedCheckpoint) -> int:
        trained: int = saved.commit["recipe"].get("data", {}).get("row_tokens", 4096)
        return self.row_tokens or trained

    def of(self, saved: SavedCheckpoint, world: World) -> Rows:
        """(the sources' names, this rank's batches)."""
        if self.text is None:
            return _held_out(saved, list(self.data), self.rows, world)
        return _of_text(saved, self.text, self.tokenizer, self.tokens_of_a_row(saved), world)

    def micro_rows(self, saved: SavedCheckpoint, world: World) -> int:
        """Rows that go through the model at once: two, where they are no longer than most. A text's come one by one."""
        is_long = self.tokens_of_a_row(saved) // world.context.ranks > LONG_TOKENS
        return 1 if is_long or self.text is not None else 2


def print_losses(asked: Asked, *, as_json: bool) -> None:
    """Print the loss of a text, or of held-out documents by source: on rank 0, one call on all ranks."""
    saved = SavedCheckpoint(asked.checkpoint)
    with joined(asked.context_ranks, "--context-ranks") as world:
        sources, batches = asked.of(saved, world)
        micro_rows = asked.micro_rows(saved, world)
        found = losses_by_source(load_model(saved, world), batches, sources, world.device, micro_rows)
    if not world.leads:
        return
    if as_json:
        values = {name: {"loss": loss, "targets": count} for name, (loss, count) in found.items()}
        emit(json.dumps({"step": saved.commit["step"], "losses": values}))
        return
    for name, (loss, count) in found.items():
        emit(f"{name}: loss {loss:.4f}, perplexity {math.exp(loss):,.2f}, {count:,} targets")


def print_positions(asked: Asked, plot: Path | None, table_file: Path | None, *, as_json: bool) -> None:
    """Print, and write, the loss by position in the context, over all sources: on rank 0, one call on all ranks."""
    saved = SavedCheckpoint(asked.checkpoint)
    with joined(asked.context_ranks, "--context-ranks") as world:
        sources, batches = asked.of(saved, world)
        row_tokens, micro_rows = asked.tokens_of_a_row(saved), asked.micro_rows(saved, world)
        bands = losses_by_position(load_model(saved, world), batches, row_tokens, world.device, micro_rows)
    if not world.leads:
        return
    step = saved.commit["step"]
    if plot is not None:
        draw(bands, f"step {step:,}: {', '.join(sources)}"[:90], plot)
    if table_file is not None:
        write_csv(bands, table_file)
    emit(json.dumps({"step": step, "bands": [asdict(band) for band in bands]}) if as_json else table(bands))


def _of_text(saved: SavedCheckpoint, text: Path, tokenizer: Path | None, row_tokens: int, world: World) -> Rows:
    try:
        words = text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{text}: not UTF-8 text ({error.reason} at byte {error.start:,})") from None
    ids = of_checkpoint(saved, tokenizer).tokenizer.encode(words).ids
    if len(ids) < 2:
        raise UserError(f"{text} is {len(ids)} tokens: there is nothing to predict")
    return [str(text)], text_rows(ids, row_tokens, world.data_rank, world.data_ranks, world.context)


def _held_out(saved: SavedCheckpoint, data: list[str], rows: int | None, world: World) -> Rows:
    if "plan" not in saved.commit.get("feed", {}):
        raise UserError(f"{saved.name} was not trained on a dataset of ours: it does not say what was held out")
    plan = loads(dumps(saved.commit["feed"]["plan"]), "the plan in the checkpoint")
    part_of_rows(plan.header.row_tokens, world.context)
    context = world.context
    reading = Reading(
        rank=world.data_rank,
        world_size=world.data_ranks,
        context_rank=context.rank,
        context_ranks=context.ranks,
        num_workers=0,
        pad_rows=True,
    )
    loader = build_loader(data, reading=reading, plan=plan, split="holdout")
    return sorted(loader.plan.sources), loader if rows is None else first_rows(loader, rows, plan.mixes[-1].batch_rows)


def first_rows(batches: Iterable[Mapping[str, Tensor]], rows: int, batch_rows: int) -> Iterable[Mapping[str, Tensor]]:
    """Whole batches, until they are so many rows over all ranks."""
    return islice(batches, -(-rows // batch_rows))
