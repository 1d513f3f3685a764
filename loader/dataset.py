"""The address of before 0.2: each of these lies in a room of its own now."""

from .build import build_loader
from .dataloader import Loader
from .reading import settings as Settings
from .token_dataset import TokenDataset

__all__ = ["Loader", "Settings", "TokenDataset", "build_loader"]
