"""torchtitan's own classes build the loader, read it, and keep its state in a distributed checkpoint (0.3.0)."""

import json
from pathlib import Path
from typing import Any

import pytest

from loader import build_loader
from tests.loader.framework_jobs import MIX
from tests.peers import TORCHTITAN, environment, run

pytestmark = pytest.mark.peers

JOB = """
import json, sys, types
from pathlib import Path
import torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.distributed import checkpoint as dcp
from torchtitan.components.dataloader import BaseDataLoader, DataloaderExhaustedError
from torchtitan.trainer import Trainer
from loader.torchtitan import OrderedDataLoader

def rank_of(rank, world, url, folder, at, steps, rows, seq_len):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{at}-{steps}", rank=rank, world_size=world)
    config = OrderedDataLoader.Config(dataset=url, seed=3, cache=f"{folder}/cache")
    built = config.build(dp_world_size=world, dp_rank=rank, tokenizer=None, seq_len=seq_len,
                         local_batch_size=rows // world, snapshot_every_n_steps=None)
    assert isinstance(built, BaseDataLoader)
    if at:
        dcp.load({"dataloader": built}, checkpoint_id=f"{folder}/step-{at}")
    processor = types.SimpleNamespace(ntokens_since_last_log=0, data_loading_times=[])
    data = Trainer.batch_generator(types.SimpleNamespace(metrics_processor=processor), built)
    with open(f"{folder}/rank-{rank}.jsonl", "a") as file:
        for _ in range(steps - at):
            inputs, labels = next(data)
            assert inputs["input"].shape == inputs["positions"].shape == labels.shape == (rows // world, seq_len)
            assert (inputs["positions"][:, 0] == 0).all() and int(inputs["positions"].max()) < seq_len
            file.write(json.dumps(inputs["input"].tolist()) + "\\n")
    dcp.save({"dataloader": built}, checkpoint_id=f"{folder}/step-{steps}")
    built.close()
    dist.destroy_process_group()

if __name__ == "__main__":
    url, folder, world, at, steps, rows, seq_len = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    mp.start_processes(rank_of, (world, url, folder, at, steps, rows, seq_len), nprocs=world, start_method="fork")
"""

REFUSED = """
import sys
from loader.torchtitan import OrderedDataLoader
class Small:
    def get_vocab_size(self): return 300
def build(tokenizer=None, **fields):
    try:
        OrderedDataLoader.Config(**fields).build(dp_world_size=1, dp_rank=0, tokenizer=tokenizer, seq_len=24,
                                                 local_batch_size=2, snapshot_every_n_steps=None)
    except Exception as error:
        print(type(error).__name__, error)
build(cache=sys.argv[2])
build(dataset=sys.argv[1], dataset_path="/data", cache=sys.argv[2])
build(Small(), dataset=sys.argv[1], cache=sys.argv[2])
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return environment("torchtitan", TORCHTITAN)


def test_ranks_read_the_order_and_resume_with_others_and_another_batch(
    python: Path, mixed: Path, cache: Path, tmp_path: Path
) -> None:
    for ranks, at, steps, rows in ((2, 0, 5, 6), (3, 5, 9, 6), (1, 9, 14, 4)):
        run(python, JOB, mixed, tmp_path, ranks, at, steps, rows, MIX["row_tokens"])
    files = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(tmp_path.glob("rank-*"))]
    bare: Any = iter(build_loader(str(mixed), **MIX, cache=cache))
    wanted = [next(bare)["input_ids"].tolist() for _ in range(13)]
    received: list[list[int]] = []
    for step in range(5):
        received += sorted(files[0][step] + files[1][step])
    for step in range(4):
        received += sorted(files[0][5 + step] + files[1][5 + step] + files[2][step])
    flat = [row for batch in wanted for row in batch]
    assert received == [row for step in range(9) for row in sorted(flat[6 * step : 6 * step + 6])]
    last = [row for step in range(5) for row in files[0][9 + step]]
    assert sorted(last) == sorted(flat[54 : 54 + 20])


def test_what_is_missing_or_of_another_tokenizer_is_refused(python: Path, mixed: Path, cache: Path) -> None:
    said = run(python, REFUSED, mixed, cache).splitlines()
    assert said[0].startswith("UserError dataloader.dataset is empty")
    assert said[1].startswith("UserError dataloader.dataset_path is '/data'")
    assert said[2].startswith("UserError") and "the trainer's tokenizer only 300" in said[2]
