"""Processes that are killed while they read leave nothing behind, disturb no other, and take bounded memory."""

import json
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from bamba_data.tokenization.conformance import Certificate
from loader import build_loader
from tests.loader.real import all_rows, documents, publish

READER = """
    import sys
    from loader import build_loader
    data, cache = sys.argv[1:]
    loader = build_loader(data, row_tokens=64, batch_rows=6, seed=4, cache=cache, num_workers=3, prefetch_tokens=20000)
    for batch in loader:
        print(int(batch["row"][0]), flush=True)
"""


def start(data: Path, cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(READER), str(data), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_reader_leaves_only_whole_files_and_the_next_one_reads_on(mixed_data: Path, tmp_path: Path) -> None:
    cache, shared = tmp_path / "cache", set(Path("/dev/shm").iterdir())
    dice = random.Random(3)
    for _ in range(4):
        reader = start(mixed_data, cache)
        assert reader.stdout
        reader.stdout.readline()
        time.sleep(dice.random() / 5)
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        reader.stdout.close()
    kinds = {path.suffix for path in cache.rglob("*") if path.is_file()}
    assert kinds == {".arrays"}
    assert not [path for path in cache.rglob("*") if ".part" in path.name or path.name.startswith("tmp")]
    assert not {path for path in set(Path("/dev/shm").iterdir()) - shared if "torch" in path.name}
    after = build_loader(str(mixed_data), row_tokens=64, batch_rows=6, seed=4, cache=cache, max_steps=40)
    fresh = build_loader(str(mixed_data), row_tokens=64, batch_rows=6, seed=4, cache=tmp_path / "new", max_steps=40)
    assert all_rows(after, ["prose", "short"]) == all_rows(fresh, ["prose", "short"])
    assert after.segments.damaged == 0


def test_a_killed_reader_disturbs_no_other_that_shares_its_cache(mixed_data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    wanted = build_loader(str(mixed_data), row_tokens=64, batch_rows=6, seed=4, cache=tmp_path / "new", max_steps=60)
    others = [start(mixed_data, cache) for _ in range(2)]
    loader = build_loader(str(mixed_data), row_tokens=64, batch_rows=6, seed=4, cache=cache, max_steps=60)
    names = ["prose", "short"]
    found = {}
    for number, batch in enumerate(loader):
        found |= all_rows([batch], names)
        if number == 20:
            for one in others:
                one.kill()
    for one in others:
        one.wait()
        assert one.stdout
        one.stdout.close()
    assert found == all_rows(wanted, names)


TRAINER = """
    import sys
    from pathlib import Path
    from torch.utils.data import DataLoader
    from loader import Reading, TokenDataset, build_loader
    data, cache = sys.argv[1:]
    order = build_loader(data, row_tokens=24, batch_rows=6, seed=3, cache=cache).order
    dataset = TokenDataset(order, Reading(cache=Path(cache), max_steps=10_000))
    for batch in DataLoader(dataset, batch_size=None, num_workers=2, prefetch_factor=1):
        print(int(batch["row"][0]), flush=True)
"""


def test_a_killed_worker_of_a_dataloader_is_an_error_of_the_trainer_and_leaves_nothing(
    mixed_data: Path, tmp_path: Path
) -> None:
    # A process of its own: torch raises from a signal handler, for a second worker also after the first was caught.
    command = [sys.executable, "-c", textwrap.dedent(TRAINER), str(mixed_data), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout
        trainer.stdout.readline()
        children = psutil.Process(trainer.pid).children()
        workers = [child for child in children if "multiprocessing" not in " ".join(child.cmdline())]  # no tracker
        assert len(workers) == 2
        workers[0].kill()
        _, said = trainer.communicate(timeout=60)
    assert trainer.returncode == 1
    # torch names the worker, unless it was just receiving a batch from it: then the broken connection is the error, of
    # which Python tells the type alone where the signal for the worker comes while it prints the traceback.
    named = rf"DataLoader worker \(pid.* {workers[0].pid}\) (is killed by signal|exited unexpectedly)"
    broken = r"^(object type name: )?(ConnectionResetError|ConnectionRefusedError|EOFError|FileNotFoundError)\b"
    assert re.search(f"{named}|{broken}", said, re.MULTILINE), said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    left = [name for one in (trainer, *workers) for name in Path("/dev/shm").glob(f"torch_{one.pid}_*")]
    assert left == []


MEASURED = """
    import json, sys
    from pathlib import Path
    from loader import build_loader
    def anonymous_bytes():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    data, cache = sys.argv[1:]
    import torch
    before = anonymous_bytes()
    loader = build_loader(data, row_tokens=4096, batch_rows=8, seed=4, cache=cache, num_workers=2, world_size=1)
    most = 0
    for _ in range(150):
        next(loader)
        most = max(most, anonymous_bytes())
    print(json.dumps({"before": before, "most": most, "sources": len(loader.plan.sources)}))
"""


@pytest.mark.timeout(600)
def test_a_rank_of_nineteen_sources_takes_less_than_512_mb(certificate: Certificate, tmp_path: Path) -> None:
    sources = {f"s{n:02}": documents(60, 4000, prefix=f"s{n}") for n in range(19)}
    data = publish(tmp_path, certificate, sources, block_tokens=8000)
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(data), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert found["sources"] == 19
    assert found["most"] < 512 << 20


ALONE = """
    import sys
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in sys.argv[1].split(","):
                raise ImportError(f"{name} must not be needed")
    sys.meta_path.insert(0, Refuse())
    import loader
    from loader import MixPlan
    from loader.order.mixture import Lattice
    assert "torch" not in sys.modules
    if sys.argv[2]:
        batch = next(loader.build_loader(sys.argv[2], row_tokens=32, batch_rows=2, cache=sys.argv[3]))
        print(batch["row"].tolist())
    assert "ray" not in sys.modules
"""


def alone(refused: str, data: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(ALONE), refused, data, str(cache)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_it_reads_where_there_is_no_ray(mixed_data: Path, tmp_path: Path) -> None:
    done = alone("ray,pipelines,trainer", str(mixed_data), tmp_path)
    assert done.stdout.split() == ["[0,", "1]"], done.stderr


def test_the_mathematics_needs_no_torch(tmp_path: Path) -> None:
    done = alone("ray,torch", "", tmp_path)
    assert done.returncode == 0, done.stderr
