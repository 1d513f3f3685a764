"""Where a run ends is known before it begins; and small data is no special case."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import UserError
from bamba_data.tokenization.conformance import Certificate
from loader import Loader, build_loader
from tests.corpora import texts
from tests.loader.real import documents, in_memory, oracle, publish, rows_of

MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 7, "seed": 11, "prefetch_tokens": 200, "delimiters": "none"}


def served_tokens(loader: Loader) -> Counter[str]:
    """Tokens of documents that a run serves, by source; fill is not counted, by what the oracle says."""
    names = list(loader.plan.source_names)
    found: Counter[str] = Counter()
    for batch in loader:
        for place, g in enumerate(batch["row"].tolist()):
            if g >= 0:
                found[names[batch["source"][place]]] += batch["input_ids"].shape[1]
    return found


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
def test_one_source_ends_with_so_many_epochs_and_every_target_once(mixed: Path, cache: Path, max_epochs: int) -> None:
    loader = build_loader(str(mixed), weights={"prose": 1}, max_epochs=max_epochs, holdout=0, cache=cache, **MIX)
    batches = list(loader)
    assert len(loader) == len(batches)
    targets = Counter(int(one) for batch in batches for one in batch["labels"].reshape(-1) if one != -100)
    kept = [document for block in in_memory(mixed, 0)["prose"].blocks for document in block]
    wanted = Counter(token for document in kept for token in document[1:])
    assert targets == Counter({token: count * max_epochs for token, count in wanted.items()})


def test_first_ends_with_the_first_source_and_all_with_the_last(mixed: Path, cache: Path) -> None:
    weights = {"code": 1, "prose": 1, "short": 1}
    tokens = {name: sum(len(d) for b in one.blocks for d in b) for name, one in in_memory(mixed, 0).items()}
    ends = {}
    for at_end in ("first", "all"):
        loader = build_loader(str(mixed), weights=weights, max_epochs=1, at_end=at_end, holdout=0, cache=cache, **MIX)
        ends[at_end] = served_tokens(loader)
        assert loader.state_dict()["steps"] == len(loader)
        with pytest.raises(StopIteration):
            next(loader)
    smallest, largest = min(tokens, key=tokens.__getitem__), max(tokens, key=tokens.__getitem__)
    assert tokens[smallest] <= ends["first"][smallest] < tokens[smallest] + 24
    assert ends["first"][largest] < tokens[largest]
    for name, count in tokens.items():  # a source that ends before the last is filled up with nothing
        assert count <= ends["all"][name] < count + 24


def test_max_steps_ends_a_run_that_has_no_other_end(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), max_steps=9, cache=cache, **MIX)
    assert len(loader) == 9
    assert [int(batch["row"][0]) for batch in loader] == list(range(0, 63, 7))


def test_the_end_is_the_same_after_a_resume(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), max_steps=9, cache=cache, **MIX)
    for _ in range(4):
        next(loader)
    again = build_loader(str(mixed), max_steps=9, cache=cache, **MIX, rank=1, world_size=3)
    again.load_state_dict(loader.state_dict())
    assert len(list(again)) == 5
    again.load_state_dict(again.state_dict())
    assert list(again) == []


def test_a_run_without_an_end_has_no_length(mixed: Path, cache: Path) -> None:
    with pytest.raises(TypeError, match="max_epochs or max_steps"):
        len(build_loader(str(mixed), cache=cache, **MIX))


def test_an_unknown_end_is_refused(mixed: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="'last'"):
        build_loader(str(mixed), at_end="last", max_epochs=1, cache=cache, **MIX)


# ---- small data


def test_fewer_rows_than_ranks(certificate: Certificate, tmp_path: Path, cache: Path) -> None:
    data = publish(tmp_path, certificate, {"one": documents(2, 60)})
    ranks = [
        build_loader(str(data), row_tokens=64, batch_rows=3, rank=n, world_size=8, holdout=0, cache=cache)
        for n in range(8)
    ]
    wanted = oracle(data, ranks[0].plan, 60)
    for step in range(20):
        parts = [next(one) for one in ranks]
        found = {g: row for part in parts for g, row in rows_of(part, ["one"]).items()}
        assert sorted(found) == list(range(3 * step, 3 * step + 3))
        for g, row in found.items():
            assert row == wanted.row(g)._replace(tokens=[])
    for one in ranks:
        one.close()


def test_a_rank_without_rows_has_empty_batches_of_the_right_shape(mixed: Path, cache: Path) -> None:
    loader = build_loader(
        str(mixed), **MIX | {"batch_rows": 1}, rank=1, world_size=4, fields=("input_ids", "cu_seqlens"), cache=cache
    )
    sizes = Counter(tuple(next(loader)["input_ids"].shape) for _ in range(40))
    assert sizes == {(0, 24): 30, (1, 24): 10}


def test_one_document_of_one_token(certificate: Certificate, tmp_path: Path, cache: Path) -> None:
    data = publish(tmp_path, certificate, {"one": [{"id": "a", "text": "a"}]})
    loader = build_loader(str(data), row_tokens=8, batch_rows=2, eos_id=0, holdout=0, cache=cache)
    (token,) = in_memory(data)["one"].blocks[0][0]
    batch = next(loader)
    assert batch["input_ids"].tolist() == [[token, 0] * 4] * 2
    assert batch["labels"].tolist() == [[0, -100] * 4] * 2
    assert batch["position_ids"].tolist() == [[0, 1] * 4] * 2


def test_one_very_long_document(certificate: Certificate, tmp_path: Path, cache: Path) -> None:
    data = publish(tmp_path, certificate, {"one": [{"id": "a", "text": "\n".join(texts()[:12])}]}, block_tokens=500)
    (document,) = (d for b in in_memory(data)["one"].blocks for d in b)
    loader = build_loader(
        str(data), row_tokens=128, batch_rows=4, max_epochs=1, shuffle=False, delimiters="none", holdout=0, cache=cache
    )
    batches = list(loader)
    ids = [i for batch in batches for row in batch["input_ids"].tolist() for i in row]
    labels = [i for batch in batches for row in batch["labels"].tolist() for i in row]
    count = len(document)
    assert count > 5_000 and ids[:count] == document
    assert labels[: count - 1] == document[1:]
    assert set(labels[count - 1 :]) == {-100} and set(ids[count:]) <= {0}


def test_a_source_without_a_document_is_named_and_may_be_left_out(
    certificate: Certificate, tmp_path: Path, cache: Path
) -> None:
    data = publish(tmp_path, certificate, {"full": documents(9, 60), "void": []})
    with pytest.raises(UserError, match=r"'void' has no tokens: give it weight 0"):
        build_loader(str(data), weights={"full": 1, "void": 1}, cache=cache, **MIX)
    loader = build_loader(str(data), weights={"full": 1, "void": 0}, cache=cache, **MIX)
    assert next(loader)["row"].tolist() == list(range(7))


def test_a_source_without_a_document_has_no_share_of_its_own(
    certificate: Certificate, tmp_path: Path, cache: Path
) -> None:
    data = publish(tmp_path, certificate, {"full": documents(9, 60), "void": []})
    assert sorted(build_loader(str(data), cache=cache, **MIX).plan.sources) == ["full"]
