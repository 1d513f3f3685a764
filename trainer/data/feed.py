"""The loader as a run's feed: its place and its whole plan are one state, and a bad stretch of rows can be left out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from bamba.loader import ConversationSource, Loader, MixPlan, OrderSpec, Reading, build_loader
from bamba.loader.chat.blocks import ConversationBlocks
from bamba.loader.chat.template import tokenizer_file
from bamba.loader.order.format1_names import renamed
from bamba.loader.order.plan import loads
from bamba.loader.order.plan_entries import Skip
from bamba_data.canonical_json import dumps
from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.tokenizer import Tokenizer

from ..config import Data
from ..distributed.fsdp import World

CHAT = "conversations"  # what they are called among the sources of a run


class LoaderFeed:
    """Rows of the recipe's datasets for this rank, or its part of each where ranks share them. See
    `trainer.data.protocol.Feed`.

    Raises:
        UserError: The recipe names neither datasets nor conversations.
    """

    def __init__(self, config: Data, world: World) -> None:
        if not config.urls and not config.conversations.files:
            raise UserError(
                "no dataset: give one with --data, or as data.urls in the recipe; or conversations, as "
                "data.conversations.files and .tokenizer"
            )
        self.config, self.world = config, world
        self._data = _conversations(config) if config.conversations.files else config.urls
        self.loader = self._open_loader(None)
        self._fresh = self.loader.plan

    def _open_loader(self, plan: MixPlan | None, split: str = "train") -> Loader:
        """Under the plan of the recipe, or under another one."""
        config = self.config
        # A plan states all of the order itself, and the loader refuses both.
        order = OrderSpec(
            weights=config.weights,
            row_tokens=config.row_tokens,
            batch_rows=config.batch_rows,
            seed=config.seed,
            holdout=config.holdout,
            packing=config.packing,
        )
        reading = Reading(
            rank=self.world.data_rank,
            world_size=self.world.data_ranks,
            context_rank=self.world.context.rank,
            context_ranks=self.world.context.ranks,
            num_workers=config.workers if split == "train" else 0,
            pad_rows=True,
        )
        return build_loader(self._data, order if plan is None else None, reading, plan=plan, split=split)

    def vocab_size(self) -> int:
        """Ids that the datasets' tokenizer has."""
        if isinstance(self._data, ConversationSource):
            return Tokenizer(tokenizer_file(self._data.tokenizer).read_bytes()).vocab_size
        return open_dataset(self.config.urls[0]).manifest.tokenizer.vocab_size

    def epoch_note(self) -> str | None:
        """Of conversations, what there is to read and how many steps that are: such sets are read a few times."""
        if not isinstance(self._data, ConversationSource):
            return None
        source = self.loader.order.source(CHAT)
        assert isinstance(source.blocks, ConversationBlocks)
        rows = source.stream.first_row(1)
        steps = rows / self.config.batch_rows
        return f"{source.blocks.account}; one epoch is {rows:,} rows, {steps:,.1f} steps of {self.config.batch_rows:,}"

    @property
    def sources(self) -> list[str]:
        return list(self.loader.plan.source_names)

    @property
    def row(self) -> int:
        """The first row of the order that was not yet given out."""
        return int(self.loader.cursor()["row"])

    def epochs(self, row: int) -> dict[str, float]:
        plan, order = self.loader.plan, self.loader.order
        return {name: order.source(name).stream.epochs_in(plan.rows_served_before(row, name)) for name in self.sources}

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.loader.cursor(), "plan": self.loader.plan.to_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on under the plan that was saved, and from here on with the recipe's mix, if that is another one now."""
        saved = renamed(loads(dumps(state["plan"]), "the plan in the checkpoint"), self.loader.order.available)
        plan = self._continue_plan(saved, state["cursor"]["row"])
        self.loader.close()
        if plan != self.loader.plan:  # the one that was saved, and not one that adds to the recipe's
            self.loader = self._open_loader(plan)
        self.loader.load_state_dict(state["cursor"])

    def _continue_plan(self, saved: MixPlan, row: int) -> MixPlan:
        """`saved`, and from `row` on the recipe's mix where that changed.

        Raises:
            UserError: The recipe changed what decides the order of rows from their beginning.
        """
        fresh = self._fresh
        fixed = ("seed", "row_tokens", "before", "after", "packing", "window_rows", "holdout_ppm")
        for field in fixed:
            then, now = getattr(saved.header, field), getattr(fresh.header, field)
            if then != now:
                raise UserError(f"data: {field} was {then!r} when this run began, is {now!r}: that is another order")
        asked, last = fresh.entries[0], [entry for entry in saved.entries if entry.kind == "mix"][-1]
        assert asked.kind == "mix" and last.kind == "mix"
        if (asked.weights, asked.batch_rows) == (last.weights, last.batch_rows):
            return saved
        return saved.with_mix(row, asked.weights, asked.batch_rows, fresh.sources)

    def skip(self, first_row: int, rows: int, why: str) -> None:
        """Leave these rows out; they must not have been given out since the state was loaded."""
        plan, end = self.loader.plan, first_row + rows
        parts = [(max(first_row, part.first_row), min(end, part.end)) for part in plan.stretches]
        skips = [Skip(row=begin, rows=stop - begin, why=why) for begin, stop in parts if begin < stop]
        entries = sorted([*plan.entries, *skips], key=lambda entry: entry.row)
        self.loader = self.loader.with_plan(MixPlan(header=plan.header, sources=plan.sources, entries=entries))

    def held_out(self) -> tuple[Sequence[str], Iterable[Mapping[str, Tensor]]]:
        """The held-out documents under this run's plan, read from their beginning."""
        loader = self._open_loader(self.loader.plan, "holdout")
        return sorted(loader.plan.sources), loader

    def close(self) -> None:
        self.loader.close()


def _conversations(config: Data) -> ConversationSource:
    """The recipe's conversations, of which the longest may fill a row."""
    return ConversationSource(
        CHAT,
        **config.conversations.model_dump(exclude={"files"}),
        files=config.conversations.files,
        max_tokens=config.row_tokens,
    )
