"""One virtual environment per peer, with the exact versions of its lock file, and how each is called.

The peers cannot share one (dolma pins tokenizers 0.19.1 and s3fs 2023.6.0), and pip needs ten
minutes to find dolma's versions by itself: so locks, installed without dependency resolution.

    python -m benchmarks.peers            # make or refresh all of them
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import venv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.command import RUNNERS, Command, RecipeInputs, Tool, runner_arguments

CACHE = Path(__file__).parent / ".cache"
JSON_LINES = ("json.gz", "jsonl.zst")


@dataclass(frozen=True, slots=True)
class Peer:
    """`name` is its lock file, peers/locks/NAME.txt; `runner` the script peers/RUNNER."""

    name: str
    runner: str
    formats: tuple[str, ...]
    strips: bool = False


YARDSTICK = Peer("yardstick", "run_yardstick.py", (*JSON_LINES, "parquet"))
PEERS = (
    Peer("dolma", "run_dolma.py", ("json.gz",), strips=True),
    Peer("datatrove", "run_datatrove.py", (*JSON_LINES, "parquet")),
    Peer("datasets", "run_datasets.py", (*JSON_LINES, "parquet")),
    Peer("data-prep-toolkit", "run_data_prep_toolkit.py", ("parquet",)),
)


def lock_file(peer: Peer) -> Path:
    return RUNNERS / "locks" / f"{peer.name}.txt"


def python_of(peer: Peer, cache: Path) -> Path:
    """The peer's interpreter; its environment is made, or made anew when the lock file changed."""
    folder = cache / "venvs" / peer.name
    digest = hashlib.sha256(lock_file(peer).read_bytes()).hexdigest()
    stamp, python = folder / "lock.sha256", folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--no-deps", "-r", str(lock_file(peer))]
        subprocess.run(pip, check=True)
        stamp.write_text(digest)
    return python.absolute()


def peer_command(peer: Peer, python: Path, inputs: RecipeInputs, out: Path, *extra: str) -> Command:
    report = inputs.scratch / "report.json"
    script = str(RUNNERS / peer.runner)
    arguments = (*extra, *runner_arguments(inputs, out, report))
    return Command(
        argv=(str(python), script, "build", *arguments),
        count=(str(python), script, "count", *arguments),
        report=report,
    )


def peer_tool(peer: Peer, cache: Path) -> Tool:
    command = partial(peer_command, peer, python_of(peer, cache))
    return Tool(peer.name, command, peer.formats, strips=peer.strips)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("names", nargs="*", help="default: all")
    options = parser.parse_args()
    for peer in (YARDSTICK, *PEERS):
        if not options.names or peer.name in options.names:
            print(peer.name, python_of(peer, options.cache.resolve()), flush=True)


if __name__ == "__main__":
    main()
