"""The address that `open_dataset` had before 0.2: see bamba_data/format/dataset.py."""

from .format.dataset import Dataset, open_dataset

__all__ = ["Dataset", "open_dataset"]
