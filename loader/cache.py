"""Where a host keeps what its loaders share: the index of blocks, orders of epochs, segments."""

import os
import tempfile
from pathlib import Path


def default_cache() -> Path:
    """$BAMBA_CACHE, else a folder of this user below the system's temporary one."""
    return Path(os.environ.get("BAMBA_CACHE") or Path(tempfile.gettempdir()) / f"bamba-cache-{os.getuid()}")
