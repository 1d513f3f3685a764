"""Find how the documents of datasets pack into rows, once, and keep it where loaders find it.

    python -m loader.pack s3://bucket/dolma --row-tokens 4096
    python -m loader.pack s3://bucket/dolma --plan plan.json --processes 64

Reads how many tokens every document has, and packs every group of blocks. Prints the rows of an epoch and how full they
are, by source. Loaders do the same for small data by themselves. Exit codes are those of bamba_data.errors.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bamba_data.errors import UserError
from bamba_data.resources import cores

from ..cache.location import default_cache
from ..open_data import blocks_by_source, open_data
from ..order.plan import GROUP_ROWS, Header, load
from ..packing.base import PackingInput, heldout_of
from ..packing.registry import PACKERS
from ..packing.row_counts import rows_by_group
from ..sources.base import Blocks
from ..special_tokens import KINDS

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def pack(
    data: Annotated[list[str], typer.Argument(metavar="DATASET", help="Datasets of ours: paths or URLs.")],
    row_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 4096,
    packing: Annotated[str, typer.Option(help=f"One of {', '.join(PACKERS)}.")] = "best-fit",
    delimiters: Annotated[str, typer.Option(help=f"Around every document: {', '.join(KINDS)}.")] = "eos",
    holdout: Annotated[float, typer.Option(min=0.0, max=0.005, help="Share of documents held out.")] = 0.0005,
    group_rows: Annotated[int, typer.Option(min=1, help="Least rows that are packed together.")] = GROUP_ROWS,
    plan: Annotated[Path | None, typer.Option(help="Take all that from a plan instead.")] = None,
    cache: Annotated[Path | None, typer.Option(help="The cache folder of the loaders.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="By default one a core.")] = None,
) -> None:
    """Rows of an epoch and how full they are, by source; kept for the loaders of this cache folder."""
    folder = cache or default_cache()
    if plan is not None:
        header = load(plan).header
    elif delimiters not in KINDS:
        raise UserError(f"delimiters are {delimiters!r}: they can be {', '.join(KINDS)}")
    else:
        before, after = [0] * (delimiters in ("bos", "both")), [0] * (delimiters in ("eos", "both"))
        header = Header(
            seed=0,
            step_rows=1,
            row_tokens=row_tokens,
            before=before,
            after=after,
            packing=packing,
            group_rows=group_rows,
            holdout_ppm=round(holdout * 1e6),
        )
    if header.packing not in PACKERS:
        raise UserError(f"packing {header.packing!r} needs nothing to be found; {', '.join(PACKERS)} does")
    table = Table(title=f"{header.packing} into rows of {header.row_tokens:,} tokens", title_justify="left")
    table.add_column("source")
    for heading in ("documents", "tokens", "rows of an epoch", "full"):
        table.add_column(heading, justify="right")
    for name, blocks in blocks_by_source(open_data(data, folder)).items():
        table.add_row(name, *_packed(blocks, header, folder, processes or cores()))
    out = Console()
    out.print(table)
    out.print("tokens with delimiters, without held-out documents. To mix by tokens, divide each weight by `full`.")


def _packed(blocks: Blocks, header: Header, cache: Path, processes: int) -> list[str]:
    heldout = heldout_of(blocks, header.holdout_ppm)
    material = PackingInput(blocks, header, None, heldout, cache)
    rows = int(rows_by_group(material, PACKERS[header.packing], processes).sum())
    documents = int(blocks.documents.sum()) - len(heldout.tokens)
    tokens = int(blocks.tokens.sum()) - int(heldout.tokens.sum()) + documents * material.delimiters
    full = tokens / (rows * header.row_tokens) if rows else 1.0
    return [f"{documents:,}", f"{tokens:,}", f"{rows:,}", f"{full:.2%}"]
