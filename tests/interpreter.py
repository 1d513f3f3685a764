"""Triton is made ready for its interpreter before anything imports it, where there is no GPU to run the kernels on.

Triton chooses when a function is decorated: its own library when `triton` is imported, which torch._dynamo does for
its own reasons, and a kernel of ours when its file is. So tests/conftest.py prepares Triton first of all, and the
kernels' conftest the kernels; at a call the ops choose anew, and see the variable only in a test that wants it.
"""

import importlib
import importlib.metadata
import os
from unittest import mock

AT_LEAST = (3, 9)  # the first whose interpreter takes numpy 2.4


def has_gpu() -> bool:
    """Whether kernels can be compiled and run here."""
    import torch  # seconds, which a run without Triton need not pay

    return torch.cuda.is_available()


def needed() -> bool:
    """Whether Triton is here, and only its interpreter can run a kernel."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= AT_LEAST and not has_gpu()


def import_interpreted(module: str) -> None:
    """Import `module` so that what it decorates runs in the interpreter."""
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        importlib.import_module(module)
