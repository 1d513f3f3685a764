"""Run a training again and again, killed by SIGKILL at one point of its storage after the other, and resumed after it.

    python -m tests.trainer.crash_points URL [STEP]

Points are as in tests.faults.crash_points: before and after every fsync, rename, link, unlink and block of the
checkpoints, which are written as large ones are; on S3, every request that changes the bucket. Every child is a fork
of this process that dies by its own hand. Prints one JSON line: how many points there are, how many were tried, and
where the run that was killed and resumed did not end with the bits of an undisturbed one. STEP thins them out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bamba_data.canonical_json import digest
from bamba_data.storage.store import open_store
from tests.faults.crash_points import Killer, in_child
from tests.trainer.job import started
from tests.trainer.running import ledger, newest
from trainer.checkpoint import direct
from trainer.checkpoint.dcp_storage import read_index
from trainer.distributed.fsdp import joined

BLOCK_BYTES = 64 << 10  # a checkpoint has eight of them
CHANGES = ["schedule.steps=3", "checkpoints.every_steps=1", "checkpoints.keep_last=1", "data.batch_rows=2"]


def train(out: str) -> str:
    """A whole run in this process; a digest of every bit of its last checkpoint, and of its token ledger."""
    with joined() as world:
        run = started(world, out, CHANGES)
        run.begin()
        run.train()
        run.close()
    store = open_store(f"{out}/checkpoints")
    name, commit = newest(store)
    index = read_index(store, name, commit["index"])
    bits = {key: [piece[-1] for piece in entry["pieces"]] for key, entry in index.items()}
    tokens = [commit["tokens"], sorted(ledger(Path(out)).items())]  # on S3 there is no file of metrics
    return digest([commit["step"], bits, tokens, commit["feed"]])


def arm(killer: Killer, out: str) -> None:
    """Points at whatever changes the storage of `out`."""
    if "://" not in out:
        killer.arm()
        return
    from aiobotocore.client import AioBaseClient

    request = AioBaseClient._make_api_call

    async def counted(self: Any, operation: str, parameters: Any) -> Any:
        if operation.startswith(("Get", "Head", "List")):
            return await request(self, operation, parameters)
        killer.pass_by()
        answer = await request(self, operation, parameters)
        killer.pass_by()
        return answer

    AioBaseClient._make_api_call = counted


def main(url: str, step: int) -> None:
    direct.BLOCK_BYTES = BLOCK_BYTES

    def killed_at(point: int) -> str:
        killer = Killer(point)
        arm(killer, f"{url}/{point}")
        found = train(f"{url}/{point}")
        return f"{killer.seen} {found}"

    quiet = in_child(lambda: killed_at(-1))
    assert quiet is not None
    points, wanted = quiet.split(maxsplit=1)
    if not points.isdigit():
        sys.exit(f"the undisturbed run failed: {quiet}")
    differs: dict[int, str | None] = {}
    tried = range(0, int(points), step)
    for point in tried:
        if (survived := in_child(lambda p=point: killed_at(p))) is not None:  # type: ignore[misc]
            differs[point] = f"not killed: {survived}"
        elif (found := in_child(lambda p=point: train(f"{url}/{p}"))) != wanted:  # type: ignore[misc]
            differs[point] = found
    print(json.dumps({"points": int(points), "tried": len(tried), "differs": differs}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
