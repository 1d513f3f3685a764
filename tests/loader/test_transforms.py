"""Documents may be changed before they are packed, and attention kept within them; the order of rows stays."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from bamba_data.errors import UserError
from loader import Loader, build_loader, for_transformers
from loader.masks import flex_mask, sdpa_mask, varlen
from loader.packing.document_transforms import TRANSFORMS, Changed, Document, fim
from tests.loader.oracle import MemoryBlocks, Oracle
from tests.loader.real import in_memory, rows_of

MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 6, "seed": 3, "prefetch_tokens": 400}


def backwards(document: Document) -> Changed:
    return Changed(document.ids[::-1])


def every_other(document: Document) -> Changed:
    return Changed(document.ids, np.arange(len(document.ids)) % 2 == 0)


def by_chance(document: Document) -> Changed:
    return Changed(np.random.default_rng(document.dice).permutation(document.ids))


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {
        "backwards": backwards,
        "every-other": every_other,
        "by-chance": by_chance,
        "same": lambda document: Changed(document.ids),
        "longer": lambda document: Changed(np.append(document.ids, 0)),
        "shorter": lambda document: Changed(document.ids[1:]),
        "odd-targets": lambda document: Changed(document.ids, np.ones(1)),
        "no-ids": lambda document: Changed(document.ids / 2),
        "fim": partial(fim, prefix=60_000, middle=60_001, suffix=60_002, rate=1.0),
    }
    for name, function in listed.items():
        monkeypatch.setitem(TRANSFORMS, name, function)


def made(data: Path, cache: Path, by: str | None = None, **more: Any) -> Loader:
    return build_loader(str(data), **MIX | {"cache": cache, "document_transform": by} | more)


def take(loader: Loader, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(loader, count))


def test_a_transform_that_changes_nothing_changes_nothing(mixed: Path, cache: Path) -> None:
    for packing in ("chunk", "best-fit"):
        plain, same = made(mixed, cache, packing=packing), made(mixed, cache, "same", packing=packing)
        assert "transform" not in plain.plan.to_json()["header"]
        assert plain.plan.prefix_digest(0) != same.plan.prefix_digest(0)
        for one, other in zip(take(plain, 60), take(same, 60), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one if name != "waited_seconds")


def test_rows_are_those_of_the_changed_documents(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, "backwards")
    turned = {
        name: MemoryBlocks(name, [[ids[::-1] for ids in block] for block in one.blocks], one.heldout, one.dtype)
        for name, one in in_memory(mixed, loader.plan.header.holdout_ppm).items()
    }
    oracle = Oracle(loader.plan, turned, 360)
    for batch in take(loader, 60):
        for g, row in rows_of(batch, loader.plan.source_names).items():
            assert row == oracle.row(g)._replace(tokens=[])
    made(mixed, cache)  # one cache folder: what is kept of one is not taken for the other's
    assert take(made(mixed, cache), 1)[0]["input_ids"].tolist() != take(loader, 1)[0]["input_ids"].tolist()


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_tokens_that_are_no_targets_have_no_label_and_are_read_all_the_same(
    mixed: Path, cache: Path, packing: str
) -> None:
    plain, masked = made(mixed, cache, packing=packing), made(mixed, cache, "every-other", packing=packing)
    seen = 0
    for one, other in zip(take(plain, 40), take(masked, 40), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        hidden = (one["labels"] != other["labels"]) & (one["labels"] != -100)
        assert (other["labels"][hidden] == -100).all()
        # In a row whose document begins in it, the label of token p is token p + 1 of it: every other one is learned.
        inside = (one["seq_idx"] > 0) & (one["labels"] != -100) & (one["labels"] != one["input_ids"].max())
        odd = (one["position_ids"] + 1) % 2 == 1
        begun = inside & (one["seq_idx"] < one["seq_idx"].max(dim=1, keepdim=True).values)
        ends = one["labels"] == masked.plan.header.after[0]
        if packing == "chunk":
            assert torch.equal(hidden[begun & ~ends], odd[begun & ~ends])
        seen += int(hidden.sum())
    assert seen > 500
    ids_alone = made(mixed, cache, "every-other", packing=packing, fields=("input_ids", "row"))
    for one, other in zip(take(made(mixed, cache, packing=packing), 20), take(ids_alone, 20), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


def test_chance_is_the_same_whoever_reads_and_another_in_every_epoch(mixed: Path, cache: Path, tmp_path: Path) -> None:
    one = made(mixed, cache, "by-chance", weights={"short": 1})
    wanted = take(one, 90)
    assert one.order.source("short").stream.epochs_in(540) > 3
    elsewhere = made(mixed, tmp_path / "other", "by-chance", weights={"short": 1}, num_workers=0)
    middle = take(made(mixed, cache, "by-chance", weights={"short": 1}), 45)
    assert middle[-1]["input_ids"].tolist() == wanted[44]["input_ids"].tolist()
    assert [b["input_ids"].tolist() for b in take(elsewhere, 90)] == [b["input_ids"].tolist() for b in wanted]
    block = one.order.source("short").served
    first, second = (block.read_in(0, epoch, 5).ids.tolist() for epoch in (0, 1))  # type: ignore[attr-defined]
    assert first != second and sorted(first) == sorted(second)


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("longer", r"has \d+ tokens, \d+: the order of rows follows from the lengths"),
        ("shorter", "must keep them"),
        ("odd-targets", "not one bool for each"),
        ("no-ids", "something else than ids"),
        ("unknown", r"transforms documents by 'unknown', and there are \['backwards'"),
    ],
)
def test_what_breaks_the_order_is_refused_with_the_document(
    mixed: Path, cache: Path, name: str, said: str, packing: str
) -> None:
    with pytest.raises(UserError, match=said):
        take(made(mixed, cache, name, packing=packing), 30)


def test_a_run_does_not_go_on_with_another_transform(mixed: Path, cache: Path) -> None:
    loader = made(mixed, cache, "backwards")
    next(loader)
    for other in (None, "same"):
        with pytest.raises(UserError, match="another order"):
            made(mixed, cache, other).load_state_dict(loader.state_dict())
    with pytest.raises(UserError, match="document_transform is 'same', and the plan that is given has 'backwards'"):
        build_loader(str(mixed), plan=loader.plan, document_transform="same", cache=cache)
    assert made(mixed, cache, "backwards", split="holdout").plan.header.transform == "backwards"


@pytest.mark.parametrize("suffix_first", [0.0, 1.0])
def test_fim_keeps_the_length_and_every_token_but_the_last_three(suffix_first: float) -> None:
    for number in range(200):
        ids = np.arange(number, dtype=np.uint32)
        document = Document(ids, "code", 0, 0, 0, number)
        found = fim(document, 900, 901, 902, rate=1.0, suffix_first=suffix_first).ids.tolist()
        assert len(found) == number
        if number < 8:
            assert found == ids.tolist()
            continue
        if suffix_first:
            assert found[:2] == [900, 902]
            after, rest = found[2 : found.index(901)], found[found.index(901) + 1 :]
            assert rest + after == ids[:-3].tolist()
        else:
            before, rest = found[1 : found.index(902)], found[found.index(902) + 1 :]
            after, between = rest[: rest.index(901)], rest[rest.index(901) + 1 :]
            assert before + between + after == ids[:-3].tolist()
    rates = [
        fim(Document(np.arange(50, dtype=np.uint32), "c", 0, 0, 0, n), 900, 901, 902).ids[0] == 900 for n in range(400)
    ]
    assert 150 < sum(rates) < 250


# ---- attention within documents


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_masks_let_a_token_see_its_document_and_its_past_alone(mixed: Path, cache: Path, packing: str) -> None:
    batch = next(made(mixed, cache, packing=packing, fields=("input_ids", "seq_idx", "cu_seqlens", "row")))
    seq_idx = batch["seq_idx"]
    rows, tokens = seq_idx.shape
    wanted = torch.zeros(rows, 1, tokens, tokens, dtype=torch.bool)
    for row, i, j in itertools.product(range(rows), range(tokens), range(tokens)):
        wanted[row, 0, i, j] = j <= i and bool(seq_idx[row, i] == seq_idx[row, j])
    assert torch.equal(sdpa_mask(seq_idx), wanted)
    mod = flex_mask(seq_idx)
    grid = [torch.arange(n) for n in (rows, tokens, tokens)]
    at = torch.meshgrid(*grid, indexing="ij")
    assert torch.equal(mod(at[0], torch.tensor(0), at[1], at[2])[:, None], wanted)
    assert create_block_mask(mod, rows, None, tokens, tokens, device="cpu", BLOCK_SIZE=8).sparsity() >= 0
    found = varlen(seq_idx)
    assert torch.equal(found.cu_seqlens_q, batch["cu_seqlens"]) and found.cu_seqlens_q.dtype == torch.int32
    assert found.max_seqlen_q == int(batch["cu_seqlens"].diff().max()) == found.max_seqlen_k


def test_attention_under_the_mask_is_that_of_each_document_alone(mixed: Path, cache: Path) -> None:
    seq_idx = next(made(mixed, cache))["seq_idx"]
    rows, tokens = seq_idx.shape
    q, k, v = torch.randn(3, rows, 2, tokens, 8, dtype=torch.float64)
    packed = scaled_dot_product_attention(q, k, v, attn_mask=sdpa_mask(seq_idx)).transpose(1, 2).reshape(-1, 2, 8)
    flat = [one.transpose(1, 2).reshape(-1, 2, 8) for one in (q, k, v)]
    for low, high in itertools.pairwise(varlen(seq_idx).cu_seqlens_q.tolist()):
        alone = scaled_dot_product_attention(*(one[low:high].transpose(0, 1) for one in flat), is_causal=True)
        torch.testing.assert_close(packed[low:high], alone.transpose(0, 1))


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_transformers_takes_a_batch_and_learns_our_labels(mixed: Path, cache: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    loader = made(mixed, cache, transform=for_transformers, num_workers=0)
    vocabulary = 100_352
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    for batch in take(loader, 3):
        out = model(**batch)
        wanted = cross_entropy(out.logits.reshape(-1, vocabulary), batch["labels"].reshape(-1), ignore_index=-100)
        torch.testing.assert_close(out.loss, wanted)
