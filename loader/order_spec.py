"""What decides which row comes at which place: the arguments that a plan is made of, checked.

The other half of what a loader is told, next to `Reading`. A plan decides all that it says: where one is given beside
an OrderSpec, what contradicts it is refused with both values, and never left out in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bamba_data.errors import UserError

from .arguments import number, switch, whole_number
from .open_data import OpenData
from .order.plan import MixPlan
from .order.plan_entries import GROUPED_WINDOW_ROWS, WINDOW_ROWS, Mix, Ramp, integers
from .special_tokens import delimiters_of

#: A dataset lists 0.5 % of its documents as candidates (bamba_data.format.holdout_candidates); a small one can hold out
#: up to half of them (sources/every_document.py).
MAX_HOLDOUT = 0.5
USUAL_HOLDOUT = 0.0005
MAX_ID = 2**31


@dataclass(frozen=True, kw_only=True)
class OrderSpec:
    """An order, as people ask for it. None where nothing is said: then the default holds, or what the plan says.

    Attributes:
        weights: Share of the rows by source, in any unit. None takes every source by its tokens; 0 leaves one out.
        row_tokens: Tokens of a row, 4096 unless told.
        batch_rows: Rows of a global batch, over all ranks; 1 unless told.
        seed: 0 unless told.
        packing: How documents become rows. "chunk" (the default) fills every row and cuts documents; "best-fit" cuts
            none that fits into a row and fills 99.6 %; or a name of your own (`loader.packing.registry`).
        window_rows: Rows of a source that are permuted together. More spreads the rows of a block further.
        shuffle: False reads blocks and documents in the order stored, still mixed.
        delimiters: "eos" (the default), "bos", "both" or "none" (of conversations, whose template has its own): the ids
            that go around every document.
        bos_id: The id of "bos", where the tokenizer does not say which it is.
        eos_id: The same of "eos".
        holdout: Share of documents held out of training; 0.0005 unless told. At most 0.005, and 0.5 where no source has
            more than a million documents, whose ids are then read once a host.
        document_transform: What is done to every document before it is packed, by its name in `loader.TRANSFORMS`.

    Raises:
        UserError: A value cannot be; it names the argument.
    """

    weights: Mapping[str, float | int | str] | None = None
    row_tokens: int | None = None
    batch_rows: int | None = None
    seed: int | None = None

    packing: str | None = None
    window_rows: int | None = None
    shuffle: bool | None = None

    delimiters: str | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    holdout: float | None = None
    document_transform: str | None = None

    def __post_init__(self) -> None:
        least = {"row_tokens": 1, "batch_rows": 1, "seed": 0, "window_rows": 1, "bos_id": -MAX_ID, "eos_id": -MAX_ID}
        for name, smallest in least.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, value, smallest))
        for name in ("packing", "delimiters", "document_transform"):
            if not isinstance(getattr(self, name), str | None):
                raise UserError(f"{name} is {getattr(self, name)!r}: it must be a name")
        switch("shuffle", self.shuffle is None or self.shuffle)
        if not isinstance(self.weights, Mapping | None):
            raise UserError(f"weights are {self.weights!r:.80}: they must be numbers by source, such as {{'web': 3}}")
        if self.weights is not None and not self.weights:
            raise UserError("weights are {}: name sources, or give None for all of them by their tokens")
        if self.holdout is not None and not 0 <= number("holdout", self.holdout) <= MAX_HOLDOUT:
            raise UserError(f"holdout is {self.holdout!r}: it can be between 0 and {MAX_HOLDOUT}")

    def plan(self, data: Sequence[OpenData], tokens: Mapping[str, int], identities: Mapping[str, str]) -> MixPlan:
        """A new plan.

        Args:
            data: What is read; its tokenizer has the delimiters' ids.
            tokens: Of every source by name, without delimiters.
            identities: Of every source by name: the digest of its content.
        """
        before, after = self._delimiters(data)
        weights = tokens if self.weights is None else self.weights
        if unknown := sorted(set(weights) - set(tokens)):
            raise UserError(f"weights name {unknown}, the data has {sorted(tokens)}")
        if self.document_transform is not None and any(item.is_delimited for item in data):
            raise UserError(f"document_transform is {self.document_transform!r}: conversations cannot be transformed")
        packing = "chunk" if self.packing is None else self.packing
        return MixPlan.create(
            weights,
            identities,
            1 if self.batch_rows is None else self.batch_rows,
            seed=self.seed or 0,
            row_tokens=4096 if self.row_tokens is None else self.row_tokens,
            before=before,
            after=after,
            holdout_ppm=self.holdout_ppm,
            packing=packing,
            shuffle=self.shuffle is not False,
            transform=self.document_transform,
            window_rows=self.window_rows or (WINDOW_ROWS if packing == "chunk" else GROUPED_WINDOW_ROWS),
        )

    def check_agrees(self, plan: MixPlan, data: Sequence[OpenData]) -> None:
        """Raises UserError that names both values, where an argument says something else than `plan` does."""
        header, mixes = plan.header, [entry for entry in plan.entries if isinstance(entry, Mix | Ramp)]
        for name in ("seed", "row_tokens", "packing", "window_rows", "shuffle"):
            asked, planned = getattr(self, name), getattr(header, name)
            if asked is not None and asked != planned:
                raise _contradiction(name, asked, planned)
        if self.document_transform not in (None, header.transform):
            raise _contradiction("document_transform", self.document_transform, header.transform)
        if self.holdout is not None and self.holdout_ppm != header.holdout_ppm:
            raise _contradiction("holdout", self.holdout, header.holdout_ppm / 1e6)
        # A run that changed its batch size or mix is started again with the arguments of the first day, or of the last.
        sizes = [mix.batch_rows for mix in mixes if isinstance(mix, Mix)]
        if self.batch_rows is not None and self.batch_rows not in sizes:
            raise _contradiction("batch_rows", self.batch_rows, _the_only_or_all(sizes))
        weights = [dict(mix.weights) for mix in mixes]
        if self.weights is not None and (asked := integers(self.weights)) not in weights:
            raise _contradiction("weights", asked, _the_only_or_all(weights))
        if (self.delimiters, self.bos_id, self.eos_id) != (None, None, None):
            before, after = self._delimiters(data)
            if (before, after) != (header.before, header.after):
                planned = f"{header.before} before and {header.after} after every document"
                raise _contradiction("delimiters", f"{before} before and {after} after", planned)

    def _delimiters(self, data: Sequence[OpenData]) -> tuple[list[int], list[int]]:
        usual = "none" if any(item.is_delimited for item in data) else "eos"
        if usual == "none" and self.delimiters not in (None, "none"):
            raise UserError(f"delimiters are {self.delimiters!r}: conversations begin and end as their template says")
        return delimiters_of(data, usual if self.delimiters is None else self.delimiters, self.bos_id, self.eos_id)

    @property
    def holdout_ppm(self) -> int:
        """Documents held out, in a million."""
        return round((USUAL_HOLDOUT if self.holdout is None else self.holdout) * 1e6)


def _contradiction(name: str, asked: object, planned: object) -> UserError:
    return UserError(
        f"{name} is {asked!r}, and the plan that is given has {planned!r}: leave the argument out, or make another plan"
    )


def _the_only_or_all(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else values
