"""Triton is made ready for its interpreter before anything imports it, where there is no GPU to run the kernels on.

Triton chooses when a kernel is decorated; the ops choose at each call. So the kernels are imported here under the
variable, which is then taken back: a test that wants them asks for the fixture `triton_kernels`.
"""

import importlib.metadata
import os

import pytest
import torch

GPU = torch.cuda.is_available()

try:
    version = tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    TRITON = GPU or version >= (3, 9)  # the first whose interpreter takes numpy 2.4
except importlib.metadata.PackageNotFoundError:
    TRITON = False

if TRITON and not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    from trainer.kernels import triton_backend  # noqa: F401

    del os.environ["TRITON_INTERPRET"]


@pytest.fixture
def triton_kernels(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The ops run the Triton kernels on the device given back: a GPU, or the CPU through the interpreter."""
    if not TRITON:
        pytest.skip("needs a GPU, or Triton 3.9 for its interpreter")
    if GPU:
        return torch.device("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
