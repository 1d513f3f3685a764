"""Where things lie below a dataset's URL. Every path is spelled here, and nowhere else.

    README.md, croissant.json                           for people and other tools (bamba_data/card); nothing reads them
    dataset=<source>/<stem>-<digest>.parquet            shards
    _bamba/
        versions/<number>.json                          what is published; .withdrawn.json, .expired.json beside it
        tags/<name>.json                                names of versions
        manifests/<sha256>.json, tables/<sha256>.parquet, tokenizers/<sha256>.json, locks/<sha256>.json
        locks/<request>.pointer                         which lock a recipe's request was frozen as
        dead_letters/<source>/<stem>-<digest>.parquet   bad records, raw
        plans/<digest>.json, built/<manifest>.json      what was planned, and what came of it
        units/<source>/<key>/                           finished parts and units, by the key of what they depend on
        runs/<run>/<attempt>/                           how each attempt of a build went
        leases/                                         who writes or deletes now (fence.py)

Shards lie outside `_bamba/`, so that other tools find them: `dataset=<source>` is a Hive partition.
"""

from typing import Literal

Mark = Literal["withdrawn", "expired"]

README = "README.md"
CROISSANT = "croissant.json"
SHARD_PREFIX = "dataset="
OURS = "_bamba/"
VERSIONS = "_bamba/versions"
TAGS = "_bamba/tags"
MANIFESTS = "_bamba/manifests"
TABLES = "_bamba/tables"
TOKENIZERS = "_bamba/tokenizers"
LOCKS = "_bamba/locks"
DEAD_LETTERS = "_bamba/dead_letters"
PLANS = "_bamba/plans"
BUILT = "_bamba/built"
UNITS = "_bamba/units"
RUNS = "_bamba/runs"
LEASES = "_bamba/leases"
PREFLIGHT = "_bamba/preflight"
#: Objects that are written and removed at once, to read the store's clock from their time.
CLOCK = "_bamba/tmp"

UNIT_NAME = "unit.json"
POINTER_SUFFIX = ".pointer"


def shard_folder(source: str) -> str:
    return f"{SHARD_PREFIX}{source}"


def dead_letter_folder(source: str) -> str:
    return f"{DEAD_LETTERS}/{source}"


def version_path(number: int) -> str:
    return f"{VERSIONS}/{number:06d}.json"


def mark_path(mark: Mark, number: int) -> str:
    return f"{VERSIONS}/{number:06d}.{mark}.json"


def tag_path(name: str) -> str:
    return f"{TAGS}/{name}.json"


def manifest_path(digest: str) -> str:
    return f"{MANIFESTS}/{digest}.json"


def table_path(sha256: str) -> str:
    return f"{TABLES}/{sha256}.parquet"


def tokenizer_path(sha256: str) -> str:
    return f"{TOKENIZERS}/{sha256}.json"


def lock_path(digest: str) -> str:
    return f"{LOCKS}/{digest}.json"


def pointer_path(request_key: str) -> str:
    """`request_key` is what the lock depends on (locking.lock.request_key)."""
    return f"{LOCKS}/{request_key}{POINTER_SUFFIX}"


def plan_path(digest: str) -> str:
    return f"{PLANS}/{digest}.json"


def built_path(manifest: str) -> str:
    return f"{BUILT}/{manifest}.json"


def unit_folder(source: str, key: str) -> str:
    return f"{UNITS}/{source}/{key}"


def unit_path(source: str, key: str) -> str:
    return f"{unit_folder(source, key)}/{UNIT_NAME}"


def part_path(source: str, key: str, number: int) -> str:
    return f"{unit_folder(source, key)}/part-{number:05d}.json"


def run_folder(run: str, attempt: str) -> str:
    return f"{RUNS}/{run}/{attempt}"


def status_path(run: str, attempt: str) -> str:
    return f"{run_folder(run, attempt)}/status.json"


def events_path(run: str, attempt: str, number: int) -> str:
    return f"{run_folder(run, attempt)}/events-{number:06d}.jsonl"
