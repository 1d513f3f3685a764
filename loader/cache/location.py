"""Where a host keeps what its loaders share: the index of blocks, orders of epochs, segments."""

from bamba_data.storage.local_disk import cache_folder as default_cache

__all__ = ["default_cache"]
