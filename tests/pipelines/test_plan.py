"""The plan: fixed by recipe and lock alone; a unit's key changes with everything that can change its bytes, and with
nothing else."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.errors import RecipeError
from bamba_data.locking.lock import Lock, resolve
from bamba_data.recipe import Recipe, load
from bamba_data.sources.base import Source
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts, LockedFile
from pipelines.dataset_build.plan import Plan, Unit, make

TOKENIZER = "7" * 64


def recipe(**changes: Any) -> Recipe:
    """Two sources; the changes are overrides, by dotted name."""
    corpora = [
        {"corpus": "folder", "name": name, "base": "x", "form": "jsonl", "files": ["*.jsonl"]} for name in ("a", "b")
    ]
    text = json.dumps({"name": "x", "tokenizer": {"url": "t.json"}, "corpora": corpora, "unit_bytes": 100})
    return load(text, "x", [f"{field}={json.dumps(value)}" for field, value in changes.items()])


def locked(chosen: Recipe, sizes: dict[str, list[int | None]]) -> Lock:
    files = [
        LockedFile(name, f"{n:03d}.jsonl", f"/x/{n:03d}.jsonl", Facts(size, f"mtime:{n}"))
        for name, of_one in sizes.items()
        for n, size in enumerate(of_one)
    ]
    return Lock({source.name: source for source in chosen.sources()}, {}, tuple(files))


SIZES: dict[str, list[int | None]] = {"a": [60, 40, 10, 10, 500, 30], "b": [5, 5]}


def plan(sizes: dict[str, list[int | None]] | None = None, tokenizer: str = TOKENIZER, **changes: Any) -> Plan:
    chosen = recipe(**changes)
    return make(chosen, locked(chosen, sizes or SIZES), tokenizer)


def keys(made: Plan) -> dict[str, str]:
    return {unit.name: unit.key for unit in made.units}


def members(made: Plan) -> list[tuple[str, list[int]]]:
    return [(unit.name, [file.number for file in unit.files]) for unit in made.units]


# -- grouping


def test_small_neighbours_stand_together_and_a_large_file_alone() -> None:
    assert members(plan({"a": [20, 20, 10, 10, 500, 30], "b": [5, 5]})) == [
        ("a/00000", [0, 1, 2, 3]),
        ("a/00001", [4]),
        ("a/00002", [5]),
        ("b/00000", [0, 1]),
    ]


def test_a_file_that_comes_first_changes_a_few_units_and_not_all() -> None:
    chosen = recipe(unit_bytes=1000)
    files = [LockedFile("a", f"{n:05d}.jsonl", f"/x/{n:05d}.jsonl", Facts(20, f"mtime:{n}")) for n in range(5000)]

    def made(files: list[LockedFile]) -> set[str]:
        sources = {source.name: source for source in chosen.sources() if source.name == "a"}
        return {unit.key for unit in make(chosen, Lock(sources, {}, tuple(files)), TOKENIZER).units}

    before = made(files)
    first = LockedFile("a", "0-first.jsonl", "/x/0-first.jsonl", Facts(20, "mtime:x"))
    assert len(before) > 100
    assert len(made([first, *files]) - before) < 12
    assert len(made(files[1:]) - before) < 12
    assert len(made([*files[:2500], *files[2501:]]) - before) < 12


@given(
    of_a=st.lists(st.none() | st.integers(0, 300), min_size=1, max_size=20),
    of_b=st.lists(st.none() | st.integers(0, 300), min_size=1, max_size=5),
    unit_bytes=st.integers(1, 400),
)
@settings(max_examples=150, deadline=None)
def test_every_file_is_in_one_unit_in_order_and_no_unit_is_larger_than_it_must_be(
    of_a: list[int | None], of_b: list[int | None], unit_bytes: int
) -> None:
    sizes = {"a": of_a, "b": of_b}
    made = plan(sizes, unit_bytes=unit_bytes, **{"bad_input.empty_files": "keep"})
    covered = [(unit.source, file.number, file.locked) for unit in made.units for file in unit.files]
    numbers = dict.fromkeys(sizes, 0)
    expected = []
    for file in made.lock.files:
        expected.append((file.source, numbers[file.source], file))
        numbers[file.source] += 1
    assert covered == expected
    for unit in made.units:
        assert unit.files
        assert unit.size_bytes == sum(file.locked.facts.size_bytes or 0 for file in unit.files)
        assert len(unit.files) == 1 or unit.size_bytes <= unit_bytes
    assert [unit.number for unit in made.units if unit.source == "a"] == list(
        range(sum(unit.source == "a" for unit in made.units))
    )


def test_one_unit_of_every_source_is_started_first_and_then_the_largest() -> None:
    started = [
        (unit.size_bytes, unit.name)
        for unit in plan({"a": [60, 40, 10, 10, 500, 30], "b": [5, 90]}, unit_bytes=50).starting_order()
    ]
    assert started[:2] == [(500, "a/00003"), (90, "b/00001")]
    assert [size for size, _ in started[2:]] == [60, 50, 30, 10, 5]


def test_no_two_units_share_a_key() -> None:
    made = plan({"a": [60] * 50, "b": [60] * 50})
    assert len(set(keys(made).values())) == len(made.units) == 100


def test_a_plan_is_the_same_whenever_and_wherever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    for n in random.Random(0).sample(range(20), 20):
        (tmp_path / "x" / f"{n:03d}.jsonl").write_text("{}" * (n + 1))
    chosen = recipe()
    digests = set()
    for workers in ("1", "64"):
        monkeypatch.setenv("RAY_NUM_CPUS", workers)
        digests.add(make(chosen, resolve(chosen, tmp_path, Fetcher()), TOKENIZER).digest)
    assert len(digests) == 1


# -- what keys depend on


@pytest.mark.parametrize(
    "change",
    [
        {"bad_input.max_bad_rate": 0.5},
        {"network.burst": 1},
        {"network.retry_seconds": 5.0},
        {"network.requests_per_second": 1.0},
        {"name": "another"},
        {"tokenizer.backend": "tokenizers"},
        {"limits.files": 3},
        {"corpora.0.license": "CC0-1.0"},
        {"corpora.0.attribution": "somebody"},
        {"corpora.0.homepage": "https://example.org"},
        {"corpora.0.base": "elsewhere"},
        {"bad_input.empty_files": "keep"},
        {"bad_input.empty_sources": "keep"},
        {"bad_input.max_window_bytes": 1 << 30},
        {"corpora.0.compression": "auto"},
        {"corpora.0.text": {"text_field": None}},
    ],
    ids=str,
)
def test_what_cannot_change_the_bytes_changes_no_key(change: dict[str, Any]) -> None:
    assert keys(plan(**change)) == keys(plan())


@pytest.mark.parametrize(
    "change",
    [
        {"shards.block_tokens": 99},
        {"shards.blocks_per_shard": 9},
        {"bad_input.policy": {"nul": "keep"}},
        {"bad_input.max_line_bytes": 4096},
        {"bad_input.max_document_bytes": 4096},
        {"bad_input.max_inflate_ratio": 9},
        {"limits.documents": 5},
    ],
    ids=str,
)
def test_what_can_change_the_bytes_changes_every_key(change: dict[str, Any]) -> None:
    assert not set(keys(plan(**change)).values()) & set(keys(plan()).values())


def test_another_tokenizer_changes_every_key() -> None:
    assert not set(keys(plan(tokenizer="8" * 64)).values()) & set(keys(plan()).values())


@pytest.mark.parametrize(
    "change",
    [
        {"corpora.0.text": {"fields": ["body"]}},
        {"corpora.0.text": {"id_field": None}},
        {"corpora.0.text": {"join": " "}},
        {"corpora.0.form": "parquet"},
    ],
    ids=str,
)
def test_how_a_source_is_read_changes_the_keys_of_that_source_only(change: dict[str, Any]) -> None:
    before, after = keys(plan()), keys(plan(**change))
    assert {name for name in before if before[name] != after[name]} == {name for name in before if name[0] == "a"}


def changed(facts: dict[str, Any]) -> set[str]:
    """The units whose keys change when the facts of a/003.jsonl do."""
    chosen = recipe()
    before = locked(chosen, SIZES)
    files = list(before.files)
    files[3] = LockedFile("a", "003.jsonl", "/x/003.jsonl", files[3].facts._replace(**facts))
    after = Lock(before.sources, {}, tuple(files))
    one, other = keys(make(chosen, before, TOKENIZER)), keys(make(chosen, after, TOKENIZER))
    return {name for name in one if one[name] != other.get(name)}


@pytest.mark.parametrize("facts", [{"etag": "mtime:99"}, {"size_bytes": 11}], ids=str)
def test_another_input_changes_the_key_of_its_unit_only(facts: dict[str, Any]) -> None:
    assert changed(facts) == {"a/00001"}


def test_a_sha256_that_is_learned_later_keeps_finished_work_known() -> None:
    assert changed({"sha256": "5" * 64}) == set()


def test_the_digest_of_a_plan_covers_every_unit() -> None:
    digests = {plan().digest, plan({**SIZES, "b": [5, 6]}).digest, plan(tokenizer="8" * 64).digest}
    assert len(digests) == 3


@pytest.mark.parametrize(
    "change", [{"corpora.0.compression": "gzip"}, {"corpora.0.text": {"text_field": ["text", "content"]}}], ids=str
)
def test_how_a_source_is_read_changes_the_keys_of_that_source(change: dict[str, Any]) -> None:
    before, after = keys(plan()), keys(plan(**change))
    assert {name.partition("/")[0] for name in before if before[name] != after[name]} == {"a"}


# -- quarantine


def quarantining(*files: str) -> Plan:
    change: dict[str, Any] = {"bad_input.quarantine": list(files)}
    return plan(**change)


def test_a_quarantined_file_keeps_its_place_and_changes_the_key_of_its_unit_only() -> None:
    before, after = plan(), quarantining("a/003.jsonl")
    assert members(after) == members(before)
    assert {name for name in keys(before) if keys(before)[name] != keys(after)[name]} == {"a/00001"}


def test_only_what_is_quarantined_is_marked() -> None:
    made = quarantining("a/003.jsonl")
    assert [file.locked.key for unit in made.units for file in unit.files if file.quarantined] == ["a/003.jsonl"]


@pytest.mark.parametrize("name", ["a/999.jsonl", "003.jsonl", "c/003.jsonl", "a/", ""])
def test_a_quarantine_of_no_input_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"bad_input\.quarantine: .* are no inputs of this recipe; an input is named"):
        quarantining("a/000.jsonl", name)


# -- what it would cost


def test_the_estimate_grows_with_what_the_inputs_inflate_to() -> None:
    def estimate(suffix: str) -> float:
        chosen = recipe()
        source = next(iter(chosen.sources()))
        file = LockedFile("a", f"x{suffix}", f"/x{suffix}", Facts(1000, "e"))
        return make(chosen, Lock({"a": source}, {}, (file,)), TOKENIZER).estimate().text_bytes

    assert estimate(".jsonl") == 1000 < estimate(".parquet") < estimate(".json.gz")


def test_twenty_thousand_files_make_twenty_thousand_units() -> None:
    chosen = recipe(unit_bytes=1)
    source: Source = chosen.sources()[0]
    files = tuple(LockedFile("a", f"{n}", f"/{n}", Facts(10, "e")) for n in range(20_000))
    units: tuple[Unit, ...] = make(chosen, Lock({"a": source}, {}, files), TOKENIZER).units
    assert len({unit.key for unit in units}) == 20_000
