"""An example as a reader runs it: a real process, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path, *arguments: object, ranks: int = 0) -> str:
    """What `examples/NAME.py` prints, plain or by torchrun on so many ranks; the test fails where it fails."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """The reader's, with a cache of the test's own; one thread a process, for tests share the cores."""
    ours = {"BAMBA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
    return {**os.environ, **ours, **quiet}
