"""What takes seconds to make is made once a session, also when pytest-xdist runs it in several processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of the session, which all its processes share."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The file or folder `name`, made by the first process of the session that asks for it."""
    path = shared_folder(factory) / name
    with FileLock(f"{path}.lock"):
        done = path.with_name(f"{name}.done")
        if not done.exists():
            make(path)
            done.touch()
    return path
