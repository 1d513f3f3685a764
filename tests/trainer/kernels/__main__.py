"""`python -m tests.trainer.kernels [pytest's arguments]`: the kernels' tests alone, on a machine with a GPU that has
torch, Triton and pytest, and nothing else that the other tests need."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def main() -> int:
    """No conftest above this folder and no settings of the project: they want what is not there."""
    alone = ["-c", os.devnull, "--rootdir", str(HERE.parents[2]), "--confcutdir", str(HERE), "-p", "no:cacheprovider"]
    marks = ["-W", "ignore::pytest.PytestUnknownMarkWarning"]
    return int(pytest.main([*alone, *marks, "-q", "-ra", str(HERE), *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
