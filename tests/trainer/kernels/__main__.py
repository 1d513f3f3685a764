"""`python -m tests.trainer.kernels [pytest's arguments]`: the kernels' tests alone, on a machine with a GPU that has
torch, Triton and pytest, and nothing else that the other tests need.

Most of their time is Triton's compiler, one processor's work for each shape: where pytest-xdist is, they are spread
over half of the processors, eight at most (`-n 0`: over none).
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WORKERS = 8  # they share one GPU's memory


def main() -> int:
    """No conftest above this folder and no settings of the project: they want what is not there."""
    alone = ["-c", os.devnull, "--rootdir", str(HERE.parents[2]), "--confcutdir", str(HERE), "-p", "no:cacheprovider"]
    marks = ["-W", "ignore::pytest.PytestUnknownMarkWarning"]
    workers = min(WORKERS, (os.cpu_count() or 1) // 2)
    spread = ["-n", str(workers)] if torch.cuda.is_available() and workers > 1 and find_spec("xdist") else []
    return int(pytest.main([*alone, *marks, *spread, "-q", "-ra", str(HERE), *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
