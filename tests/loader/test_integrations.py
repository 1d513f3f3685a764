"""The order under other people's loops: DataLoader, StatefulDataLoader, Lightning, Accelerate, DCP, torchtitan.

Each test is the example for its library, and says what that library may not do.
"""

import itertools
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from loader import Loader, Reading, TokenDataset, build_loader
from loader.order.resume import CursorMismatch

MIX: dict[str, Any] = {"row_tokens": 24, "batch_rows": 6, "seed": 3, "prefetch_tokens": 200}
STEPS = 24


@pytest.fixture
def wanted(mixed: Path, cache: Path) -> list[list[list[int]]]:
    """The batches of one rank, as `build_loader` gives them."""
    return [batch["input_ids"].tolist() for batch in build_loader(str(mixed), **MIX, max_steps=STEPS, cache=cache)]


@pytest.fixture
def dataset(mixed: Path, cache: Path) -> TokenDataset:
    order = build_loader(str(mixed), **MIX, cache=cache).order
    return TokenDataset(order, Reading(cache=cache, max_steps=STEPS))


def ids(batches: Any) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in batches]


# ---- torch


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_a_dataloader_gives_the_same_sequence_by_any_number_of_workers(
    dataset: TokenDataset, wanted: Any, num_workers: int
) -> None:
    assert ids(DataLoader(dataset, batch_size=None, num_workers=num_workers)) == wanted


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_need_not_be_forks(dataset: TokenDataset, wanted: Any, context: str) -> None:
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert ids(itertools.islice(loader, 5)) == wanted[:5]


def test_a_dataset_may_be_read_twice(dataset: TokenDataset, wanted: Any) -> None:
    assert ids(dataset) == wanted
    assert ids(itertools.islice(dataset, 3)) == wanted[:3]
    assert ids(dataset) == wanted


def test_a_dataloader_resumes_with_other_workers_and_another_world(dataset: TokenDataset, wanted: Any) -> None:
    """The state is counted where the batches are received: a DataLoader cannot know how many were."""
    received = ids(itertools.islice(DataLoader(dataset, batch_size=None, num_workers=2), 7))
    state = json.loads(json.dumps(dataset.state(7)))
    settings = Reading(cache=dataset.reading.cache, max_steps=STEPS)
    parts = [
        dataset.resumed(state, Reading(rank=rank, world_size=2, cache=settings.cache, max_steps=STEPS))
        for rank in range(2)
    ]
    rest = [list(DataLoader(part, batch_size=None, num_workers=n)) for n, part in enumerate(parts)]
    for one, other in zip(*rest, strict=True):
        rows = torch.cat([one["row"], other["row"]])
        together = torch.cat([one["input_ids"], other["input_ids"]])
        received.append(together[rows.argsort()].tolist())
    assert received == wanted


def test_a_dataset_refuses_the_state_of_another_order(mixed: Path, cache: Path, dataset: TokenDataset) -> None:
    other = build_loader(str(mixed), **MIX | {"seed": 4}, cache=cache)
    next(other)
    with pytest.raises(CursorMismatch):
        dataset.resumed(other.state_dict())


def test_the_state_of_a_loader_and_of_a_dataset_are_one(mixed: Path, cache: Path, dataset: TokenDataset) -> None:
    loader = build_loader(str(mixed), **MIX, cache=cache)
    for _ in range(5):
        next(loader)
    assert ids(itertools.islice(dataset.resumed(loader.state_dict()), 1)) == [next(loader)["input_ids"].tolist()]
    again = build_loader(str(mixed), **MIX, cache=cache)
    again.load_state_dict(dataset.state(5))
    assert next(again)["row"].tolist() == list(range(30, 36))


def test_an_error_in_a_worker_names_its_cause(dataset: TokenDataset, tiny_copy: Path, tmp_path: Path) -> None:
    order = build_loader(str(tiny_copy), **MIX, cache=tmp_path / "other").order
    for path in tiny_copy.glob("dataset=*/**/*.parquet"):
        path.write_bytes(b"PAR1" + bytes(300) + b"PAR1")
    broken = TokenDataset(order, Reading(cache=tmp_path / "other", max_steps=STEPS))
    for num_workers in (0, 2):
        with pytest.raises(Exception, match=r"CorruptShard|footer") as caught:
            list(DataLoader(broken, batch_size=None, num_workers=num_workers))
        assert "parquet" in str(caught.value)


# ---- torchdata


def stateful() -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.set_vital")
def test_a_stateful_dataloader_resumes_again_and_again(dataset: TokenDataset, wanted: Any, num_workers: int) -> None:
    """It may not change the number of workers or ranks: for that, use `dataset.state(batches)`."""
    received: list[Any] = []
    state: Any = None
    for count in (0, 1, 5, 6, 1, 30):
        fresh = TokenDataset(dataset.order, dataset.reading)
        loader = stateful()(fresh, batch_size=None, num_workers=num_workers)
        if state is not None:
            loader.load_state_dict(state)
        received += ids(itertools.islice(loader, count)) if count else []
        state = loader.state_dict()
    assert received == wanted


