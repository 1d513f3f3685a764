"""Which row of which source comes next, for every machine, from one integer.

The order of rows is a pure function of what is read and how it is mixed; ranks, workers and machines only decide who
reads which row. This package holds that function, bottom up:

    permutation   a keyed bijection on [0, n): any row's place in a shuffled epoch, and back
    mix           a lattice over (step, slot): which source a row of the global order comes from, and its ordinal there
    shares        which rows of a batch a rank computes
    stream        one source, cut into rows: where each begins
    plan          which sources in which shares from which row on, what is skipped or in quarantine
    packing       how documents become rows: end to end and cut, best-fit, or a function of your own
    order         a plan and the blocks of its sources: any row's place
    text          a source of parquet files that are tokenized when they are read
    segments      blocks as an epoch serves them, verified and cached
    rows          a batch's rows as arrays
    cursor        where a run is
    stretches     what the entries of a plan make of the rows
    document_transforms  other ids, or masks, for documents before they are packed
    pieces        where a loader is, and what it hands out next
    dataset       all that for torch: build_loader, Loader, TokenDataset
    masks         attention within documents; model_inputs: a batch for a model of Hugging Face
    quality       the statistics that a shuffle has to pass beside Fisher-Yates
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import bamba

bamba.unite(__name__)

if TYPE_CHECKING:
    from .dataloader import Loader, Settings, TokenDataset, build_loader
    from .integrations.transformers import for_transformers
    from .open_data import identities
    from .order.plan import MixPlan
    from .packing.document_transforms import TRANSFORMS
    from .row_reader import Share
    from .text.spec import TextSource, text_sources

__all__ = [
    "TRANSFORMS",
    "Loader",
    "MixPlan",
    "Settings",
    "Share",
    "TextSource",
    "TokenDataset",
    "build_loader",
    "for_transformers",
    "identities",
    "text_sources",
]

#: Names that need no torch, by the module that has them.
_PLAIN = {
    "MixPlan": "order.plan",
    "Share": "row_reader",
    "TRANSFORMS": "packing.document_transforms",
    "TextSource": "text.spec",
    "for_transformers": "integrations.transformers",
    "identities": "open_data",
    "text_sources": "text.spec",
}


def __getattr__(name: str) -> Any:
    """What most people need, without importing torch for those who need only the mathematics."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f".{_PLAIN.get(name, 'dataloader')}", "bamba.loader"), name)
