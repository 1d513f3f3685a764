"""Text that is tokenized on the fly is served in the order that its index promises, token for token, or not at all."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from bamba_data.errors import BudgetExceeded, CorruptManifest, StaleIndex, UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.format.holdout_candidates import LIMIT, id_hash
from bamba_data.recipe import BadInput
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer
from loader import Reading, TokenDataset, build_loader
from loader.lineage import origins
from loader.sources.shards import open_blocks
from loader.text.open import open_text
from tests.building import build
from tests.corpora import recipe, records, write_parquet
from tests.loader.oracle import MemoryBlocks, Oracle
from tests.loader.texts import LENIENT, documents, index, opened, served, source, write_rows, write_texts

MESSY_TEXTS = ["a", None, "", "b b", "a\0c", "twice", "more text"] * 3
MESSY_IDS = ["1", "2", "3", "4", "5", "4", "7"] + [f"x{n}" for n in range(14)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


def test_every_document_has_the_tokens_that_a_published_dataset_has_of_it(
    tmp_path: Path, certificate: Certificate
) -> None:
    write_texts(tmp_path / "inputs")
    write_rows(tmp_path / "inputs" / "messy.parquet", MESSY_TEXTS, MESSY_IDS)
    path = recipe(tmp_path, ["*.parquet"], "parquet", extra="bad_input: {max_bad_rate: 1.0}")
    build(tmp_path / "out", certificate, str(path))
    shards = open_blocks(open_dataset(str(tmp_path / "out")), tmp_path / "cache")["texts"]
    wanted = [ids.tolist() for block in range(len(shards.tokens)) for ids in shards.read(block).documents()]
    blocks = opened(source(tmp_path / "inputs", rules=LENIENT), tmp_path / "cache", certificate)
    assert documents(blocks) == wanted
    assert sorted(blocks.candidates.hash) == sorted(shards.candidates.hash)


def test_the_account_says_what_was_left_out_and_why(tmp_path: Path, certificate: Certificate) -> None:
    write_rows(tmp_path / "in" / "messy.parquet", MESSY_TEXTS, MESSY_IDS)
    totals = index(source(tmp_path / "in", rules=LENIENT), tmp_path / "index", certificate, tmp_path).totals
    assert (totals.read, totals.kept) == (21, 11)
    assert (totals.dropped, totals.dead_lettered) == (
        {"empty_text": 3},
        {"duplicate_id": 1, "missing_text": 3, "nul": 3},
    )


def test_too_many_bad_records_make_no_index(tmp_path: Path, certificate: Certificate) -> None:
    write_rows(tmp_path / "in" / "messy.parquet", MESSY_TEXTS, MESSY_IDS)
    with pytest.raises(BudgetExceeded, match=r"7 of 21 records are bad \(missing_text 3, nul 3, duplicate_id 1\)"):
        index(source(tmp_path / "in"), tmp_path / "cache" / "text", certificate, tmp_path)
    assert not list((tmp_path / "cache").glob("text/*/index.json"))


@pytest.mark.parametrize("block_tokens", [16, 300, 900, 5000, 10**6])
def test_a_block_is_a_run_of_rows_of_one_row_group_and_not_much_smaller_than_asked(
    tmp_path: Path, texts: Path, certificate: Certificate, block_tokens: int
) -> None:
    blocks = opened(source(texts, block_tokens=block_tokens), tmp_path / "cache", certificate)
    arrays = blocks.arrays
    groups = set(zip(arrays["file"].tolist(), arrays["row_group"].tolist(), strict=True))
    assert groups == {(file, group) for file in range(3) for group in range(3)}
    for file, group in groups:
        here = (arrays["file"] == file) & (arrays["row_group"] == group)
        firsts, rows = arrays["first_row"][here], arrays["rows"][here]
        assert firsts.tolist() == [0, *np.cumsum(rows)[:-1].tolist()] and sum(rows) in (7, 6)
        assert len(rows) == 1 or min(arrays["tokens"][here]) >= block_tokens // 2


def test_the_index_knows_the_tokens_of_every_document(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    blocks = opened(source(texts), tmp_path / "cache", certificate)
    for block in range(len(blocks.tokens)):
        assert blocks.counts(block).tolist() == blocks.read(block).counts.tolist()


def test_rows_are_those_of_the_order_over_the_documents(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    blocks = opened(one, tmp_path / "cache", certificate)
    loader = build_loader(
        one, row_tokens=64, batch_rows=4, seed=3, cache=tmp_path / "cache", window_rows=9, num_workers=2
    )
    found = served([next(loader) for _ in range(50)])
    memory = MemoryBlocks("web", [[d.tolist() for d in blocks.read(b).documents()] for b in range(len(blocks.tokens))])
    oracle = Oracle(loader.plan, {"web": memory}, 200)
    assert found == {row: oracle.row(row).ids for row in range(200)}


def test_a_run_goes_on_with_any_number_of_ranks(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    settings = {"row_tokens": 64, "batch_rows": 6, "seed": 3, "cache": tmp_path / "cache"}
    whole = build_loader(one, **settings)
    wanted = served([next(whole) for _ in range(9)])
    first = [build_loader(one, rank=rank, world_size=2, num_workers=rank, **settings) for rank in range(2)]
    found = served([next(loader) for loader in first for _ in range(4)])
    for rank in range(3):
        loader = build_loader(one, rank=rank, world_size=3, num_workers=rank, **settings)
        loader.load_state_dict(first[0].state_dict())
        found |= served([next(loader) for _ in range(5)])
    assert found == wanted


def test_text_and_shards_are_mixed_in_one_order(
    tmp_path: Path, texts: Path, demo: Path, certificate: Certificate
) -> None:
    one = source(texts, index=str(tmp_path / "index"))
    index(one, tmp_path / "index", certificate, tmp_path)
    weights = {"web": 1, "books": 1}
    loader = build_loader([str(demo), one], weights, row_tokens=64, batch_rows=8, cache=tmp_path / "cache")
    rows = [next(loader)["source"].tolist() for _ in range(4)]
    assert all(row.count(0) == row.count(1) == 4 for row in rows)


def test_data_of_different_tokenizers_is_refused(tmp_path: Path, texts: Path, demo: Path, tokenizer: Tokenizer) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_bytes(tokenizer.data + b"\n")
    one = source(texts, tokenizer=str(other), backend="tokenizers")
    certificate = Certificate("tokenizers", "1", "1", "0" * 64, 1, 1, True)
    opened(one, tmp_path / "cache", certificate)
    with pytest.raises(UserError, match=r"different tokenizers, .*books.*; web with"):
        build_loader([str(demo), one], cache=tmp_path / "cache")


def test_every_token_of_a_row_is_traced_to_the_text_it_came_from(
    tmp_path: Path, texts: Path, certificate: Certificate, tokenizer: Tokenizer
) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    loader = build_loader(one, row_tokens=64, batch_rows=2, cache=tmp_path / "cache", delimiters="none", holdout=0)
    batch = next(loader)
    for ids, row in zip(batch["input_ids"].tolist(), batch["row"].tolist(), strict=True):
        for part in origins(loader.order, row):
            assert part.url is not None and part.url_row is not None
            text = pq.read_table(part.url)["text"][part.url_row].as_py()
            wanted = tokenizer.reference.encode([text]).ids[part.start : part.start + part.tokens]
            assert ids[part.at : part.at + part.tokens] == wanted.tolist()


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_an_epoch_has_every_token_of_every_document_once(
    tmp_path: Path, texts: Path, certificate: Certificate, packing: str
) -> None:
    one = source(texts)
    blocks = opened(one, tmp_path / "cache", certificate)
    settings = {"row_tokens": 256, "batch_rows": 4, "holdout": 0, "packing": packing, "cache": tmp_path / "cache"}
    loader = build_loader(one, delimiters="none", max_epochs=1, **settings)
    found: Counter[tuple[str, int]] = Counter()
    for batch in loader:
        for row in batch["row"][batch["row"] >= 0].tolist():
            parts = [part for part in origins(loader.order, row) if part.epoch == 0]
            found.update({(str(part.url), int(part.url_row or 0)): 0 for part in parts})
            for part in parts:
                found[str(part.url), int(part.url_row or 0)] += part.tokens
    counts = [int(n) for block in range(len(blocks.tokens)) for n in blocks.counts(block)]
    assert sorted(found.values()) == sorted(counts) and len(counts) == 60


def test_the_workers_of_a_torch_dataloader_serve_the_same_rows(
    tmp_path: Path, texts: Path, certificate: Certificate
) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    loader = build_loader(one, row_tokens=64, batch_rows=4, max_steps=9, cache=tmp_path / "cache")
    dataset = TokenDataset(loader.order, Reading(cache=tmp_path / "other", max_steps=9))
    batches = list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert served(batches) == served(list(loader))


# ---- files that are not what they were


def test_a_file_of_another_size_is_named_when_the_source_is_opened(
    tmp_path: Path, texts: Path, certificate: Certificate
) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    write_parquet(texts / "1.parquet", records(21, 20))
    with pytest.raises(StaleIndex, match=r"texts/1\.parquet: its size is .* bamba-data index --name web"):
        open_text(one, tmp_path / "cache")


def test_a_file_of_the_same_size_is_told_by_its_footer(tmp_path: Path, certificate: Certificate) -> None:
    write_rows(tmp_path / "in" / "a.parquet", ["one", "two"], ["a", "b"])
    one = source(tmp_path / "in")
    opened(one, tmp_path / "cache", certificate)
    size = (tmp_path / "in" / "a.parquet").stat().st_size
    write_rows(tmp_path / "in" / "a.parquet", ["one", "twi"], ["a", "b"])
    assert (tmp_path / "in" / "a.parquet").stat().st_size == size
    with pytest.raises(StaleIndex, match=r"in/a\.parquet: its footer has another digest"):
        open_text(one, tmp_path / "cache")


def test_a_file_that_changes_under_a_run_is_named_and_no_row_of_it_is_served(
    tmp_path: Path, certificate: Certificate
) -> None:
    rows = [f"document number {n} of them" for n in range(50)]
    path = write_rows(tmp_path / "in" / "a.parquet", rows, list(map(str, range(50))))
    one = source(tmp_path / "in")
    opened(one, tmp_path / "cache", certificate)
    loader = build_loader(one, row_tokens=32, batch_rows=2, num_workers=0, cache=tmp_path / "cache")
    data = path.read_bytes()
    assert data.count(b"document number 12 ") == 1
    path.write_bytes(data.replace(b"document number 12 ", b"document numbel 12 "))
    with pytest.raises(StaleIndex, match=r"in/a\.parquet: rows .* give tokens of digest"):
        for _ in range(30):
            next(loader)


def test_a_copy_with_another_time_is_as_good(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    blocks = opened(one, tmp_path / "cache", certificate)
    for path in texts.glob("*.parquet"):
        shutil.copyfile(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
    assert documents(open_text(one, tmp_path / "cache")) == documents(blocks)


def test_files_that_come_and_go_are_named(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    write_texts(tmp_path / "more", files=1)
    (tmp_path / "more" / "0.parquet").rename(texts / "3.parquet")
    with pytest.raises(StaleIndex, match=r"texts/3\.parquet: is not in the index"):
        open_text(one, tmp_path / "cache")
    (texts / "3.parquet").unlink()
    (texts / "2.parquet").unlink()
    with pytest.raises(StaleIndex, match=r"texts/2\.parquet: is in the index, but is no longer found"):
        open_text(one, tmp_path / "cache")


def test_a_new_index_of_changed_text_is_another_order(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    loader = build_loader(one, row_tokens=64, batch_rows=4, cache=tmp_path / "cache")
    next(loader)
    state, plan = loader.state_dict(), loader.plan
    write_parquet(texts / "1.parquet", records(20, 500, 700))
    opened(one, tmp_path / "cache", certificate)
    with pytest.raises(UserError, match=r"source 'web' is other data: content: .{16}… here, .{16}… in the plan"):
        build_loader(one, plan=plan, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="this state is of another order"):
        build_loader(one, row_tokens=64, batch_rows=4, cache=tmp_path / "cache").load_state_dict(state)


@pytest.mark.parametrize("name", ["index.json", "blocks-*.parquet"])
def test_a_damaged_index_is_an_error_that_names_it(
    tmp_path: Path, texts: Path, certificate: Certificate, name: str
) -> None:
    one = source(texts)
    opened(one, tmp_path / "cache", certificate)
    (path,) = (tmp_path / "cache" / "text").glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptManifest, match=path.name):
        open_text(one, tmp_path / "cache")


def test_the_id_of_a_document_decides_whether_it_may_be_held_out(tmp_path: Path, certificate: Certificate) -> None:
    ids = [f"doc-{n}" for n in range(2000)]
    write_rows(tmp_path / "in" / "a.parquet", ["text"] * 2000, ids, row_group_size=500)
    for column, named in (("id", ids), (None, [f"a.parquet#{row}" for row in range(2000)])):
        blocks = opened(source(tmp_path / "in", id=column), tmp_path / str(column), certificate)
        hashes = {id_hash(one): row for row, one in enumerate(named) if id_hash(one) < LIMIT}
        found = blocks.candidates
        rows = [blocks.origin(b, d).row for b, d in zip(found.block.tolist(), found.document.tolist(), strict=True)]
        assert len(rows) > 2 and dict(zip(found.hash.tolist(), rows, strict=True)) == hashes


def test_a_document_is_traced_to_its_row(tmp_path: Path, certificate: Certificate, tokenizer: Tokenizer) -> None:
    rows = [f"text {n}" if n % 3 else "" for n in range(40)]
    path = write_rows(tmp_path / "in" / "a.parquet", rows, list(map(str, range(40))), row_group_size=9)
    blocks = opened(source(tmp_path / "in", block_tokens=16), tmp_path / "cache", certificate)
    for block in range(len(blocks.tokens)):
        for document, ids in enumerate(blocks.read(block).documents()):
            origin = blocks.origin(block, document)
            assert origin.url == str(path) and tokenizer.decode(ids.tolist()) == rows[origin.row]


def test_a_rule_of_its_own_is_another_index_and_a_name_is_not(texts: Path) -> None:
    one, other = source(texts), source(texts, rules=BadInput(max_document_bytes=1024))
    assert (
        one.key(None, "0" * 64)
        != other.key(None, "0" * 64)
        == source(texts, rules=other.rules, name="x").key(None, "0" * 64)
    )
