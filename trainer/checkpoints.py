"""`python -m trainer.checkpoints RUN`: what checkpoints a run has and how they stand. `--verify` reads every byte of
them, `--lift NAME` takes the mark from one that is whole, so that the run may go on from it."""

import json
import sys
import time
from typing import Annotated, Any

import typer

from bamba_data import exit_codes
from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import Store, open_store

from .checkpoint.marks import lift, read_mark
from .checkpoint.verify import CheckpointStatus, faults, named, statuses
from .observe.metrics import say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, a local path or s3://bucket/prefix.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read all bytes; exit code 5 if one is damaged.")] = False,
    lifted: Annotated[
        str | None, typer.Option("--lift", metavar="NAME", help="Take the mark from this checkpoint, if it is whole.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a checkpoint.")] = False,
) -> None:
    """List a run's checkpoints, verify them, or lift the mark of one."""
    store = open_store(f"{run.rstrip('/')}/checkpoints")
    if lifted is not None:
        lift_mark(store, lifted.rstrip("/").rpartition("/")[2])
    damaged = total = 0
    for standing in statuses(store, read=verify):
        total += 1
        damaged += bool(standing.faults)
        sys.stdout.write(f"{json.dumps(_fields(standing)) if as_json else _line(standing)}\n")
    if not total:
        raise UserError(f"{store.url}: there are no checkpoints here")
    if damaged:
        raise CorruptCheckpoint(store.url, f"{damaged} of {total} checkpoints are damaged")


def lift_mark(store: Store, name: str) -> None:
    """Take its mark from a checkpoint whose bytes are all what was saved; `CorruptCheckpoint` if they are not."""
    folder = named(store, name)
    mark = read_mark(store, name)
    if mark is None:
        raise UserError(f"{store.url}/{name} bears no mark")
    if not folder.committed:
        raise CorruptCheckpoint(f"{store.url}/{name}", "it has no commit: its mark stays")
    if found := list(faults(store, name)):
        raise CorruptCheckpoint(f"{store.url}/{name}", f"its mark stays, it is damaged: {'; '.join(found)}")
    lift(store, name)
    say(f"{name} is whole: its mark is lifted (it said: {mark.why})")


def _line(standing: CheckpointStatus) -> str:
    folder = standing.folder
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(folder.modified))
    return f"{folder.name}  step {folder.step:,}  {folder.size_bytes:,} bytes  {when} UTC  {standing.state}"


def _fields(standing: CheckpointStatus) -> dict[str, Any]:
    folder, mark = standing.folder, standing.mark
    return {
        "name": folder.name,
        "step": folder.step,
        "bytes": folder.size_bytes,
        "modified": folder.modified,
        "committed": folder.committed,
        "mark": None if mark is None else {"kind": mark.kind, "why": mark.why},
        "faults": standing.faults,
    }


if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
