"""A mask is exact: what it leaves is what a list without the removed documents has, also for identity and places."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data.format.masks import as_read, pack, removed_in, unpack

FLAGS = st.lists(st.booleans(), max_size=70)


@given(FLAGS)
def test_a_mask_is_its_bits(flags: list[bool]) -> None:
    assert unpack(pack(np.array(flags, np.bool_)), len(flags)).tolist() == flags


@given(FLAGS, st.integers(0, 90))
def test_a_mask_of_another_number_of_documents_is_refused(flags: list[bool], documents: int) -> None:
    bits = pack(np.array(flags, np.bool_))
    fits = -(-documents // 8) == len(bits) and not any(flags[documents:])
    if fits:
        assert unpack(bits, documents).sum() == sum(flags[:documents])
    else:
        with pytest.raises(ValueError, match="is none of"):
            unpack(bits, documents)


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), min_size=1, max_size=5))
def test_tables_are_read_as_if_the_documents_had_never_been_there(blocks: list[list[tuple[bool, bool]]]) -> None:
    """Each document is (removed, candidate); its tokens are its number over all blocks."""
    number = iter(range(1, 1000))
    made = [[(removed, candidate, next(number)) for removed, candidate in block] for block in blocks]
    block_rows, candidate_rows, mask_rows = [], [], []
    wanted_blocks, wanted_candidates = [], []
    for place, block in enumerate(made):
        key = {"source": "s", "shard": place // 2, "block": place % 2}
        left = [document for document in block if not document[0]]
        sums = {"documents": len(left), "tokens": sum(tokens for *_, tokens in left)}
        block_rows.append({**key, "documents": len(block), "tokens": sum(tokens for *_, tokens in block)})
        candidate_rows += [{**key, "document": n, "tokens": t} for n, (_, is_one, t) in enumerate(block) if is_one]
        if len(left) < len(block):
            bits = pack(np.array([removed for removed, *_ in block]))
            mask_rows.append({**key, "removed": bits, **sums, "digest": b"left", "ids_digest": b"left"})
        if left:
            wanted_blocks.append({**key, **sums})
        wanted_candidates += [{**key, "document": n, "tokens": t} for n, (_, is_one, t) in enumerate(left) if is_one]
    stored = pl.DataFrame(block_rows).with_columns(digest=pl.lit(b"all"), ids_digest=pl.lit(b"all"))
    schema = {"source": pl.String, "shard": pl.Int64, "block": pl.Int64, "removed": pl.Binary, "documents": pl.Int64}
    masks = pl.DataFrame(mask_rows, schema={**schema, "tokens": pl.Int64, "digest": pl.Binary, "ids_digest": pl.Binary})
    candidates = pl.DataFrame(
        candidate_rows,
        schema={"source": pl.String, **dict.fromkeys(("shard", "block", "document", "tokens"), pl.Int64)},
    )
    read = as_read(stored, candidates, masks)
    assert read.blocks.select("source", "shard", "block", "documents", "tokens").to_dicts() == wanted_blocks
    assert read.candidates.to_dicts() == wanted_candidates
    assert {key: flags.tolist() for key, flags in removed_in(masks, stored).items()} == {
        (place // 2, place % 2): [removed for removed, *_ in block]
        for place, block in enumerate(made)
        if any(removed for removed, *_ in block)
    }
