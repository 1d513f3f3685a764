"""`from loader.torchtitan import OrderedDataLoader`: see loader/integrations/torchtitan.py."""

from .integrations.torchtitan import OrderedDataLoader

__all__ = ["OrderedDataLoader"]
