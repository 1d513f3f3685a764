"""Token files of another trainer become a published dataset: the same shards, tables, manifest and fence as a build's.

A file of ids, with its index, is a unit; a source has one (Megatron) or a folder of them (datatrove). Its rows say
which document of the index they are; the inputs of a source are these files, with the sha256 of what was read. No text
is at hand: nothing certifies the ids but the vocabulary, and the manifest says so by having no certificate of it.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

import bamba_data
from bamba_data import canonical_json
from bamba_data.card.refresh import refresh_and_say
from bamba_data.document import Ledger
from bamba_data.errors import IntegrityError, NoDocuments, UserError, WrongForm
from bamba_data.exchange.datatrove_reader import datatrove_files, open_datatrove_file
from bamba_data.exchange.megatron_reader import open_token_file
from bamba_data.exchange.token_input import TokenInput
from bamba_data.format import manifest as manifests
from bamba_data.format.dataset import Dataset
from bamba_data.format.fence import shared
from bamba_data.format.identity import of_dataset
from bamba_data.format.layout import lock_path, shard_folder, tokenizer_path
from bamba_data.format.manifest import FORMAT, Manifest
from bamba_data.format.manifest_entries import Account, BackendEntry, SoftwareEntry, Tables, TokenizerEntry
from bamba_data.format.shard import ShardWriter
from bamba_data.format.tables import SCHEMAS, TableWriter
from bamba_data.format.unit_records import StagedShard
from bamba_data.format.versions import Version, publish
from bamba_data.inspect.verify import check
from bamba_data.locking.lock import Lock
from bamba_data.recipe import ShardRule
from bamba_data.sources.base import Location, Name, Source, TextRule
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.storage.store import Store
from bamba_data.tokenization.delimiters import BOS_NAMES, EOS_NAMES, delimiters_in, refuse_unused_ids, special_tokens
from bamba_data.tokenization.purity import check_pure
from bamba_data.tokenization.tokenizer import Tokenizer

from .publishing import check_published
from .source_totals import SourceTotals

BACKEND = "imported"  # what shards say made their ids
EMPTY = "empty_text"
CUT = ". If only some documents do, they were cut into chunks (shuffle_chunk_size): make the files without"
NAMES = {*BOS_NAMES, *EOS_NAMES}


#: What `--from` can be. Nanotron's Nanoset reads the files that datatrove writes.
FORMS: Mapping[str, Literal["megatron", "datatrove"]] = {
    "megatron": "megatron",
    "datatrove": "datatrove",
    "nanoset": "datatrove",
}
ENDINGS = {"megatron": (".bin", ".idx"), "datatrove": (".ds",)}


@dataclass(frozen=True)
class TokenImport:
    """What to import, and as what.

    Attributes:
        form: `megatron` or `datatrove`.
        name: of the dataset.
        places: of the files of each source: a prefix, without `.bin` and `.idx`; or a `.ds` file, or a folder of them.
        tokenizer: that made the ids.
        tokenizer_url: where its file was, for people.
        before: ids that begin every document in the files, and are taken away: shards hold no delimiters.
        after: those that end it.
        license: of all sources, in words.
        attribution: likewise.
        shards: how they are cut.
    """

    form: Literal["megatron", "datatrove"]
    name: str
    places: Mapping[str, Path]
    tokenizer: Tokenizer
    tokenizer_url: str
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    license: str = "unstated"
    attribution: str = "unstated"
    shards: ShardRule = field(default_factory=ShardRule)


def import_tokens(
    wanted: TokenImport, store: Store, tick: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Version, Manifest]:
    """Read the files, write shards, verify and publish.

    Args:
        wanted: what to import.
        store: where the dataset goes.
        tick: called with (ids done, ids in all).

    Raises:
        WrongForm: a file is no token file, or of another tokenizer or other delimiters.
        CorruptInput: a file is cut short or damaged; nothing was published.
        NoDocuments: a source has no document.
        FenceLost: a sweep took the fence meanwhile.
    """
    sources = {name: opened(wanted, place) for name, place in wanted.places.items()}  # all, before any is read
    _check_first(wanted, sources)
    total = sum(file.tokens for files in sources.values() for file in files)
    with shared(store) as fence:
        store.put(tokenizer_path(wanted.tokenizer.sha256), wanted.tokenizer.data)
        totals: dict[str, SourceTotals] = {}
        locked: list[LockedFile] = []
        with ExitStack() as stack:
            tables = {name: stack.enter_context(TableWriter(name)) for name in SCHEMAS}
            done = 0
            for name, files in sources.items():
                totals[name] = SourceTotals()
                for unit, file in enumerate(files):
                    locked += _import_file(wanted, name, unit, file, store, totals[name], tables)
                    done += file.tokens
                    tick(done, total)
                if not totals[name].ledger.kept:
                    raise NoDocuments(f"{files[0].ids}: has nothing but empty documents: leave source {name} out")
            saved = {name: table.save(store) for name, table in tables.items()}
        lock = Lock({name: _source(wanted, name, files) for name, files in sources.items()}, {}, tuple(locked))
        store.put(lock_path(lock.digest), canonical_json.dumps(lock.to_json()))
        manifest = _manifest(wanted, totals, lock, Tables(**saved))

        def verified() -> None:
            fence.check()
            draft = Dataset(store, Version(0, manifest.digest, "", lock.digest, ""), manifest)
            if faults := check(draft).faults:
                said = "; ".join(map(str, faults[:5]))
                raise IntegrityError(f"{said}. Nothing was published; run the same command again to write it anew")
            fence.check()  # a sweep that came between would have deposed us

        manifests.loads(manifest.data, "the manifest")
        version = publish(store, manifest, secrets.token_hex(8), lock.digest, verified)
        check_published(store, version, fence)
    refresh_and_say(store)
    return version, manifest


def opened(wanted: TokenImport, place: Path) -> Sequence[TokenInput]:
    """The files of a source, each checked as far as it can be without reading its ids."""
    if wanted.form == "megatron":
        return [open_token_file(place)]
    files = [open_datatrove_file(ids) for ids in datatrove_files(place)]
    for file in files:
        file.check_tokenizer(wanted.tokenizer)
    return files


def _check_first(wanted: TokenImport, sources: Mapping[str, Sequence[TokenInput]]) -> None:
    """Raise, before anything is written, where the first document of a source shows other delimiters than were said."""
    special = {token_id: text for text, token_id in special_tokens(wanted.tokenizer.data).items() if text in NAMES}
    for name, files in sources.items():
        vocab_size = wanted.tokenizer.vocab_size
        every = ((file, ids) for file in files for ids in file.read(hashlib.sha256(), vocab_size) if len(ids))
        file, first = next(every, (files[0], None))
        if first is None:
            raise NoDocuments(f"{file.ids}: has no document with an id in it: leave source {name} out")
        (bare,) = _bare(wanted, file, iter([first]))
        for word, kind, ids in (("begins", "bos", bare[:1]), ("ends", "eos", bare[-1:])):
            if len(ids) and int(ids[0]) in special:
                raise WrongForm(
                    str(file.ids),
                    f"its first document {word} with {special[int(ids[0])]} (id {ids[0]}), which is no text",
                    f"shards hold no delimiters: say --delimiters {kind}, or both, and they are taken away",
                )


def _import_file(
    wanted: TokenImport,
    name: str,
    unit: int,
    file: TokenInput,
    store: Store,
    totals: SourceTotals,
    tables: dict[str, TableWriter],
) -> list[LockedFile]:
    """All shards of a file of the source `name`, and its rows in the tables; the inputs that it was read from."""
    ledger, digest = Ledger(), hashlib.sha256()
    first_input = totals.files
    totals.files += 1 + len(file.beside)
    rule, dtype = wanted.shards, wanted.tokenizer.dtype
    number = 0
    writer = ShardWriter(dtype, rule.block_tokens, rule.blocks_per_shard)

    def save() -> None:
        _save(writer, name, unit, number, first_input, file, totals, store, tables)

    for document, ids in enumerate(_bare(wanted, file, file.read(digest, wanted.tokenizer.vocab_size))):
        ledger.read += 1
        if not len(ids):
            ledger.dropped[EMPTY] = ledger.dropped.get(EMPTY, 0) + 1
            continue
        ledger.kept += 1
        ledger.tokens += len(ids)
        writer.add(ids.astype(dtype, copy=False), f"{file.name}:{document}", 0, document)
        if writer.full:
            save()
            number += 1
            writer = ShardWriter(dtype, rule.block_tokens, rule.blocks_per_shard)
    if writer.documents:
        save()
    totals.ledger.add(ledger)
    inputs = [
        LockedFile(name, path.name, str(path), Facts(path.stat().st_size, None, sha256))
        for path, sha256 in ((file.ids, digest.hexdigest()), *file.beside)
    ]
    # All rows are counted from the file of ids; the others say where they begin.
    accounts = [ledger, *(Ledger() for _ in file.beside)]
    tables["files"].add(
        [
            _file_row(first_input + place, locked, own)
            for place, (locked, own) in enumerate(zip(inputs, accounts, strict=True))
        ]
    )
    return inputs


def _bare(wanted: TokenImport, file: TokenInput, documents: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The documents without their delimiters. Raises WrongForm for one that does not have them."""
    before, after = list(wanted.before), list(wanted.after)
    for number, ids in enumerate(documents):
        if not len(ids):
            yield ids
            continue
        end = len(ids) - len(after)
        if ids[: len(before)].tolist() != before or ids[max(end, 0) :].tolist() != after or end < len(before):
            ends = f"begins with {ids[:1].tolist()} and ends with {ids[-1:].tolist()}"
            raise WrongForm(
                str(file.ids),
                f"document {number:,} {ends}, not with {before} and {after}",
                "say which --delimiters the files have: eos, bos, both or none"
                + CUT * (wanted.form == "datatrove" and number > 0),
            )
        yield ids[len(before) : end]


