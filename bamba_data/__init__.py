"""What a dataset IS: sources and their lock, documents, tokenizer identity, shards, manifest, publishing,
verification, lineage. Imports neither ray nor torch, so that the manifest commands start in a blink.

The nouns, in the order in which data meets them:

    recipe ──lock──▶ locked files ──source──▶ documents ──tokenizer──▶ shards ──publish──▶ manifest
    recipe.py        locking/     storage/    sources/    tokenization/  format/

`Source` turns bytes into documents. A `Document` is an id, a text and a row. A shard is a parquet file of
token ids with lineage. The `Manifest` says which shards are the dataset, and its digest is the dataset's name.
Where and when this runs is the business of `pipelines`; which row comes next that of `loader`.

To look at a dataset from Python:

    from bamba_data import open_dataset

    dataset = open_dataset("s3://bucket/corpus@3")   # a place, and which version of it
    dataset.manifest.totals.tokens                   # what it is made of: format/manifest.py
    dataset.shards, dataset.files, dataset.blocks    # Polars frames: format/tables.py
    dataset.shard_urls("books")                      # for Polars, DuckDB, pandas

To read its code in order: recipe.py, locking/lock.py, sources/base.py, document.py, tokenization/tokenizer.py,
format/shard.py, format/manifest.py, format/versions.py, format/layout.py (where it all lies).
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bamba_data.document import Document as Document
    from bamba_data.document import Reject as Reject
    from bamba_data.errors import BambaError as BambaError
    from bamba_data.format.dataset import Dataset as Dataset
    from bamba_data.format.dataset import open_dataset as open_dataset
    from bamba_data.format.manifest import Manifest as Manifest
    from bamba_data.format.shard import ShardReader as ShardReader
    from bamba_data.inspect.verify import verify as verify
    from bamba_data.recipe import Recipe as Recipe
    from bamba_data.storage.store import Store as Store
    from bamba_data.storage.store import open_store as open_store
    from bamba_data.tokenization.tokenizer import Tokenizer as Tokenizer

__version__ = "0.2.0"

#: What others may touch, by the module that has it. Each is imported when it is asked for: `bamba-data show` must not
#: wait for pyarrow.
_EXPORTS = {
    "open_dataset": "format.dataset",
    "Dataset": "format.dataset",
    "Manifest": "format.manifest",
    "ShardReader": "format.shard",
    "verify": "inspect.verify",
    "Recipe": "recipe",
    "Document": "document",
    "Reject": "document",
    "Tokenizer": "tokenization.tokenizer",
    "Store": "storage.store",
    "open_store": "storage.store",
    "BambaError": "errors",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
