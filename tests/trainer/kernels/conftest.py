"""Triton is made ready for its interpreter before anything imports it, where there is no GPU to run the kernels on.

Triton chooses when a kernel is decorated; the ops choose at each call. So the kernels are imported here under the
variable, which is then taken back: a test that wants them asks for the fixture `triton_kernels`.
"""

import importlib.util
import os

import pytest
import torch

GPU = torch.cuda.is_available()
TRITON = importlib.util.find_spec("triton") is not None

if TRITON and not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    from trainer.kernels import triton_backend  # noqa: F401

    del os.environ["TRITON_INTERPRET"]


@pytest.fixture
def triton_kernels(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The ops run the Triton kernels on the device given back: a GPU, or the CPU through the interpreter."""
    if not TRITON:
        pytest.skip("Triton is not installed")
    if GPU:
        return torch.device("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