def _save(
    writer: ShardWriter,
    source: str,
    unit: int,
    number: int,
    first_input: int,
    file: TokenInput,
    totals: SourceTotals,
    store: Store,
    tables: dict[str, TableWriter],
) -> None:
    finished = writer.finish()
    label = hashlib.sha256(f"{source}/{file.name}".encode()).hexdigest()[:12]
    shard = StagedShard(
        path=f"{shard_folder(source)}/{label}-{number:03d}-{finished.sha256[:16]}.parquet",
        sha256=finished.sha256,
        size_bytes=len(finished.data),
        documents=finished.documents,
        tokens=finished.tokens,
        blocks=finished.blocks,
        candidates=finished.candidates,
        footer=finished.footer,
    )
    store.put(shard.path, finished.data)
    totals.add_shard(source, unit, number, first_input, BACKEND, software(), shard, tables)


def software() -> dict[str, str]:
    """The versions of all that can change the bytes of a shard, in this process."""
    return {"bamba-data": bamba_data.__version__, "pyarrow": pa.__version__, "numpy": np.__version__}


def _file_row(place: int, locked: LockedFile, ledger: Ledger) -> dict[str, Any]:
    return {
        "source": locked.source,
        "file": place,
        "path": locked.path,
        "url": locked.url,
        "size_bytes": locked.facts.size_bytes,
        "sha256": locked.facts.sha256,
        "complete": True,
        "quarantined": False,
        "read": ledger.read,
        "kept": ledger.kept,
        "dropped": sum(ledger.dropped.values()),
        "dead_lettered": 0,
        "tokens": ledger.tokens,
        "text_bytes": 0,
        "reasons": [
            {"action": "dropped", "reason": reason, "count": count} for reason, count in sorted(ledger.dropped.items())
        ],
    }


