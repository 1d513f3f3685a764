"""Builds and sweeps of many places, each kind in a process of its own that is told when by the lines of its stdin.

    python -m tests.faults.sweeping build RECIPE CERTIFICATE LIVES_SECONDS
    python -m tests.faults.sweeping sweep RECIPE CERTIFICATE LIVES_SECONDS

A line is a URL and after how many seconds to begin; the answer is a line, too. A build is run again when it is told so,
and answers with the digest of the dataset. A sweep removes all that it may, whatever its age.
"""

import json
import sys
import time
from pathlib import Path

from bamba_data.errors import DatasetNotFound, Unfinished, UserError
from bamba_data.format import fence
from bamba_data.format.fence import shared
from bamba_data.inspect.garbage import find, remove
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.driver import finish, run_here
from tests.building import prepared


def built(url: str, recipe: str, certificate: Certificate) -> str:
    said = ""
    for _ in range(12):
        try:
            with shared(open_store(url)) as held:
                ready = prepared(url, certificate, recipe)
                if faults := run_here(ready, Fetcher()):
                    raise faults[0]
                return finish(ready, held)[1].digest + said
        except Unfinished as again:
            said += f" after: {type(again).__name__} {str(again)[:300]!r}"
    return f"never{said}"


def swept(url: str) -> str:
    try:
        return f"removed {remove(url, find(url, grace_seconds=0))}"
    except (UserError, DatasetNotFound, Unfinished) as refused:
        return f"refused: {refused}"


def main(kind: str, recipe: str, certificate: str, lives_seconds: float) -> None:
    known = Certificate(**json.loads(Path(certificate).read_text()))
    fence.LIVES_SECONDS, fence.POLL_SECONDS = lives_seconds, 0.05
    fence.SWEEP_LIVES_SECONDS = min(fence.SWEEP_LIVES_SECONDS, lives_seconds)
    print("ready", flush=True)
    for line in sys.stdin:
        url, delay = line.split()
        time.sleep(float(delay))
        print(built(url, recipe, known) if kind == "build" else swept(url), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