@pytest.mark.filterwarnings("ignore:.set_vital")
def test_after_its_end_a_stateful_dataloader_begins_anew(dataset: TokenDataset, wanted: Any) -> None:
    loader = stateful()(dataset, batch_size=None, num_workers=0)
    assert ids(loader) == wanted
    assert ids(loader) == wanted


# ---- torch.distributed.checkpoint


def test_the_state_is_an_entry_of_a_distributed_checkpoint(mixed: Path, cache: Path, tmp_path: Path) -> None:
    """Every rank saves the same: DCP keeps one copy, and any world loads it."""
    from torch.distributed import checkpoint as dcp

    loader = build_loader(str(mixed), **MIX, rank=1, world_size=2, cache=cache)
    for _ in range(4):
        next(loader)
    other = build_loader(str(mixed), **MIX | {"seed": 4}, cache=cache)
    other.load_state_dict(loader.state_dict(), accept_other_order="a test")
    for number, saved in enumerate((loader, other)):
        where = str(tmp_path / str(number))
        _quiet(lambda: dcp.save({"loader": saved, "weight": torch.ones(3)}, checkpoint_id=where))  # noqa: B023
        fresh = build_loader(str(mixed), plan=saved.plan, rank=2, world_size=5, cache=cache)
        _quiet(lambda: dcp.load({"loader": fresh, "weight": torch.zeros(3)}, checkpoint_id=where))  # noqa: B023
        assert fresh.state_dict() == saved.state_dict()
        assert fresh.state_dict()["row"] == 24


def _quiet(call: Any) -> None:
    """DCP warns that there is one process."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()


# ---- torchtitan


def test_a_loop_of_torchtitan_reads_it(mixed: Path, cache: Path, wanted: Any) -> None:
    """Its trainer iterates over (inputs, labels) and keeps the loader's state in its checkpoint; a transform makes the
    pair. It counts its own epochs and may not wrap the loader in a DataLoader."""

    def pair(batch: dict[str, Any]) -> Any:
        return {"input": batch["input_ids"], "positions": batch["position_ids"]}, batch["labels"]

    def train(loader: Loader, steps: int) -> Iterator[Any]:
        data_iterator = iter(loader)
        for _ in range(steps):
            input_dict, labels = next(data_iterator)
            assert labels.shape == input_dict["input"].shape == input_dict["positions"].shape
            yield input_dict["input"].tolist()

    loader = build_loader(str(mixed), **MIX, max_steps=STEPS, transform=pair, cache=cache)
    found = list(train(loader, 10))
    resumed = build_loader(str(mixed), **MIX, max_steps=STEPS, transform=pair, cache=cache)
    resumed.load_state_dict(loader.state_dict())
    assert found + list(train(resumed, STEPS - 10)) == wanted


# ---- Lightning


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_saves_and_resumes_mid_epoch(mixed: Path, cache: Path, wanted: Any, tmp_path: Path) -> None:
    """Give the loader an end (max_steps or max_epochs): without a length Lightning takes a batch ahead, and its
    checkpoint would say that this one was trained on. It may not replace the sampler."""
    import lightning

    class Counting(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(24, 1)
            self.seen: list[Any] = []

        def training_step(self, batch: dict[str, Any], index: int) -> Any:
            self.seen.append(batch["input_ids"].tolist())
            return self.layer(batch["input_ids"].float()).mean() * 1e-9

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-9)

    def fit(steps: int, checkpoint: Any = None) -> tuple[Any, Any]:
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
        )
        model = Counting()
        loader = build_loader(str(mixed), **MIX, max_steps=STEPS, cache=cache)
        trainer.fit(model, loader, ckpt_path=checkpoint)
        return trainer, model

    trainer, model = fit(9)
    assert model.seen == wanted[:9]
    trainer.save_checkpoint(tmp_path / "at-9.ckpt")
    _, resumed = fit(STEPS, tmp_path / "at-9.ckpt")
    assert resumed.seen == wanted[9:]


# ---- Accelerate


def test_accelerate_leaves_the_loader_as_it_is(mixed: Path, cache: Path, wanted: Any) -> None:
    """`prepare` takes the model and the optimizer. A DataLoader over TokenDataset must not go through it: it would
    deal the rows of every rank out a second time. The loader itself is no DataLoader, and comes back untouched."""
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    loader = build_loader(
        str(mixed),
        **MIX,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        max_steps=STEPS,
        cache=cache,
    )
    model, same = accelerator.prepare(torch.nn.Linear(24, 1), loader)
    assert same is loader
    found = []
    for batch in same:
        accelerator.backward(model(batch["input_ids"].float()).mean())
        found.append(batch["input_ids"].tolist())
    assert found == wanted
    assert multiprocessing.active_children() == []