def _source(wanted: TokenImport, name: str, files: Sequence[TokenInput]) -> Source:
    names = [path.name for file in files for path in (file.ids, *(path for path, _ in file.beside))]
    return Source(
        name=name,
        corpus=wanted.form,
        form=wanted.form,
        text=TextRule(),
        location=Location(base=str(files[0].ids.parent), files=names),
        license=wanted.license,
        attribution=wanted.attribution,
        homepage="",
    )


def _manifest(wanted: TokenImport, totals: Mapping[str, SourceTotals], lock: Lock, tables: Tables) -> Manifest:
    identities = {name: source.identifying.done() for name, source in totals.items()}
    whole = Ledger()
    for source in totals.values():
        whole.add(source.ledger)
    tokenizer = wanted.tokenizer
    return Manifest(
        format=FORMAT,
        identity=of_dataset(tokenizer.sha256, tokenizer.dtype.str, identities),
        name=wanted.name,
        recipe={
            "import": {
                "from": wanted.form,
                "sources": list(wanted.places),
                "before": list(wanted.before),
                "after": list(wanted.after),
                "shards": wanted.shards.model_dump(mode="json"),
            }
        },
        tokenizer=TokenizerEntry(
            url=wanted.tokenizer_url,
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            token_dtype=tokenizer.dtype.str,  # type: ignore[arg-type]
        ),
        backend=BackendEntry(certificates=[], sampled_documents=0, sampled_tokens=0, parts_redone=0),
        software=[SoftwareEntry(versions=software(), shards=tables.shards.rows)],
        sources=[source.entry(name, lock) for name, source in totals.items()],
        totals=Account.of(whole),
        tables=tables,
    )


