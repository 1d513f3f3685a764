"""Where a host keeps what its loaders share: the index of blocks, orders of epochs, segments."""

import os
import tempfile
from pathlib import Path

from bamba_data.local_disk import private_folder


def default_cache() -> Path:
    """$BAMBA_CACHE, else a folder below the system's temporary one that only this user can write."""
    named = os.environ.get("BAMBA_CACHE")
    return Path(named) if named else private_folder(Path(tempfile.gettempdir()) / f"bamba-cache-{os.geteuid()}")
