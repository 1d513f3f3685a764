"""The address that `PACKERS` had before 0.2: see loader/packing/registry.py."""

from .packing.registry import PACKERS

__all__ = ["PACKERS"]