def token_import(
    form: str,
    prefixes: Sequence[str],
    tokenizer: Path,
    delimiters: str,
    bos_id: int | None,
    eos_id: int | None,
    name: str,
    license: str,
    attribution: str,
) -> TokenImport:
    """What a command line asks for, checked.

    Args:
        form: of the files, as FORMS has it.
        prefixes: `PREFIX` or `NAME=PREFIX`; the name of a source is that of its files, or folder, if none is said.
        tokenizer: a tokenizer.json.
        delimiters: one of delimiters.KINDS.
        bos_id: where the tokenizer does not say it.
        eos_id: likewise.
        name: of the dataset.
        license: of all sources.
        attribution: likewise.

    Raises:
        UserError: arguments that contradict each other, or names that cannot be names of sources.
        TokenizerError: the tokenizer is none, or encodes at random.
    """
    if form not in FORMS:
        raise UserError(f"--from {form}: it can be {', '.join(FORMS)}")
    named: dict[str, Path] = {}
    for text in prefixes:
        said, equals, rest = text.partition("=")
        place = Path(rest if equals else text)
        if place.suffix in ENDINGS[FORMS[form]]:
            place = place.with_suffix("")
        source = said if equals else place.name
        if equals and Path(text).is_dir():  # as an export of ours has it: its own dataset=NAME is no NAME=PREFIX
            place = Path(text)
            source = place.name.removeprefix("dataset=")
        for what in (source, name):
            _check_name(what)
        if source.casefold() in {known.casefold() for known in named}:
            raise UserError(f"{text}: two sources would be called {source}: say NAME=PREFIX")
        named[source] = place.absolute()
    data = tokenizer.read_bytes()
    check_pure(data)
    read = Tokenizer(data)
    refuse_unused_ids(delimiters, bos_id, eos_id)
    before, after = delimiters_in(data, read.vocab_size, delimiters, bos_id, eos_id)
    return TokenImport(FORMS[form], name, named, read, str(tokenizer), before, after, license, attribution)


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UserError(
            f"{name!r} cannot be the name of a source or dataset: letters, digits, '.', '_' and '-', 64 at most; "
            "say NAME=PREFIX"
        ) from None
