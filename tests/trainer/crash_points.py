"""Run a training again and again, killed by SIGKILL at one point of its storage after the other, and resumed after it.

    python -m tests.trainer.crash_points FOLDER [STEP]

Points are as in tests.faults.crash_points: before and after every fsync, rename, link and unlink. Every child is a
fork of this process that dies by its own hand. Prints one JSON line: how many points there are, how many were tried,
and where the run that was killed and resumed did not end with the bits of an undisturbed one. STEP thins them out.
"""

import json
import shutil
import sys
from pathlib import Path

from bamba_data.canonical import digest
from bamba_data.store import LocalStore
from tests.faults.crash_points import Killer, in_child
from tests.trainer.job import started
from tests.trainer.running import ledger, newest
from trainer.checkpoint.storage import read_index
from trainer.parallel import joined

CHANGES = ["schedule.steps=3", "checkpoints.every_steps=1", "checkpoints.keep_last=1", "data.batch_rows=2"]


def train(out: Path) -> str:
    """A whole run in this process; a digest of every bit of its last checkpoint, and of its token ledger."""
    with joined() as world:
        run = started(world, str(out), CHANGES)
        run.begin()
        run.train()
        run.close()
    store = LocalStore(out / "checkpoints")
    name, commit = newest(store)
    index = read_index(store, name, commit["index"])
    bits = {key: [piece[-1] for piece in entry["pieces"]] for key, entry in index.items()}
    return digest([commit["step"], bits, commit["tokens"], commit["feed"], sorted(ledger(out).items())])


def main(folder: Path, step: int) -> None:
    out = folder / "run"

    def killed_at(point: int) -> str:
        killer = Killer(point)
        killer.arm()
        found = train(out)
        return f"{killer.seen} {found}"

    quiet = in_child(lambda: killed_at(-1))
    assert quiet is not None
    points, wanted = quiet.split(maxsplit=1)
    differs: dict[int, str | None] = {}
    tried = range(0, int(points), step)
    for point in tried:
        shutil.rmtree(out)
        if (survived := in_child(lambda p=point: killed_at(p))) is not None:  # type: ignore[misc]
            differs[point] = f"not killed: {survived}"
        elif (found := in_child(lambda: train(out))) != wanted:
            differs[point] = found
    print(json.dumps({"points": int(points), "tried": len(tried), "differs": differs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
