"""The address of before 0.2: `build_loader`, `Loader` and `TokenDataset` lie in rooms of their own now."""

from .dataloader import Loader, Settings, TokenDataset, build_loader

__all__ = ["Loader", "Settings", "TokenDataset", "build_loader"]
