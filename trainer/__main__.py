"""`python -m trainer` and `torchrun … -m trainer`: train a recipe on a dataset.

This is the process edge: errors of ours become one line on stderr and an exit code (4: run the same command again).
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from bamba_data import exit_codes
from bamba_data.errors import BambaError, UserError

from .config import load_recipe
from .config_help import epilog, resolved
from .data.feed import LoaderFeed
from .data.vocabulary import vocabulary_note
from .distributed.fsdp import joined
from .observe.metrics import say
from .train import train

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=epilog())
def command(
    recipe: Annotated[str, typer.Option(help="A recipe's name, or the path of a YAML file.")],
    out: Annotated[
        str | None, typer.Option(metavar="URL", help="The run's folder, a local path or s3://bucket/prefix.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A dataset; may be given several times.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="A local folder for metrics; the run's folder without it.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the recipe as it resolves, with defaults and --set, and end.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although the recipe changed; the checkpoint records it.")
    ] = False,
) -> None:
    """Train to the end of the recipe's schedule, from the newest checkpoint below the run's folder if there is one."""
    urls = [f"data.urls=[{', '.join(map(repr, data))}]"] if data else []
    loaded = load_recipe(recipe, [*(overrides or []), *urls])
    if show:
        sys.stdout.write(resolved(loaded))
        return
    if not out:
        raise UserError("--out is missing or empty: the folder of the run, a local path or s3://bucket/prefix")
    folder = metrics or (None if "://" in out else Path(out))
    try:
        with joined() as world:
            feed = LoaderFeed(loaded.data, world)
            if (note := vocabulary_note(loaded.model.vocab_size, feed.ids())) and world.leads:
                say(note)
            train(loaded, feed, world, out, folder, accept_changes=accept_changes)
    except BambaError as error:
        get_error_handler().record_exception(error)  # for the launcher, whose report then says why
        raise


@record
def main() -> None:
    """Run the command; exit as the error says."""
    rank = os.environ.get("RANK", "0")
    sys.exit(exit_codes.run(app, who=f" (rank {rank})" if rank != "0" else ""))


if __name__ == "__main__":
    main()
