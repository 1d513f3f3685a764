"""Find how the documents of datasets pack into rows, once, and keep it where loaders find it.

    python -m loader.pack s3://bucket/dolma --row-tokens 4096
    python -m loader.pack s3://bucket/dolma --plan plan.json --workers 64

Reads how many tokens every document has, and packs every group of blocks. Prints the rows of an epoch and how full they
are, by source. Loaders do the same for small data by themselves. Exit codes are those of bamba_data.errors.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from bamba_data.errors import UserError
from bamba_data.resources import cores
from bamba_data.terminal import console

from ..cache.location import default_cache
from ..open_data import blocks_by_source, open_data
from ..order.plan import load
from ..order.plan_entries import GROUP_ROWS, Header, validated
from ..packing.base import PackingInput, heldout_of
from ..packing.registry import PACKERS
from ..packing.row_counts import rows_by_group
from ..sources.base import Blocks
from ..sources.every_document import for_holdout
from ..special_tokens import KINDS


def header_of(
    plan: Path | None, row_tokens: int, packing: str, delimiters: str, holdout: float, group_rows: int | None
) -> Header:
    """What decides how documents become rows: that of a plan, or of these values; a packer's packing, or `UserError`.

    Args:
        delimiters: One of special_tokens.KINDS; which ids they are does not change how documents pack.
        holdout: Share of documents that no row holds.
        group_rows: Least rows that are packed together; None for the plan's default.
    """
    if plan is not None:
        header = load(plan).header
    elif delimiters not in KINDS:
        raise UserError(f"delimiters are {delimiters!r}: they can be {', '.join(KINDS)}")
    else:
        header = validated(
            Header,
            seed=0,
            step_rows=1,
            row_tokens=row_tokens,
            # Any id: only how many tokens go around a document changes how it packs.
            before=[0] * (delimiters in ("bos", "both")),
            after=[0] * (delimiters in ("eos", "both")),
            packing=packing,
            group_rows=group_rows or GROUP_ROWS,
            holdout_ppm=round(holdout * 1e6),
        )
    if header.packing not in PACKERS:
        raise UserError(f"packing {header.packing!r} needs nothing to be found; {', '.join(PACKERS)} does")
    return header


def print_packing(data: Sequence[str], header: Header, cache: Path | None, workers: int | None) -> None:
    """Pack the sources of datasets in processes, one a core without `workers`, and print how full the rows are."""
    folder = cache or default_cache()
    table = Table(title=f"{header.packing} into rows of {header.row_tokens:,} tokens", title_justify="left")
    table.add_column("source")
    for heading in ("documents", "tokens", "rows of an epoch", "full"):
        table.add_column(heading, justify="right")
    for name, blocks in for_holdout(blocks_by_source(open_data(data, folder)), header.holdout_ppm).items():
        table.add_row(escape(name), *_packed(blocks, header, folder, workers or cores()))
    out = console()
    out.print(table)
    out.print("tokens with delimiters, without held-out documents. To mix by tokens, divide each weight by `full`.")


def _packed(blocks: Blocks, header: Header, cache: Path, workers: int) -> list[str]:
    heldout = heldout_of(blocks, header.holdout_ppm)
    packing = PackingInput(blocks, header, None, heldout, cache)  # no key: how full rows are depends on no order
    rows = int(rows_by_group(packing, PACKERS[header.packing], workers).sum())
    documents = int(blocks.documents.sum()) - len(heldout.tokens)
    tokens = int(blocks.tokens.sum()) - int(heldout.tokens.sum()) + documents * packing.delimiters
    full = tokens / (rows * header.row_tokens) if rows else 1.0
    return [f"{documents:,}", f"{tokens:,}", f"{rows:,}", f"{full:.2%}"]
