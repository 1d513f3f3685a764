"""Which row of which source comes next, for every machine, from one integer.

    loader = build_loader(url, OrderSpec(weights={"web": 3, "code": 1}, row_tokens=4096, batch_rows=384, seed=7),
                          Reading(rank=rank, world_size=world_size))
    for batch in loader: ...            # this rank's rows of each batch
    loader.rows[1_000_000]              # any row, out of turn

The order of rows is a pure function of what is read and how it is mixed. Ranks, workers and machines only decide who
reads which row, so that a run goes on with other ones, and no row is lost or read twice.

    OrderSpec                         URLs of datasets, parquet files of text
    weights, seed, row_tokens, …                    │ open_data
        │                                           ▼
        ▼                                      Blocks by source
     MixPlan ──────────────► Order ◄────────────────┘
                               │ row g → source, epoch, position         the same for everyone
    ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─│─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─
                               ▼                                         of one rank
     Reading ─────────────► RowReader ──► collate ─┬─► Loader, TokenDataset   its rows of each batch
    rank, workers, cache, …                        └─► RowDataset             any row by its number

A tour, in the order in which a row comes about; each file opens with what it promises.

 1. open_data       the URLs and text sources that are given, as blocks by source name
    sources/        a dataset's blocks of documents, verified; the held-out documents as a source
    text/           parquet files of text as blocks, tokenized when they are read
    chat/           conversations as blocks, tokenized once, with what is not to be learned marked
 2. order_spec      what decides the order, checked; a plan is made of it
    special_tokens  the ids that go around documents
 3. order/          plan: which sources in which shares from which row on, as an append-only log
                    permutation, epochs: a source shuffled, by arithmetic; mixture: sources interleaved
                    rank_split: which rows of a batch a rank has; resume: where a run is
 4. packing/        documents as rows: cut end to end, best-fit, or a function of your own
 5. global_order    a plan and its sources put together: row number in, place in a source out
 6. reading         which rows are read, how far and how fast: nothing that changes the order
    stop            the number of batches until the end, known before the first
 7. row_reader      rows copied out of segments, which cache/ keeps verified on the disk
    collate         rows as arrays: input_ids, labels, position_ids, seq_idx, …
 8. rank_batches    what a rank is handed out, piece by piece, each found by arithmetic
    read_ahead      the next pieces, by threads
 9. token_dataset, row_dataset, dataloader   all that for torch: by batches, by rows, read ahead; build makes one
10. masks           attention within documents; lineage, spans: the document that a token is of
    integrations/   Accelerate, transformers, torchtitan
    quality/        the statistics that a shuffle has to pass beside Fisher-Yates
    tools/          commands: simulate a plan, pack, index text
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import bamba
from bamba_data.extras import telling_extras

bamba.unite(__name__)

if TYPE_CHECKING:
    from .build import build_loader as build_loader
    from .chat.spec import ConversationSource as ConversationSource
    from .dataloader import Loader as Loader
    from .global_order import Order as Order
    from .integrations.transformers import for_transformers as for_transformers
    from .lineage import origins as origins
    from .open_data import identities as identities
    from .order.plan import MixPlan as MixPlan
    from .order.resume import CursorMismatch as CursorMismatch
    from .order_spec import OrderSpec as OrderSpec
    from .packing.document_transforms import TRANSFORMS as TRANSFORMS
    from .packing.registry import PACKERS as PACKERS
    from .reading import Reading as Reading
    from .reading import Share as Share
    from .reading import settings as Settings
    from .row_dataset import NoSuchRow as NoSuchRow
    from .row_dataset import RowDataset as RowDataset
    from .text.spec import TextSource as TextSource
    from .text.spec import text_sources as text_sources
    from .token_dataset import TokenDataset as TokenDataset

#: What others may touch, by the module that has it. It is imported when it is asked for: who needs only the mathematics
#: of the order does not wait for torch.
_MODULES = {
    "PACKERS": "packing.registry",
    "TRANSFORMS": "packing.document_transforms",
    "ConversationSource": "chat.spec",
    "CursorMismatch": "order.resume",
    "Loader": "dataloader",
    "MixPlan": "order.plan",
    "NoSuchRow": "row_dataset",
    "Order": "global_order",
    "OrderSpec": "order_spec",
    "Reading": "reading",
    "RowDataset": "row_dataset",
    "Share": "reading",
    "TextSource": "text.spec",
    "TokenDataset": "token_dataset",
    "build_loader": "build",
    "for_transformers": "integrations.transformers",
    "identities": "open_data",
    "origins": "lineage",
    "text_sources": "text.spec",
}
__all__ = ["Settings", *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "Settings":
        return import_module(".reading", "bamba.loader").settings
    if name not in _MODULES:
        raise AttributeError(f"module 'loader' has no attribute {name!r}")
    with telling_extras():
        return getattr(import_module(f".{_MODULES[name]}", "bamba.loader"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
