"""The order as torchtitan's data loader: its Config makes one, its Trainer reads and checkpoints it.

    from loader.torchtitan import OrderedDataLoader
    config.dataloader = OrderedDataLoader.Config(dataset="s3://bucket/dataset", weights={"web": 3, "code": 1})

Every call gives `local_batch_size` rows of `seq_len` tokens: {"input", "positions"} and labels, all [rows, tokens];
positions begin at 0 at each document, labels are -100 where there is no target. Other than torchtitan's own loaders it
resumes with any number of ranks and any batch size: the rows that come are those that were not yet served.

This file imports torchtitan (0.3), which the package does not install.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchtitan.components.dataloader import BaseDataLoader

from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset

from ..build import build_loader
from ..dataloader import Loader
from ..order.plan import MixPlan, loads
from ..order_spec import OrderSpec
from ..reading import Reading


class OrderedDataLoader(BaseDataLoader):  # type: ignore[misc]
    """Gives `local_batch_size` rows to rank `dp_rank` of `dp_world_size`; its state is the same on all ranks."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):  # type: ignore[misc]
        """`dataset` is the URL of a published dataset; the rest is as build_loader takes it."""

        weights: dict[str, float] = field(default_factory=dict)
        seed: int = 0
        packing: str = "chunk"
        holdout: float = 0.0005
        max_epochs: int | None = None
        num_workers: int = 2
        cache: str | None = None

    def __init__(
        self,
        config: "OrderedDataLoader.Config",
        *,
        dp_world_size: int,
        dp_rank: int,
        tokenizer: Any,
        seq_len: int,
        local_batch_size: int,
        snapshot_every_n_steps: int | None = None,
    ) -> None:
        if not config.dataset:
            raise UserError("dataloader.dataset is empty: give the URL of a published dataset")
        if config.dataset_path:
            raise UserError(f"dataloader.dataset_path is {config.dataset_path!r}: the URL goes into dataloader.dataset")
        self.config = config
        self.dp_rank, self.dp_world_size = dp_rank, dp_world_size
        self._row_tokens, self._batch_rows = seq_len, local_batch_size * dp_world_size
        self._loader = self._opened(None)
        self._check_vocabulary(tokenizer)

    def _opened(self, plan: MixPlan | None) -> Loader:
        config = self.config
        order = OrderSpec(
            weights=config.weights or None,
            row_tokens=self._row_tokens,
            batch_rows=self._batch_rows,
            seed=config.seed,
            packing=config.packing,
            holdout=config.holdout,
        )
        reading = Reading(
            rank=self.dp_rank,
            world_size=self.dp_world_size,
            num_workers=config.num_workers,
            max_epochs=config.max_epochs,
            on_end="stop",
            cache=config.cache,
        )
        # A resumed run may have changed its mix since: then the plan of its checkpoint is the whole order.
        return build_loader(config.dataset, order if plan is None else None, reading, plan=plan)

    def _check_vocabulary(self, tokenizer: Any) -> None:
        """The model's size comes from the trainer's tokenizer: it must have an embedding for every id of the data."""
        if tokenizer is None:
            return
        theirs, ours = tokenizer.get_vocab_size(), open_dataset(self.config.dataset).manifest.tokenizer.vocab_size
        if ours > theirs:
            raise UserError(
                f"{self.config.dataset} has ids below {ours:,}, the trainer's tokenizer only {theirs:,}: use the "
                "tokenizer that the dataset was made with"
            )

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Any]]:
        for batch in self._loader:
            yield {"input": batch["input_ids"], "positions": batch["position_ids"]}, batch["labels"]

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after the rows that were served, also if the ranks or the rows of a batch are others now."""
        if not state_dict:  # torchtitan: a checkpoint without a loader's state is valid
            return
        plan, row = loads(state_dict["plan"].encode(), "the plan in the checkpoint"), int(state_dict["row"])
        if plan.mixes[-1].batch_rows != self._batch_rows:
            plan = plan.with_mix(row, batch_rows=self._batch_rows)
        if plan.header.row_tokens != self._row_tokens:
            raise UserError(
                f"seq_len is {self._row_tokens:,}, the run in the checkpoint has rows of {plan.header.row_tokens:,}: "
                "another length is another order"
            )
        self._loader.close()
        self._loader = self._opened(plan)
        self._loader.load_state_dict(state_dict)

    def close(self) -> None:
        """Stop reading ahead."""
        self._loader.close()
