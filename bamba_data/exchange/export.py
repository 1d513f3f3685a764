"""Exporting a dataset to a folder on this machine, in the format of another reader.

Every source is exported by itself: shard after shard, and after each few hundred megabytes a record says what is on the
disk. A run that comes later goes on from there; one that finds all finished says so and writes nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.storage.addresses import shown
from bamba_data.storage.store import LocalStore
from bamba_data.tokenization.delimiters import delimiters_in, refuse_unused_ids

from .appended_file import held, write_whole
from .arrow_export import ArrowExport
from .export_form import ExportForm, Written
from .export_record import META, ExportRecord, read_record
from .jsonl_export import JsonlExport
from .litdata_export import LitdataExport
from .mds_export import MdsExport
from .megatron_export import MegatronExport
from .nanoset_export import NanosetExport
from .token_blocks import BlockReader, SourceShard, delimited, shards_of

#: By the word of the command line.
FORMS: dict[str, type[ExportForm]] = {
    "megatron": MegatronExport,
    "arrow": ArrowExport,
    "jsonl": JsonlExport,
    "mds": MdsExport,
    "litdata": LitdataExport,
    "nanoset": NanosetExport,
}
SYNC_TOKENS = 1 << 27  # a kill costs the work of so many at most, and a shard


@dataclass(frozen=True)
class Exported:
    """One source in its new form: what was written, with delimiters, and where it lies."""

    source: str
    documents: int
    tokens: int
    results: list[str]
    was_there: bool


def export(
    dataset: Dataset,
    form: str,
    out: str,
    sources: Sequence[str] = (),
    delimiters: str | None = None,
    bos_id: int | None = None,
    eos_id: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Exported]:
    """Write sources of a dataset in another format.

    Args:
        dataset: what to export.
        form: one of FORMS.
        out: a folder of this machine, new or one that an earlier run of the same export left.
        sources: their names; none for all.
        delimiters: what goes around every document, one of delimiters.KINDS; None for what the format is read with.
        bos_id: the id of "bos", where the tokenizer does not say which it is.
        eos_id: the same of "eos".
        tick: called with (shards done, shards in all).

    Raises:
        UserError: arguments that contradict each other, or a folder that holds something else.
        CorruptShard: the dataset is damaged.
    """
    folder = _checked_folder(dataset, out)
    if form not in FORMS:
        raise UserError(f"--to {form}: it can be {', '.join(FORMS)}")
    before, after = _delimiters(dataset, FORMS[form], delimiters, bos_id, eos_id)
    names = _checked_sources(dataset, sources)
    shards = {name: shards_of(dataset, name) for name in names}
    total, done, exported = sum(map(len, shards.values())), 0, []
    for name in names:  # first of all: what cannot be done is refused before anything is
        _standing(folder, _wanted(dataset, form, name, before, after, len(shards[name])), dataset)
    for name in names:
        with held(folder / META / f"export-{name}.lock"):
            wanted = _wanted(dataset, form, name, before, after, len(shards[name]))
            record = _standing(folder, wanted, dataset)
            exported.append(_export_source(dataset, folder, record, shards[name], partial(_tick_on, tick, done, total)))
        done += len(shards[name])
    return exported


def _tick_on(tick: Callable[[int, int], None], done_before: int, total: int, done: int) -> None:
    tick(done_before + done, total)


def _export_source(
    dataset: Dataset, folder: Path, record: ExportRecord, shards: Sequence[SourceShard], tick: Callable[[int], None]
) -> Exported:
    """The rest of one source, from where `record` says."""
    writer = FORMS[record.form](folder, record, dataset)
    was_there = record.finished
    if record.shards_done < record.shards:
        with ExitStack() as resources:
            _write_record(folder, record)  # first: what is there is ours then
            writer.open(record, resources)
            reader = resources.enter_context(BlockReader(dataset, with_lineage=writer.with_lineage))
            unsafe_tokens = 0
            for shard in shards[record.shards_done :]:
                written = Written(0, 0)
                if not reader.is_empty(shard):
                    blocks = (delimited(block, record.before, record.after) for block in reader.read(shard))
                    written = writer.write(shard, blocks)
                unsafe_tokens += written.tokens
                record = replace(
                    record,
                    shards_done=record.shards_done + 1,
                    documents=record.documents + written.documents,
                    tokens=record.tokens + written.tokens,
                )
                if unsafe_tokens >= SYNC_TOKENS or record.shards_done == record.shards:
                    record, unsafe_tokens = replace(record, file_bytes=writer.sync()), 0
                    _write_record(folder, record)
                tick(record.shards_done)
    if not record.finished:
        if not record.documents:
            raise UserError(f"source {record.source} has no document to export: leave it out with --source")
        writer.finish(record)
        record = replace(record, finished=True)
        _write_record(folder, record)
    writer.tidy()
    return Exported(record.source, record.documents, record.tokens, [str(path) for path in writer.results], was_there)


def _wanted(dataset: Dataset, form: str, source: str, before: list[int], after: list[int], shards: int) -> ExportRecord:
    """The record of an export that has not begun."""
    return ExportRecord(form, source, dataset.manifest.digest, dataset.identity, before, after, shards)


def _write_record(folder: Path, record: ExportRecord) -> None:
    write_whole(folder / record.path, record.sealed())


def _standing(folder: Path, wanted: ExportRecord, dataset: Dataset) -> ExportRecord:
    """The record to go on from: that of an earlier run, if it was of the same export, else the wanted one."""
    standing = read_record(folder, wanted.source)
    if standing is not None:
        standing.check_same(wanted, folder)
        return standing
    for result in FORMS[wanted.form](folder, wanted, dataset).results:
        if result.exists():
            raise UserError(f"{result}: is there already, and no export of ours: give another --out, or remove it")
    return wanted


def _checked_folder(dataset: Dataset, out: str) -> Path:
    if "://" in out:
        raise UserError(f"--out {shown(out)}: an export grows in place, which no object store lets it: give a folder")
    folder = Path(out).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {out}: is a file: give a folder")
    if isinstance(dataset.store, LocalStore):
        place = dataset.store.root.resolve()
        if place == folder.resolve() or place in folder.resolve().parents:
            raise UserError(f"--out {out}: lies in the dataset {place}: give a folder outside it")
    return folder


def _checked_sources(dataset: Dataset, sources: Sequence[str]) -> list[str]:
    known = [source.name for source in dataset.manifest.sources]
    if unknown := [name for name in sources if name not in known]:
        raise UserError(f"--source {unknown[0]}: the dataset has no such source; it has {', '.join(known)}")
    if len(set(sources)) != len(sources):
        raise UserError("--source: a name stands twice")
    return [name for name in known if not sources or name in sources]


def _delimiters(
    dataset: Dataset, form: type[ExportForm], kind: str | None, bos_id: int | None, eos_id: int | None
) -> tuple[list[int], list[int]]:
    chosen = form.default_delimiters if kind is None else kind
    if chosen is None:
        raise UserError(
            f"--to {form.name}: say what goes around every document: --delimiters eos is what its trainer expects, "
            "bos, both or none are others"
        )
    refuse_unused_ids(chosen, bos_id, eos_id)
    tokenizer = dataset.tokenizer_json() if chosen != "none" else b""
    try:
        return delimiters_in(tokenizer, dataset.manifest.tokenizer.vocab_size, chosen, bos_id, eos_id)
    except UserError as error:
        raise UserError(
            str(error).replace("give bos_id", "give --bos-id").replace("give eos_id", "give --eos-id")
        ) from None
