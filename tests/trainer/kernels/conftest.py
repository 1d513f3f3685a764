"""The kernels, on a GPU or in Triton's interpreter, for the tests that ask for `triton_kernels`."""

import pytest
import torch

from tests import interpreter

INTERPRETED = interpreter.needed()
if INTERPRETED:
    interpreter.import_interpreted("trainer.kernels.triton_backend")
    interpreter.import_interpreted("tests.trainer.kernels.unrounded")


@pytest.fixture
def triton_kernels(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The ops run the Triton kernels on the device given back: a GPU, or the CPU through the interpreter."""
    if interpreter.has_gpu():
        return torch.device("cuda")
    if not INTERPRETED:
        pytest.skip("needs a GPU, or Triton 3.9 for its interpreter")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
