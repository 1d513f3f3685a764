"""What a page says is what the dataset is, bounded, the same every time; and no text in it becomes part of the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.format.dataset import open_dataset
from bamba_data.page import lengths as measuring
from bamba_data.page.content import content
from bamba_data.page.documents import Documents
from bamba_data.page.file import encoded, page
from bamba_data.page.planned import PlannedMix
from bamba_data.tokenization.tokenizer import Tokenizer
from loader.order.plan import MixPlan
from loader.planned_mix import planned_mix
from loader.sources.shards import content_name
from tests.corpora import records
from tests.forging import many_shards

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '" onload="alert(1)\' & &lt;',
    "\u202eright to left",
    "nul \x00 \x1b[2J",
    "\u2028\u2029\ud800",
    "x" * 5_000,
]


def of(root: Path, **more: Any) -> dict[str, Any]:
    dataset = open_dataset(str(root))
    return json.loads(json.dumps(content(dataset, url=dataset.store.url, **more)))


def test_samples_are_documents_of_the_dataset_with_the_place_that_they_came_from(tiny: Path) -> None:
    values = of(tiny, documents=100)
    texts = {record["text"] for record in [*records(42, 0, text_chars=700), *records(20, 100, text_chars=900)]}
    shown = [one for source in values["samples"] for one in source["documents"]]
    assert len(shown) == values["dataset"]["totals"]["kept"] == 62
    assert [source["faults"] for source in values["samples"]] == [[], []]
    lines = [one for one in shown if one["source"] == "lines"]
    assert {one["file"] for one in lines} == {"0.json.gz", "1.json.gz", "2.json.gz"}
    assert {one["id"] for one in lines if one["file"] == "2.json.gz"} == {f"doc-{n}" for n in range(28, 42)}
    assert [one["number"] for one in lines] == list(range(42))
    assert any(one["text"] in text for one in shown for text in texts)


def test_a_page_is_the_same_every_time_and_holds_few_samples_of_many(tiny: Path) -> None:
    once, again = of(tiny, documents=5), of(tiny, documents=5)
    assert once == again and page(once) == page(again)
    assert [len(source["documents"]) for source in once["samples"]] == [5, 5]
    assert of(tiny, documents=0)["samples"] == []


def test_a_long_text_is_cut_and_says_so(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    documents = Documents(dataset, "lines", Tokenizer(dataset.tokenizer_json()))
    found = documents.read(0)
    (short,) = documents.shown(0, found[:1], max_chars=10)
    assert len(short.text) == 10 and short.cut
    (whole,) = documents.shown(0, found[:1])
    assert not whole.cut and whole.text.startswith(short.text)


def test_what_was_dropped_is_on_no_page(tiny_copy: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("doc-3\ndoc-30\n")
    drop(str(tiny_copy), read_list(listed))
    values = of(tiny_copy, documents=100)
    ids = {one["id"] for source in values["samples"] for one in source["documents"]}
    assert len(ids) == 60 and not ids & {"doc-3", "doc-30"}
    newest, first = values["history"]["shown"]
    assert (newest["number"], newest["command"], newest["documents"]) == (2, "drop", 60)
    assert [parent["number"] for parent in newest["parents"]] == [1]
    assert (first["number"], first["command"], first["documents"]) == (1, "build", 62)
    assert sum(sum(one["counts"]) for one in values["lengths"]["histograms"]) == 60


def test_the_ledger_and_the_raw_bytes_of_bad_records_are_there(tiny: Path) -> None:
    values = of(tiny)
    (file,) = values["files"]["shown"]
    counts = (file["path"], file["read"], file["kept"], file["dropped"], file["dead_lettered"])
    assert counts == ("1.json.gz", 17, 14, 1, 2)
    assert values["files"]["all"] == 4
    letters = {one["reason"]: bytes.fromhex(one["raw"]) for one in values["letters"]["shown"]}
    assert letters == {"bad_json": b"not json", "missing_text": b'{"id": "bad"}'}
    assert values["letters"]["of"] == 2


def test_a_shard_that_is_damaged_is_said_and_hides_nothing_else(tiny_copy: Path) -> None:
    shard = open_dataset(str(tiny_copy)).shards["path"][0]
    (tiny_copy / shard).unlink()
    values = of(tiny_copy, documents=100)
    faults = [fault for source in values["samples"] for fault in source["faults"]]
    assert faults and all(fault == f"{shard}: is missing" for fault in faults)
    assert sum(len(source["documents"]) for source in values["samples"]) > 40


def test_of_many_shards_lengths_are_of_what_the_manifest_lists(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = of(tiny_copy)["lengths"]
    assert every["one_in"] == 1 and [one["measured"] for one in every["histograms"]] == [42, 20]
    monkeypatch.setattr(measuring, "MAX_SHARDS", 1)
    listed = of(tiny_copy)["lengths"]
    candidates = open_dataset(str(tiny_copy)).candidates
    assert listed["one_in"] == 200 and sum(one["measured"] for one in listed["histograms"]) == len(candidates)


def test_a_page_does_not_grow_with_the_shards(tiny_copy: Path) -> None:
    few_chars = len(page(of(tiny_copy)))
    many_shards(tiny_copy, 400)
    assert len(page(of(tiny_copy))) < few_chars + 4_000


def test_the_mix_of_a_plan_is_in_shares_and_other_data_is_named(tiny: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(tiny))
    identity = content_name(dataset.identities["lines"].content, dataset)
    plan = MixPlan.create(
        {"lines": 3, "other": 1}, {"lines": identity, "other": "content:00/00"}, 8,
        seed=1, row_tokens=128, before=[], after=[0],
    ).with_mix(80, {"lines": 1, "other": 1})  # fmt: skip
    plan.save(tmp_path / "plan.json")
    planned = planned_mix(tmp_path / "plan.json", dataset)
    assert isinstance(planned, PlannedMix)
    assert [stretch.shares for stretch in planned.stretches] == [
        {"lines": 0.75, "other": 0.25},
        {"lines": 0.5, "other": 0.5},
    ]
    assert [(stretch.first_row, stretch.end) for stretch in planned.stretches] == [(0, 80), (80, None)]
    assert planned.strangers == ["other"]


def test_no_text_ends_the_element_that_holds_it() -> None:
    text = encoded({"ids": HOSTILE, "<b>": 1})
    assert not re.search("[<>&\x00-\x1f\u2028\u2029\u202e]", text)
    assert json.loads(text) == {"ids": HOSTILE, "<b>": 1}
    assert text.encode()  # halves of characters, too
    made = page({"software": "{{script}}", "url": HOSTILE, "runs": [], "live": False})
    assert made.count("<script") == 2 and "{{script}}" in made


def test_the_page_fetches_nothing_and_runs_its_own_script_alone(tiny: Path) -> None:
    made = page(of(tiny))
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', made)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "connect-src 'none'" in policy
    assert not re.search(r"(src|href)=\"?https?:", made)
