"""Of a small dataset more can be held out than it lists: the ids of all its documents decide which."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bamba_data.errors import CorruptShard, UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.format.holdout_candidates import id_hash
from bamba_data.tokenization.conformance import Certificate
from loader import TextSource, build_loader
from loader.open_data import identities
from loader.packing.base import heldout_of
from loader.sources import every_document
from loader.sources.every_document import for_holdout, listing_all
from loader.sources.shards import ShardBlocks, open_blocks
from tests.corpora import TOKENIZER
from tests.loader.real import all_rows, documents, in_memory, oracle, publish

MADE: dict[str, Any] = {"weights": {"code": 3, "prose": 5}, "row_tokens": 24, "batch_rows": 7, "seed": 11}


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_rows_and_held_out_documents_are_those_of_the_oracle(mixed: Path, cache: Path, packing: str) -> None:
    made = MADE | {"packing": packing, "holdout": 0.2, "cache": cache}
    loader = build_loader(str(mixed), **made)
    if packing == "chunk":
        found = all_rows(list(itertools.islice(loader, 60)), list(loader.plan.source_names))
        wanted = oracle(mixed, loader.plan, 420)
        assert all(row == wanted.row(g)._replace(tokens=[]) for g, row in found.items()) and len(found) == 420
    held = build_loader(str(mixed), **made, split="holdout", delimiters="none")
    rows = [row for batch in held for row, g in zip(batch["input_ids"], batch["row"], strict=True) if g >= 0]
    ids = sorted(token for row in rows for token in row.tolist() if token)
    by_id = in_memory(mixed, 200_000)
    held_out = [by_id[name].blocks[b][d] for name in MADE["weights"] for b, d in by_id[name].heldout]
    assert ids == sorted(token for document in held_out for token in document if token)
    assert 10 < len(held_out) < 40, "a fifth of 100"


def test_a_larger_share_holds_out_all_of_a_smaller_one(mixed: Path, cache: Path) -> None:
    blocks = open_blocks(open_dataset(str(mixed)), cache)["prose"]
    listed = listing_all(blocks)
    asked = [(blocks, 500), (blocks, 5000), (listed, 5000), (listed, 10**5)]
    found = [heldout_of(one, ppm) for one, ppm in asked]
    held = [set(zip(one.blocks.tolist(), one.documents.tolist(), strict=True)) for one in found]
    assert held[0] <= held[1] == held[2] < held[3]


def test_plans_that_hold_out_what_is_listed_are_as_they_were(mixed: Path, cache: Path) -> None:
    first = build_loader(str(mixed), **MADE, cache=cache, holdout=0.005)
    assert not (cache / "document_hashes").exists(), "no id was read"
    blocks = open_blocks(open_dataset(str(mixed)), cache)
    assert first.plan.sources["prose"] == blocks["prose"].identity
    more = build_loader(str(mixed), **MADE, cache=cache, holdout=0.1)
    assert more.plan.sources == {name: identities(str(mixed), cache, 0.1)[name] for name in MADE["weights"]}
    assert not set(more.plan.sources.values()) & {one.identity for one in blocks.values()}
    again = build_loader(str(mixed), plan=more.plan, cache=cache)
    for one, other in itertools.islice(zip(more, again, strict=True), 5):
        assert one["input_ids"].equal(other["input_ids"])
    with pytest.raises(UserError, match=r"holdout is 0.2, and the plan that is given has 0.1"):
        build_loader(str(mixed), plan=more.plan, holdout=0.2, cache=cache)


def test_other_processes_have_the_same_order(mixed: Path, cache: Path) -> None:
    blocks = for_holdout(open_blocks(open_dataset(str(mixed)), cache), 50_000)["prose"]
    other = pickle.loads(pickle.dumps(blocks))
    assert other.identity == blocks.identity
    assert np.array_equal(other.candidates.hash, blocks.candidates.hash)
    made = MADE | {"holdout": 0.2, "cache": cache}
    alone, worked = build_loader(str(mixed), **made), build_loader(str(mixed), **made, num_workers=1)
    for one, two in itertools.islice(zip(alone, worked, strict=True), 3):
        assert one["input_ids"].equal(two["input_ids"])
    worked.close()


def test_ids_are_read_once_a_host_and_damage_of_what_is_kept_is_seen(
    mixed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = ShardBlocks.document_ids
    monkeypatch.setattr(ShardBlocks, "document_ids", lambda self, block: [reads.append(block), read(self, block)][1])
    blocks = open_blocks(open_dataset(str(mixed)), cache)["prose"]
    first = listing_all(blocks)
    once = len(reads)
    assert once == len(blocks.documents) and listing_all(blocks).identity == first.identity and len(reads) == once
    (kept,) = (cache / "document_hashes").iterdir()
    kept.chmod(0o644)
    body = bytearray(kept.read_bytes())
    body[100] ^= 1
    kept.write_bytes(body)
    assert listing_all(blocks).identity == first.identity and len(reads) == 2 * once


def test_ids_that_are_not_the_manifest_s_are_refused(mixed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = open_blocks(open_dataset(str(mixed)), cache)["prose"]
    monkeypatch.setattr(every_document, "id_hash", lambda name: id_hash(name + "?"))
    with pytest.raises(CorruptShard, match="the ids of documents of source prose are not those of the manifest"):
        listing_all(blocks)


def test_the_same_texts_under_other_ids_are_another_order(certificate: Certificate, tmp_path: Path) -> None:
    rows = documents(20, 100)
    found = []
    for name in ("a", "b"):
        own = [row | {"id": f"{name}-{row['id']}"} for row in rows]
        data = str(publish(tmp_path / name, certificate, {"prose": own}))
        found.append([identities(data, tmp_path / "cache", share)["prose"] for share in (0.0, 0.05)])
    assert found[0][1] != found[1][1]
    plan = build_loader(str(tmp_path / "a" / "dataset"), holdout=0.05, cache=tmp_path / "cache").plan
    with pytest.raises(UserError, match="is other data"):
        build_loader(str(tmp_path / "b" / "dataset"), plan=plan, cache=tmp_path / "cache")


def test_a_source_that_is_too_large_and_text_say_what_they_can(
    mixed: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_document, "MOST_DOCUMENTS", 45)
    with pytest.raises(UserError, match=r"holdout is 0.05: of source 'prose' it can be 0.005 at most \(it has 60"):
        build_loader(str(mixed), **MADE, holdout=0.05, cache=cache)
    rows = documents(4, 50)
    table = pa.table({name: [row[name] for row in rows] for name in ("id", "text")})
    pq.write_table(table, tmp_path / "text.parquet")
    text = TextSource("text", [str(tmp_path / "text.parquet")], str(TOKENIZER))
    with pytest.raises(UserError, match=r"of source 'text' it can be 0.005 at most"):
        build_loader(text, holdout=0.05, cache=cache)


def test_where_nothing_is_held_out_the_share_that_is_enough_is_named(certificate: Certificate, tmp_path: Path) -> None:
    data = publish(tmp_path, certificate, {"prose": documents(40, 100)})
    with pytest.raises(UserError, match=r"0.05 % of 40 documents is none.*\(holdout, such as 0.2\)"):
        build_loader(str(data), split="holdout", cache=tmp_path / "cache")
    assert len(list(build_loader(str(data), split="holdout", holdout=0.2, row_tokens=64, cache=tmp_path / "cache"))) > 0
