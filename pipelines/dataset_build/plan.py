"""The plan: work units, fixed before the run and the same whatever the cluster.

A unit is one large input file, or several small neighbours of one source up to `unit_bytes`. It is a pure
function of its key: the inputs as locked and everything in the recipe that can change the bytes that come out. Where
its files stand among those of the source is no part of it, and where neighbours are parted depends on them alone: a
file that comes or goes changes the unit that it is in, or one or two around it, and no other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import xxhash

from bamba_data import canonical_json
from bamba_data.document import FILTERED, REASONS
from bamba_data.filtering.transform_source import Code
from bamba_data.locking.exclusions import quarantined, refuse_empty, refuse_unasked
from bamba_data.locking.lock import Lock
from bamba_data.recipe import BadInput, Recipe
from bamba_data.sources.base import Source
from bamba_data.storage.locked_file import LockedFile
from bamba_data.tokenization.conformance import Certificate

#: Raise it when code changes what a unit's bytes are: staged work of older code is then ignored.
UNIT_VERSION = 3

TEXT_BYTES_A_TOKEN = 4.2  # English prose; code has less
SHARD_BYTES_A_TOKEN = 1.4  # benchmarks/shard_format.py measures 1.353
#: Text bytes a stored byte, by suffix; rough means over the open corpora, for estimates alone.
INFLATED = {".gz": 2.8, ".zst": 3.0, ".bz2": 3.4, ".xz": 3.6, ".parquet": 1.8}
TEXT_BYTES_A_CORE_SECOND = 25e6  # benchmarks/tokenize_end_to_end.py, one core


@dataclass(frozen=True, slots=True)
class UnitFile:
    """An input of a unit. `number` is its place among the files of its source: shards say `file` from the first on."""

    number: int
    locked: LockedFile
    quarantined: bool


@dataclass(frozen=True, slots=True)
class Unit:
    """`number` counts within the source. `key` names its staged work; `base` is what the unit is apart from the rules
    for bad input (see reuse.py)."""

    source: str
    number: int
    key: str
    base: str
    files: tuple[UnitFile, ...]
    size_bytes: int

    @property
    def name(self) -> str:
        return f"{self.source}/{self.number:05d}"

    @property
    def label(self) -> str:
        """Begins the names of its shards: of the paths of its inputs alone. The key would not do: an etag is in it, and
        so the time when a local file was copied, and a manifest says nothing of the machine that made it."""
        return canonical_json.digest([self.source, [file.locked.path for file in self.files]])[:12]

    @property
    def is_remote(self) -> bool:
        return any(file.locked.is_remote for file in self.files)


@dataclass(frozen=True)
class Job:
    """What all units of a build share; small enough to travel with each. `code` has the sources of transforms."""

    recipe: Recipe
    sources: dict[str, Source]
    tokenizer_sha256: str
    certificate: Certificate
    out: str
    code: Code = field(default_factory=dict)

    @property
    def backend(self) -> str:
        return self.certificate.backend


@dataclass(frozen=True)
class Estimate:
    """Rough arithmetic for people; it decides no more than how many workers a small build starts."""

    text_bytes: float
    tokens: float
    shard_bytes: float
    core_seconds: float


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    lock: Lock
    units: tuple[Unit, ...]

    @property
    def input_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.units)

    @property
    def digest(self) -> str:
        return canonical_json.digest([unit.key for unit in self.units])

    def estimate(self) -> Estimate:
        text = text_bytes(self.units)
        tokens = text / TEXT_BYTES_A_TOKEN
        return Estimate(text, tokens, tokens * SHARD_BYTES_A_TOKEN, text / TEXT_BYTES_A_CORE_SECOND)

    def starting_order(self) -> list[Unit]:
        """The order in which to start them: one of every source, so that a source which is not what the recipe says
        shows at once; then the largest, so that none is left for the end."""
        # Ties by name, so that the order is the same on every machine.
        by_size = sorted(self.units, key=lambda unit: (-unit.size_bytes, unit.source, unit.number))
        first = {unit.source: unit for unit in reversed(by_size)}
        return sorted(by_size, key=lambda unit: first[unit.source] is not unit)


def make(recipe: Recipe, lock: Lock, tokenizer_sha256: str) -> Plan:
    """The plan of a recipe under its lock. Raises InputFaults where inputs are empty and the recipe does not keep such.

    The groups of files are chosen by content-defined chunking, over paths in place of bytes
    (https://pdos.csail.mit.edu/papers/lbfs:sosp01/lbfs.pdf, 3.1).
    """
    left_out = quarantined(recipe.bad_input.quarantine, (file.key for file in lock.files))
    taken = [file for file in lock.files if file.key not in left_out]
    refuse_unasked(taken)
    refuse_empty(taken, recipe.bad_input)
    units: list[Unit] = []
    rules = _rules(recipe.bad_input)
    for name, source in lock.sources.items():
        shared = _shared(recipe, source, tokenizer_sha256)
        for number, files in enumerate(_groups(lock.by_source[name], left_out, recipe.unit_bytes)):
            base = _key_of(shared, [_told(file) for file in files])
            units.append(
                Unit(
                    source=name,
                    number=number,
                    key=_key_of([base], *rules),
                    base=base,
                    files=files,
                    size_bytes=sum(file.locked.facts.size_bytes or 0 for file in files),
                )
            )
    return Plan(recipe, lock, tuple(units))


def _groups(files: list[LockedFile], left_out: set[str], unit_bytes: int) -> Iterator[tuple[UnitFile, ...]]:
    """Neighbours together, up to `unit_bytes`. A quarantined file keeps its place, so no other unit changes.

    From half of that on a group may end early, before a file whose path says so by its hash: so groups fall into step
    again soon after a file that came or went, and are not all shifted.
    """
    group: list[UnitFile] = []
    group_bytes = 0
    for number, file in enumerate(files):
        size = file.facts.size_bytes or 0
        is_full = group_bytes + size > unit_bytes
        if group and (is_full or (group_bytes >= unit_bytes // 2 and _parts_here(file, unit_bytes))):
            yield tuple(group)
            group, group_bytes = [], 0
        group.append(UnitFile(number, file, file.key in left_out))
        group_bytes += size
    if group:
        yield tuple(group)


def _parts_here(file: LockedFile, unit_bytes: int) -> bool:
    """Once in a quarter of `unit_bytes`, on average; sure before a file of that size."""
    # Of the path, not of the content: the content is not known before it was read.
    share = 4 * (file.facts.size_bytes or 0) / unit_bytes
    return bool(xxhash.xxh3_64_intdigest(file.path.encode()) < share * 2**64)


def _rules(rules: BadInput) -> list[Any]:
    """What the key of a unit depends on beside its base, and nothing else: of the rules those that some record may
    meet; whether one did is known only afterwards."""
    matters = rules.model_dump(mode="json", exclude={"quarantine", "policy", *BadInput.verdict_only})
    actions = {reason: rules.action(reason) for reason in sorted(REASONS)}
    actions |= {reason: action for reason, action in rules.policy.items() if reason in FILTERED}
    return [matters, actions]


def _shared(recipe: Recipe, source: Source, tokenizer: str) -> list[Any]:
    """What the base of a unit depends on beside its files, and nothing else."""
    return [
        UNIT_VERSION,
        source.model_dump(mode="json", include={"name", "form", "text", "compression", "where", "transform"}),
        tokenizer,
        recipe.shards.model_dump(mode="json"),
        recipe.limits.documents,
    ]


def _key_of(begin: list[Any], *end: Any) -> str:
    """sha256 of what bytes depend on, its first 32 hex digits."""
    return canonical_json.digest([*begin, *end])[:32]  # 128 bits: two of 10**9 units meet at odds of 10**-21


def _told(file: UnitFile) -> list[Any]:
    return [file.locked.path, file.locked.facts.size_bytes, _identity(file.locked), file.quarantined]


def _identity(file: LockedFile) -> str | None:
    """The etag where there is one: a sha256 that is learned later must not make finished work unknown."""
    return file.facts.etag or file.facts.sha256


def text_bytes(units: Iterable[Unit]) -> float:
    """About how much text the inputs of these units hold."""
    return sum(
        (file.locked.facts.size_bytes or 0) * _inflated(file.locked.path) for unit in units for file in unit.files
    )


def core_seconds(units: Iterable[Unit]) -> float:
    """About how long they take on one core."""
    return text_bytes(units) / TEXT_BYTES_A_CORE_SECOND


def _inflated(path: str) -> float:
    return next((ratio for suffix, ratio in INFLATED.items() if path.endswith(suffix)), 1.0)
