"""Best-fit over a published dataset: the index of lengths, its faults, and resuming through the public loader."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bamba_data.errors import CorruptManifest, UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.conformance import Certificate
from loader import Loader, MixPlan, build_loader
from loader.cache.array_file import write_arrays
from loader.global_order import Order
from loader.lineage import origins
from loader.packing import document_lengths as lengths
from loader.packing import row_counts as grouped_rows
from loader.packing.base import PackingInput, heldout_of
from loader.packing.document_lengths import lengths_of, lengths_path, read_counts
from loader.packing.row_counts import rows_path
from loader.sources.base import Blocks
from loader.sources.shards import open_blocks
from tests.loader import plans
from tests.loader.oracle import MemoryBlocks
from tests.loader.packing_oracle import PackingOracle
from tests.loader.real import all_rows, in_memory
from tests.loader.texts import opened, source, write_texts

WEIGHTS = {"code": 2, "prose": 3, "short": 1}


def packed(mixed: Path, cache: Path, **more: Any) -> Loader:
    settings = {"row_tokens": 64, "batch_rows": 6, "seed": 3, "num_workers": 0} | more
    return build_loader(str(mixed), WEIGHTS, packing="best-fit", cache=cache, **settings)  # type: ignore[arg-type]


def test_a_dataset_is_served_as_the_oracle_packs_it_by_any_world(mixed: Path, cache: Path) -> None:
    whole = packed(mixed, cache)
    names = sorted(WEIGHTS)
    oracle = PackingOracle(whole.plan, in_memory(mixed), 120)
    found, state = {}, whole.state_dict()
    for world_size in (1, 3, 2, 4):
        ranks = [packed(mixed, cache, rank=rank, world_size=world_size, num_workers=1) for rank in range(world_size)]
        batches = []
        for loader in ranks:
            loader.load_state_dict(state)
            batches += [next(loader) for _ in range(4)]
            loader.close()
        states = [loader.state_dict() for loader in ranks]
        assert all(one == states[0] for one in states)
        found |= all_rows(batches, names)
        state = states[0]
    assert sorted(found) == list(range(96))
    for g, row in found.items():
        assert row == oracle.row(g)._replace(tokens=[]), g


def test_the_index_of_lengths_is_that_of_the_tokens_and_a_damaged_one_is_made_anew(mixed: Path, cache: Path) -> None:
    blocks = open_blocks(open_dataset(str(mixed)), cache)["prose"]
    read = np.concatenate([blocks.read(block).counts for block in range(len(blocks.tokens))])
    assert np.array_equal(lengths_of(blocks, cache), read)
    path, key = lengths_path(blocks, cache)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert read_counts(path, key) is None
    assert np.array_equal(lengths_of(blocks, cache), read)
    assert read_counts(path, key) is not None


def test_processes_find_the_lengths_that_one_finds(mixed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "SPAN", 3)
    blocks = open_blocks(open_dataset(str(mixed)), cache)["prose"]
    assert len(blocks.tokens) > 6
    assert np.array_equal(lengths_of(blocks, None, processes=2), lengths_of(blocks, None))


def test_a_damaged_index_of_rows_is_made_anew_and_changes_no_row(mixed: Path, cache: Path) -> None:
    first = [next(packed(mixed, cache))["input_ids"].tolist() for _ in range(1)]
    for path in (cache / "lengths").glob("*.rows.arrays"):
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert [next(packed(mixed, cache))["input_ids"].tolist() for _ in range(1)] == first


def test_rows_that_are_not_those_of_the_tokens_are_an_error_and_never_served(mixed: Path, cache: Path) -> None:
    """A whole index with a valid digest, of other data."""
    loader = packed(mixed, cache)
    held = loader.order.source("prose")
    material = PackingInput(held.blocks, loader.plan.header, None, heldout_of(held.blocks, 500), cache)
    file = rows_path(material)
    assert file is not None
    rows = read_counts(*file)
    assert rows is not None
    rows = rows + np.uint32(1)
    file[0].unlink()
    write_arrays(*file, [rows])
    other = packed(mixed, cache, holdout=0.0005)
    with pytest.raises(CorruptManifest, match="the index of their lengths says"):
        for _ in range(200):
            next(other)


def test_much_data_is_refused_until_the_command_has_packed_it(
    mixed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_rows, "MAX_DOCUMENTS", 10)
    with pytest.raises(UserError, match=r"python -m loader\.pack DATASET"):
        packed(mixed, cache)
    command = [sys.executable, "-m", "loader.pack", str(mixed), "--row-tokens", "64", "--cache", str(cache)]
    said = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True, check=True).stdout
    assert "rows of an epoch" in said and "prose" in said
    by_command = next(packed(mixed, cache))["input_ids"].tolist()
    monkeypatch.undo()
    assert next(packed(mixed, cache / "other"))["input_ids"].tolist() == by_command


def test_every_token_of_a_packed_row_is_traced_to_its_document(mixed: Path, cache: Path) -> None:
    loader = packed(mixed, cache, delimiters="none", holdout=0.0)
    memory = in_memory(mixed)
    for _ in range(6):
        batch = next(loader)
        for ids, row in zip(batch["input_ids"].tolist(), batch["row"].tolist(), strict=True):
            found = origins(loader.order, row)
            for one in found:
                document = memory[one.source].blocks[one.block][one.document]
                assert ids[one.at : one.at + one.tokens] == document[one.start : one.start + one.tokens]
            assert ids[sum(one.tokens for one in found) :] == [0] * (64 - sum(one.tokens for one in found))


def test_held_out_documents_are_packed_too_each_once(mixed: Path, cache: Path) -> None:
    memory = in_memory(mixed)
    heldout = Counter(tuple(one.blocks[b][d]) for one in memory.values() for b, d in one.heldout)
    loader = packed(mixed, cache, row_tokens=1024, delimiters="none", split="holdout")
    found: Counter[tuple[int, ...]] = Counter()
    for batch in loader:
        for ids, row in zip(batch["input_ids"].tolist(), batch["row"].tolist(), strict=True):
            if row >= 0:
                found.update(tuple(ids[one.at : one.at + one.tokens]) for one in origins(loader.order, row))
    assert sum(heldout.values()) and found == heldout


def test_resuming_with_another_packing_is_another_order(mixed: Path, cache: Path) -> None:
    state = packed(mixed, cache).state_dict()
    chunked = build_loader(str(mixed), WEIGHTS, row_tokens=64, batch_rows=6, seed=3, cache=cache, num_workers=0)
    with pytest.raises(UserError, match="this state is of another order"):
        chunked.load_state_dict(state)


def _documents(blocks: Blocks, number: int) -> list[list[int]]:
    return [ids.tolist() for ids in blocks.read(number).documents()]


def test_text_is_packed_by_the_lengths_in_its_index_and_none_is_tokenized_for_it(
    tmp_path: Path, cache: Path, certificate: Certificate
) -> None:
    text = source(write_texts(tmp_path / "texts"))
    blocks = opened(text, cache, certificate)
    memory = MemoryBlocks("web", [_documents(blocks, number) for number in range(len(blocks.tokens))])
    for path in (tmp_path / "texts").iterdir():
        path.rename(path.with_suffix(".away"))
    assert lengths_of(blocks, cache).tolist() == [len(ids) for block in memory.blocks for ids in block]
    for path in (tmp_path / "texts").iterdir():
        path.rename(path.with_suffix(".parquet"))
    header = {"row_tokens": 128, "before": [], "after": [7], "packing": "best-fit", "holdout_ppm": 0, "seed": 4}
    plan = MixPlan.create({"web": 1}, {"web": blocks.identity}, 5, **header)
    order = Order(plan, {"web": blocks}, cache)
    oracle = PackingOracle(plan, {"web": memory}, 40)
    for batch, _ in zip(plan.batches(0), range(8), strict=False):
        for g, row in plans.served(order, batch, 2).items():
            assert row == oracle.row(g)._replace(tokens=[])


@pytest.mark.s3
def test_lengths_are_read_from_a_bucket_without_the_tokens(mixed: Path, cache: Path, s3: Any, bucket: str) -> None:
    s3.filesystem().put(f"{mixed}/", bucket.removeprefix("s3://") + "/data/", recursive=True)
    far = open_blocks(open_dataset(f"{bucket}/data"), cache)["prose"]
    near = open_blocks(open_dataset(str(mixed)), cache)["prose"]
    assert np.array_equal(lengths_of(far, cache / "far"), lengths_of(near, cache / "near"))
