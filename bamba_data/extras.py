"""Packages that only a part of us needs, and which extra of ours (pyproject.toml) installs each.

A command says at its start what it needs, so that nothing is begun that cannot end: `require("ray")`. What is imported
without having been asked for is told by the same line, at the edge of the process (exit_codes.py).
"""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

from bamba_data.errors import MissingPackage

EXTRAS = {
    **dict.fromkeys(("ray", "gigatoken"), "ray"),
    **dict.fromkeys(("torch", "safetensors", "tensorboard", "torchao", "pynvml"), "trainer"),
    "matplotlib": "plot",
    "gguf": "gguf",
    **dict.fromkeys(("lm_eval", "langdetect", "math_verify"), "benchmark"),
}


def require(*packages: str, extra: str | None = None) -> None:
    """Raises MissingPackage for those that are not installed, without importing any.

    Args:
        packages: Of `EXTRAS`.
        extra: The one that installs all of them, where that is another than a package's own.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise MissingPackage(", ".join(missing), extra or EXTRAS[missing[0]])


@contextlib.contextmanager
def telling_extras() -> Iterator[None]:
    """An import that fails for one of these packages becomes a MissingPackage."""
    try:
        yield
    except MissingPackage:
        raise
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if (
            package not in EXTRAS or find_spec(package) is not None
        ):  # `torch.new` of a torch that is there is another fault
            raise
        raise MissingPackage(package, EXTRAS[package]) from None
