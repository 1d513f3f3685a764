"""One unit of work: locked files in, staged shards out. Pure: the same unit gives the same bytes, on any machine,
however often it is killed on the way. No ray in here.

A unit runs as a sequence of parts, each with at most one shard. A part's record is written after its files, so a
kill wastes at most one shard. Going on after a kill reads the input in work again from its start (gzip cannot seek),
proves that it is what the finished parts were made of, and encodes only what is new.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from bamba_data.document import Document, Reject
from bamba_data.errors import CorruptManifest
from bamba_data.filtering.transform_source import loaded
from bamba_data.format.shard import ShardReader
from bamba_data.format.unit_records import Part, Place, ReadInput, UnitRecord
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import Store
from bamba_data.tokenization.dedup import SeenIds
from bamba_data.tokenization.encode import BackendDiffers, Encoder, Ids, batches
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer

from ..observe.counters import Counters
from . import reuse
from .budget_watch import BudgetWatch
from .later_faults import OF_ONE_INPUT, with_later_faults
from .part_writer import PartBuilder
from .plan import Job, Unit
from .readers import PrefixDiffers, open_input
from .staged_records import Staging


def unheard(news: object) -> None:
    """For those who do not watch."""


@dataclass(frozen=True)
class Tools:
    """What a unit needs of the process that it runs in. `report` is told what was done since its last call, `remark` of
    what people should know."""

    store: Store
    fetcher: Fetcher
    tokenizer: Tokenizer
    backend: Backend
    scratch: Path
    report: Callable[[Counters], None] = unheard
    remark: Callable[[str], None] = unheard


def run(unit: Unit, job: Job, tools: Tools) -> UnitRecord:
    """Run the unit to its end, or go on where it was. Its record then lies in the store.

    Raises:
        HopelessInput: So many of the first records are bad that the error budget cannot be kept.
        InputFaults: Inputs cannot be read; of the unit's later ones, too. One alone is raised as it is.
        NotReproducible: The unit was finished before, with another result.
    """
    staging = Staging(tools.store)
    try:
        if done := staging.unit(unit.source, unit.key):
            return _noted(unit, job, tools, done)
    except CorruptManifest as damage:
        staging.set_aside(damage.where)
        tools.remark(f"{unit.name}: {damage}; it is set aside and the unit made anew")
    parts = staging.parts(unit.source, unit.key)
    backend, redone = tools.backend, 0
    # At most three rounds: an input that changed throws away all parts, a backend that differs becomes the reference.
    while not (parts and parts[-1].end.file == len(unit.files)):
        try:
            for part in _parts(unit, job, tools, backend, parts):
                part.sampled.redone, redone = redone, 0
                staging.save_part(unit.source, unit.key, part)
                parts.append(part)
        except BackendDiffers as difference:
            if backend.name == REFERENCE:
                raise  # it cannot disagree with itself: its ids are beyond its own vocabulary
            tools.remark(f"{unit.name}: {difference}; part {len(parts)} is redone with {REFERENCE}")
            backend, redone = tools.tokenizer.reference, 1
        except PrefixDiffers as difference:
            tools.remark(f"{unit.name}: {difference}; they are made again")
            parts = []
    return _noted(unit, job, tools, staging.finish(UnitRecord(unit.source, unit.key, parts)))


def _noted(unit: Unit, job: Job, tools: Tools, record: UnitRecord) -> UnitRecord:
    reuse.note(tools.store, unit, job.recipe.bad_input, record.ledger)
    return record


def _parts(unit: Unit, job: Job, tools: Tools, backend: Backend, finished: list[Part]) -> Iterator[Part]:
    """The parts after the finished ones, each with its files already in the store."""
    source, recipe = job.sources[unit.source], job.recipe
    transform = loaded(source.transform, job.code)
    start = finished[-1].end if finished else Place(0, 0, "")
    number = len(finished)

    def new_part() -> PartBuilder:
        return PartBuilder(unit, number, job, tools.tokenizer, backend)

    part, watch = new_part(), BudgetWatch(unit, recipe.bad_input, finished)
    for position in range(start.file, len(unit.files)):
        file = unit.files[position]
        part.ledger(position)
        if file.quarantined:
            part.inputs.append(ReadInput(position, None, file.locked.facts.size_bytes, False))
            continue
        begin = start if position == start.file else Place(position, 0, "")
        with ExitStack() as stack, _with_later_faults(position, unit, job, tools):
            opened = open_input(stack, file.locked, begin, source, recipe, tools.fetcher, tools.scratch, transform)
            seen = _ids_kept(tools.store, finished, position) if begin.row else SeenIds()
            encoder = Encoder(backend, tools.tokenizer.vocab_size, recipe.bad_input, seen)
            bytes_told = 0
            for batch in batches(opened.items()):
                bad = taken = 0
                outcomes = encoder.encode(batch)
                while taken < len(batch):
                    begun = taken
                    taken, is_bad = part.take(position, batch, outcomes, begun)
                    bad += is_bad
                    if watch.took(position, taken - begun, is_bad):
                        raise watch.fault(position, part.letters, part.save_letters(tools.store).path)
                    # After the verdict, before the part's end: the prefix covers just what the part has taken.
                    for item in batch[begun:taken]:
                        opened.prefix.update(item.line)
                    if part.full:
                        end = Place(position, batch[taken - 1].row + 1, str(opened.prefix))
                        yield part.finish(tools.store, end)
                        number += 1
                        part = new_part()
                        part.ledger(position)
                tools.report(_counters(batch, outcomes, bad, opened.bytes_read() - bytes_told))
                bytes_told = opened.bytes_read()
            part.note(position, opened.notes)
            part.inputs.append(opened.end())
    yield part.finish(tools.store, Place(len(unit.files), 0, ""))


@contextmanager
def _with_later_faults(position: int, unit: Unit, job: Job, tools: Tools) -> Iterator[None]:
    try:
        yield
    except OF_ONE_INPUT as fault:
        raise with_later_faults(fault, position, unit, job, tools.fetcher, tools.scratch) from None


def _counters(batch: list[Document | Reject], outcomes: list[Ids | Reject], bad: int, input_bytes: int) -> Counters:
    kept = [ids for ids in outcomes if not isinstance(ids, Reject)]
    return Counters(
        input_bytes=input_bytes,
        text_bytes=sum(len(item.text) for item in batch if isinstance(item, Document)),
        documents=len(kept),
        tokens=sum(map(len, kept)),
        bad=bad,
    )


def _ids_kept(store: Store, finished: list[Part], position: int) -> SeenIds:
    """The ids of a file's documents in the shards of finished parts."""
    seen = SeenIds()
    for part in finished:
        if part.shard and position in part.ledgers:
            reader = ShardReader(io.BytesIO(store.read(part.shard.path)), part.shard.path)
            for block in range(reader.blocks):
                table = reader.table(block, ["document_id", "file"])
                seen.add(table.filter(pc.equal(table["file"], position))["document_id"].to_pylist())
    return seen
