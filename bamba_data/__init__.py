"""What a dataset IS: sources and their lock, documents, tokenizer identity, shards, manifest, publishing,
verification, lineage. Imports neither ray nor torch, so that the manifest commands start in a blink.

The nouns, in the order in which data meets them:

    recipe ──lock──▶ locked files ──source──▶ documents ──tokenizer──▶ shards ──publish──▶ manifest

`Source` turns bytes into documents. A `Document` is an id, a text and a row. A `Shard` is a parquet file of
token ids with lineage. The `Manifest` says which shards are the dataset, and its digest is the dataset's name.
Where and when this runs is the business of `pipelines`; which row comes next that of `loader`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .format.dataset import Dataset, open_dataset

__version__ = "0.2.0"
__all__ = ["Dataset", "__version__", "open_dataset"]


def __getattr__(name: str) -> Any:
    """What a reader of a dataset needs, imported when it is asked for: `bamba-data --help` reads no manifest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".format.dataset", __name__), name)
