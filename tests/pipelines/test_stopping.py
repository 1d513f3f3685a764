"""An input that is not what the recipe says stops the build soon, by a rule of inputs and recipe alone, and what is
said then is enough to correct the recipe."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import BambaError, BudgetExceeded, CorruptInput, HopelessInput, NoDocuments, WrongForm
from bamba_data.format.versions import versions
from bamba_data.locking.input_faults import InputFaults
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.driver import Prepared, finish, run_here
from pipelines.dataset_build.staged_records import Staging
from pipelines.observe.counters import Counters
from tests import corpora
from tests.building import build, prepared

TEXT = "Call me Ishmael."


def write(folder: Path, name: str, records: Sequence[Any]) -> None:
    corpora.write_jsonl(folder / "inputs" / name, b"".join(json.dumps(one).encode() + b"\n" for one in records))


def good(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"id": str(n), "text": TEXT} for n in range(start, start + count)]


def bad(count: int) -> list[dict[str, Any]]:
    return [{"id": str(n), "content": TEXT, "meta": {"lang": "en"}} for n in range(count)]


class Built:
    """A build of a folder in this process: its faults, and how many records were read for it."""

    def __init__(self, folder: Path, certificate: Certificate, *overrides: str, extra: str = "", form: str = "jsonl"):
        recipe = corpora.recipe(folder, ["*"], form, extra=extra)
        self.ready: Prepared = prepared(folder / "out", certificate, str(recipe), overrides)
        self.records = 0
        self.faults: list[BambaError] = run_here(self.ready, Fetcher(), self._count)

    def _count(self, progress: Counters) -> None:
        self.records += progress.documents + progress.bad

    @property
    def fault(self) -> BambaError:
        (fault,) = self.faults
        return fault


def test_content_in_place_of_text_stops_after_a_thousand_records_and_names_the_field(
    tmp_path: Path, certificate: Certificate
) -> None:
    for n in range(3):
        write(tmp_path, f"{n}.jsonl.gz", bad(12_000))
    built = Built(tmp_path, certificate, "unit_bytes=1")
    assert isinstance(built.fault, HopelessInput)
    message = str(built.fault)
    assert "texts/0.jsonl.gz: 1,000 of its first 1,000 records are bad, so it was not read on" in message
    assert "row 0 is missing_text (no field 'text'); its fields are id, content, meta.lang" in message
    assert "is it `text: {text_field: content}`?" in message
    assert "max_bad_rate" not in message  # no rate would publish anything
    assert "drop" not in message
    assert built.records < 5000
    letters = message.partition("They lie in ")[2].partition(". ")[0]
    assert open_store(tmp_path / "out").stat(letters)


def test_what_the_message_advises_is_what_helps(tmp_path: Path, certificate: Certificate) -> None:
    write(tmp_path, "0.jsonl", bad(1200))
    _, manifest = build(
        tmp_path / "out",
        certificate,
        str(corpora.recipe(tmp_path, ["*"])),
        ["corpora.0.text={text_field: content}"],
    )
    assert manifest.totals.kept == 1200


def test_the_verdict_is_the_same_whatever_was_finished_before_and_wherever_parts_end(
    tmp_path: Path, certificate: Certificate
) -> None:
    """Half of the records are good, so that parts are finished before the thousandth bad one."""
    mixed = [one for pair in zip(good(3000), bad(3000), strict=True) for one in pair]
    write(tmp_path, "0.jsonl", mixed)
    small = ["shards.block_tokens=256", "shards.blocks_per_shard=2"]
    first = Built(tmp_path, certificate, *small)
    (unit,) = first.ready.plan.units
    assert len(Staging(first.ready.store).parts(unit.source, unit.key)) > 5
    again = Built(tmp_path, certificate, *small)  # goes on where the first was
    parts = [str(built.fault).partition(". They lie")[0].partition(": row")[0] for built in (first, again)]
    assert parts == ["texts/0.jsonl: 1,000 of its first 2,000 records are bad, so it was not read on"] * 2


@pytest.mark.parametrize("rate", ["0.06", "1"])
def test_a_build_that_was_stopped_goes_on_to_the_same_bytes_when_more_is_allowed(
    rate: str, tmp_path: Path, certificate: Certificate
) -> None:
    records = [one for n in range(1000) for one in [*good(1, n), *bad(1)]]
    for folder in ("stopped", "free"):
        write(tmp_path / folder, "0.jsonl", [*records, *good(40_000, 5000)])
    assert isinstance(Built(tmp_path / "stopped", certificate).fault, HopelessInput)
    digests = []
    for folder in ("stopped", "free"):
        built = Built(tmp_path / folder, certificate, f"bad_input.max_bad_rate={rate}")
        assert not built.faults
        digests.append(finish(built.ready)[1].tables.shards)
    assert digests[0] == digests[1]


def test_many_small_files_are_counted_together(tmp_path: Path, certificate: Certificate) -> None:
    for n in range(30):
        write(tmp_path, f"{n:02d}.jsonl", bad(60))
    fault = Built(tmp_path, certificate).fault
    assert str(fault).startswith("texts/00.jsonl to texts/16.jsonl: 1,000 of its first 1,000 records are bad")


def test_a_file_that_is_bad_among_good_ones_of_its_unit_is_named(tmp_path: Path, certificate: Certificate) -> None:
    write(tmp_path, "0.jsonl", good(15_000))
    write(tmp_path, "1.jsonl", bad(2000))
    message = str(Built(tmp_path, certificate).fault)
    assert message.startswith("texts/1.jsonl: 1,000 of its first 1,000 records are bad")
    assert "--quarantine 'texts/1.jsonl'" in message


def test_what_the_recipe_drops_is_not_bad(tmp_path: Path, certificate: Certificate) -> None:
    write(tmp_path, "0.jsonl", [*bad(3000), *good(5)])
    built = Built(tmp_path, certificate, "bad_input.policy={missing_text: drop}")
    assert not built.faults
    assert finish(built.ready)[1].totals.kept == 5


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (json.dumps(good(50)).encode(), "its lines are JSON arrays, not objects: jq -c"),
        (json.dumps(good(500), indent=2).encode(), "it looks like one JSON array"),
        ("\n".join(json.dumps(one, indent=2) for one in good(500)).encode(), "its records go over several lines"),
        (b"\r".join(json.dumps(one).encode() for one in good(50)), "its lines end with CR alone: tr"),
        (b"id,text\n" + b"1,hello\n" * 50, "it looks like a table of commas (CSV)"),
    ],
)
def test_a_file_of_another_shape_is_explained_however_small_it_is(
    data: bytes, told: str, tmp_path: Path, certificate: Certificate
) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/0.jsonl").write_bytes(data)
    built = Built(tmp_path, certificate)
    with pytest.raises(BudgetExceeded) as caught:
        raise built.faults[0] if built.faults else _unpublishable(built)
    assert told in str(caught.value)
    assert "max_bad_rate=" not in str(caught.value)


def _unpublishable(built: Built) -> BambaError:
    with pytest.raises(BambaError) as caught:
        finish(built.ready)
    assert versions(built.ready.store) == []
    return caught.value


def test_a_few_bad_records_are_over_the_budget_at_the_end_and_the_rate_that_is_advised_publishes(
    tmp_path: Path, certificate: Certificate
) -> None:
    write(tmp_path, "0.jsonl", [*good(400), *bad(7)])
    message = str(_unpublishable(Built(tmp_path, certificate)))
    assert message.startswith("7 of 407 records are bad (missing_text 7): a rate of 0.017, bad_input.max_bad_rate is")
    assert "In 0.jsonl row 400 is missing_text (no field 'text'); its fields are id, content, meta.lang" in message
    advised = message.rpartition("--set ")[2]
    built = Built(tmp_path, certificate, advised)
    assert built.records == 0  # nothing is computed twice
    assert finish(built.ready)[1].totals.kept == 400


def test_a_source_without_a_document_is_not_published_unless_the_recipe_says_so(
    tmp_path: Path, certificate: Certificate
) -> None:
    write(tmp_path, "0.jsonl", bad(5))
    drop = "bad_input.policy={missing_text: drop}"
    error = _unpublishable(Built(tmp_path, certificate, drop))
    assert isinstance(error, NoDocuments)
    assert "texts: 5 records read: dropped missing_text 5" in str(error)
    built = Built(tmp_path, certificate, drop, "bad_input.empty_sources=keep")
    assert finish(built.ready)[1].totals.kept == 0


def test_bad_records_alone_get_no_advice_of_a_rate_that_publishes_nothing(
    tmp_path: Path, certificate: Certificate
) -> None:
    write(tmp_path, "0.jsonl", bad(5))
    assert "max_bad_rate=" not in str(_unpublishable(Built(tmp_path, certificate)))
    assert isinstance(_unpublishable(Built(tmp_path, certificate, "bad_input.max_bad_rate=1.0")), NoDocuments)


def test_hundreds_of_empty_parts_are_kept_by_a_policy_and_counted(tmp_path: Path, certificate: Certificate) -> None:
    write(tmp_path, "0.jsonl", good(5))
    for n in range(1, 300):
        (tmp_path / f"inputs/{n:03d}.jsonl.gz").touch()
    with pytest.raises(InputFaults, match="299 inputs cannot be read"):
        Built(tmp_path, certificate)
    _, manifest = finish(Built(tmp_path, certificate, "bad_input.empty_files=keep").ready)
    assert (manifest.totals.kept, manifest.totals.notes["empty_file"]) == (5, 299)


def test_all_inputs_of_a_unit_that_cannot_be_read_are_told_in_one_run(tmp_path: Path, certificate: Certificate) -> None:
    write(tmp_path, "0.jsonl", good(5))
    for name, data in {"1.jsonl": b"PK\3\4zip", "2.jsonl.gz": b"\x1f\x8bdamage", "4.jsonl": b"PAR1"}.items():
        (tmp_path / "inputs" / name).write_bytes(data)
    write(tmp_path, "3.jsonl", good(5))
    fault = Built(tmp_path, certificate).fault
    assert isinstance(fault, InputFaults)
    assert [type(one) for one in fault.faults] == [WrongForm, CorruptInput, WrongForm]
    assert fault.exit_code == 5
