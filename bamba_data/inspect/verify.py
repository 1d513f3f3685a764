"""Is the dataset what its manifest says? Every fault is named, none hides another.

Without bodies: manifest, tables, lock and tokenizer against their digests, sums and accounts, every shard there, of
its size, with the footer that the tables say. In full: every byte against sha256, every block against its digest,
every id against the vocabulary, every document against the account of its input and the table of candidates, and a
sample decoded and encoded again (ids_proof.py: where decoding loses, the upstream text is encoded).
Objects that this version does not name are no fault of it, only counted: other
versions need them, or `sweep` finds them.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import polars as pl

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptManifest, ReferredFileMissing, TokenizerError, UnsafePath
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.layout import DEAD_LETTERS, shard_folder
from bamba_data.format.referring import ReferringStore
from bamba_data.format.tables import SCHEMAS
from bamba_data.inspect.ids_proof import prove
from bamba_data.inspect.shard_rows import ShardRows, slices
from bamba_data.inspect.verify_report import Fault
from bamba_data.inspect.verify_report import Report as Report
from bamba_data.inspect.verify_shards import ShardResult, check_body, check_footer
from bamba_data.inspect.verify_tables import check_tables
from bamba_data.resources import cores
from bamba_data.storage.store import Store
from bamba_data.tokenization.tokenizer import Tokenizer

THREADS = 16
FULL_THREADS = (4, 16)  # as many as cores, within these: each holds a shard
SHARDS_AT_ONCE = 64  # that a thread is given: one by one costs as much again as looking at them, on a local disk
LISTED_AT_ONCE = 1 << 16


def verify(
    url: str,
    version: int | str | None = None,
    full: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
    code: Path | None = None,
) -> Report:
    """Check the dataset at `url`. What cannot even be opened raises; all else is in the report.

    `tick(done, total)` is called after every shard. `code` is a folder with the sources of the recipe's transforms,
    which are then run where ids can be proven only by their texts (see ids_proof.py).
    """
    return check(open_dataset(url, version), full, tick, code=code)


def check(
    dataset: Dataset,
    full: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
    only: Collection[str] | None = None,
    code: Path | None = None,
) -> Report:
    """The same of a dataset that is open, be it published yet or not. With `only`, no other shards than these, by their
    paths, are looked at: the others were verified when they were published."""
    report = Report(dataset.manifest.digest, dataset.version.number, full)
    are_readable = _check_tables_readable(dataset, report)
    _check_lock(dataset, report)
    tokenizer = _check_tokenizer(dataset, report)
    if are_readable:
        check_tables(dataset, report)
        if only is None:
            _check_objects(dataset, report)
        _check_shards(dataset, report, tokenizer, tick, only, code)
        if full:
            _check_dead_letters(dataset, report)
    return report


def _check_tables_readable(dataset: Dataset, report: Report) -> bool:
    for name in (*SCHEMAS, "masks", "elsewhere", "files_store"):
        try:
            getattr(dataset, name)
        except CorruptManifest as error:
            report.fault(error.where, error.detail)
        except UnsafePath as error:
            report.fault(f"table {name}", str(error))
    return not report.faults


def _check_objects(dataset: Dataset, report: Report) -> None:
    """Everything is there, with its size: by listing, a thousand objects a request."""
    folders = [shard_folder(source.name) for source in dataset.manifest.sources]
    folders += [DEAD_LETTERS] if len(dataset.dead_letters) else []
    there = _listed(dataset.store, folders)
    store = dataset.files_store
    for url, place in store.elsewhere().items() if isinstance(store, ReferringStore) else ():
        theirs = dataset.elsewhere.filter(pl.col("store") == url).select("path")
        there = pl.concat([there.join(theirs, on="path", how="anti"), _listed(place, folders).join(theirs, on="path")])
    referred = dict(dataset.elsewhere.iter_rows())
    named = pl.concat(
        frame.select("path", pl.col("size_bytes").cast(pl.UInt64)) for frame in (dataset.shards, dataset.dead_letters)
    )
    found = named.join(there, on="path", how="left", maintain_order="left")
    for path, size, size_there in found.filter(pl.col("size_bytes").ne_missing(pl.col("size_there"))).iter_rows():
        if size_there is None:
            lost = ReferredFileMissing(path, referred[path], dataset.store.url) if path in referred else None
            report.fault(path, lost.detail if lost else "is missing")
        else:
            report.fault(path, f"has {size_there:,} bytes, the manifest says {size:,}")
    report.unlisted = there.join(named, on="path", how="anti").height


def _listed(store: Store, folders: Iterable[str]) -> pl.DataFrame:
    """path, size_there: of the objects below some folders; as a table, since there may be millions."""
    schema = {"path": pl.String, "size_there": pl.UInt64}
    entries = (entry for folder in folders for entry in store.list(folder))
    parts = [pl.DataFrame(schema=schema)]
    while chunk := [(entry.path, entry.size_bytes) for entry in islice(entries, LISTED_AT_ONCE)]:
        parts.append(pl.DataFrame(chunk, schema, orient="row"))
    return pl.concat(parts).unique("path", keep="last")


def _check_lock(dataset: Dataset, report: Report) -> None:
    try:
        dataset.lock_json()
    except CorruptManifest as error:
        report.fault(error.where, error.detail)


def _check_dead_letters(dataset: Dataset, report: Report) -> None:
    """Whole files against their sha256: their rows are for people, and the tables count them."""
    for path, digest in zip(dataset.dead_letters["path"], dataset.dead_letters["sha256"], strict=True):
        if path in {fault.where for fault in report.faults}:  # missing, or of another size
            continue
        with contextlib.suppress(OSError, ReferredFileMissing):
            data = dataset.files_store.read(path)
            report.bytes_read += len(data)
            if sha256(data) != digest:
                report.fault(path, "its sha256 is not the manifest's")


def _check_tokenizer(dataset: Dataset, report: Report) -> Tokenizer | None:
    """The tokenizer, where it is the one and can be used."""
    entry = dataset.manifest.tokenizer
    try:
        tokenizer = Tokenizer(dataset.tokenizer_json())
        if tokenizer.vocab_size != entry.vocab_size or tokenizer.dtype.str != entry.token_dtype:
            report.fault("tokenizer", f"has {tokenizer.vocab_size:,} ids, the manifest says {entry.vocab_size:,}")
            return None
        return tokenizer
    except (CorruptManifest, TokenizerError) as error:
        report.fault("tokenizer", str(error))
        return None


def _check_shards(
    dataset: Dataset,
    report: Report,
    tokenizer: Tokenizer | None,
    tick: Callable[[int, int], None],
    only: Collection[str] | None,
    code: Path | None,
) -> None:
    missing = {fault.where for fault in report.faults}
    paths = (
        dataset.shards["path"] if only is None else dataset.shards["path"].filter(dataset.shards["path"].is_in(only))
    )
    total = len(paths) - int(paths.is_in(list(missing)).sum())
    kept: Counter[tuple[str, int]] = Counter()
    if not dataset.manifest.backend.certificates:
        tokenizer = None  # ids that were imported: nobody said that the reference gives them
    vocab_size = dataset.manifest.tokenizer.vocab_size
    undecided: list[str] = []

    def check(shard: ShardRows) -> ShardResult:
        try:
            if report.full:
                return check_body(dataset.files_store, shard, vocab_size, tokenizer)
            return check_footer(dataset.files_store, shard)
        except ReferredFileMissing as error:
            return ShardResult(faults=[Fault(error.path, error.detail)])

    def check_some(shards: Sequence[ShardRows]) -> list[ShardResult]:
        return [check(shard) for shard in shards]

    low, high = FULL_THREADS
    with ThreadPoolExecutor(min(high, max(low, cores())) if report.full else THREADS) as pool:
        for part in slices(dataset, only):
            there = [shard for shard in part if shard.row["path"] not in missing]
            some = 1 if report.full else min(SHARDS_AT_ONCE, -(-len(there) // THREADS)) or 1
            pieces = (there[start : start + some] for start in range(0, len(there), some))
            for result in chain.from_iterable(pool.map(check_some, pieces)):
                report.faults.extend(result.faults)
                report.shards += 1
                report.blocks += result.blocks
                report.documents += result.documents
                report.tokens += result.tokens
                report.bytes_read += result.bytes_read
                report.reencoded += result.reencoded
                undecided += result.undecided
                kept.update(result.kept)
                tick(report.shards, total)
    if undecided and tokenizer is not None:
        proof = prove(dataset, tokenizer, undecided, code)
        for path, detail in proof.faults.items():
            report.fault(path, detail)
        report.reencoded += proof.proven + len(proof.faults)
        report.from_upstream, report.unproven = proof.proven, proof.unproven
    if report.full and not report.faults:
        for source, file, path, wanted in dataset.files.select("source", "file", "path", "kept").iter_rows():
            found_rows = kept[source, file]
            # What was dropped may be gone from the shards, too.
            if found_rows > wanted if dataset.manifest.derived else found_rows != wanted:
                report.fault(f"input {source}/{path}", f"{found_rows:,} documents in shards, kept {wanted:,}")
