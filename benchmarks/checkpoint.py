"""A checkpoint saved and loaded, as fractions of what the disk does, beside what others write, in one run.

    python -m benchmarks.checkpoint FOLDER [--gigabytes N] [--rounds N] [--small]        of one rank

The state is one of a model's shapes: a large matrix, many of 64 MiB, hundreds of vectors; on a GPU where there is one,
else in memory. The disk is the best of a plain file written from its beginning to its end, and of one written past the
cache by several threads; each with its fsync. Of every way: seconds until the training may go on (`stall`; on a GPU
products stand for a step, as long as `--step-seconds`, beside which the copy goes), GB/s from the first byte to what
survives a power loss, and GB/s of loading into the tensors there are, with the files out of the cache and within it.
safetensors, torch.save and torch's distributed checkpoints make no digest and check none. Rounds take turns; medians.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor

from bamba_data.storage.store import LocalStore
from benchmarks.measure import machine
from trainer.checkpoint.direct import BLOCK_BYTES
from trainer.checkpoint.manager import Checkpointer
from trainer.config import Checkpoints
from trainer.distributed.fsdp import World, joined

SAMPLED = 4093  # of so many numbers one is compared
GB = 1e9
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    """`save` writes a state into an empty folder, `load` reads it back into one; both end when it is done."""

    save: Callable[[State, Path], None]
    load: Callable[[State, Path], None] | None


def state(gigabytes: float, device: torch.device) -> State:
    """About so many bytes, no two tensors alike."""
    numbers = int(gigabytes * GB) // 4
    large, many = numbers // 8, 16 << 20
    sizes = [large, *[many] * ((numbers - large) // many), *[8192] * 300]
    draw = torch.Generator(device).manual_seed(1)
    return {f"model.{n}": torch.randn(size, generator=draw, device=device) for n, size in enumerate(sizes)}


# ---- the disk


def plain(held: State, folder: Path) -> None:
    with (folder / "plain").open("wb", buffering=0) as file:
        for tensor in held.values():
            data = tensor.cpu().numpy().data.cast("B")
            while len(data):
                data = data[file.write(data) :]
        os.fsync(file.fileno())


def past_the_cache(held: State, folder: Path, threads: int) -> None:
    """So many bytes."""
    write_past(folder / "past", sum(tensor.nbytes for tensor in held.values()), threads)


def write_past(file: Path, size: int, threads: int) -> None:
    """So many bytes in whole blocks, of one block again and again, by O_DIRECT where there is such a thing."""
    block = mmap.mmap(-1, BLOCK_BYTES)  # begins at a page
    block.write(os.urandom(BLOCK_BYTES))
    with direct(file, os.O_CREAT | os.O_WRONLY) as descriptor:
        starts = range(0, size - size % BLOCK_BYTES, BLOCK_BYTES)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda start: os.pwrite(descriptor, block, start), starts))
        os.fsync(descriptor)


def read_past(file: Path, threads: int) -> None:
    """The same back."""
    blocks: SimpleQueue[mmap.mmap] = SimpleQueue()
    for _ in range(threads):
        blocks.put(mmap.mmap(-1, BLOCK_BYTES))

    def read(descriptor: int, start: int) -> None:
        block = blocks.get()
        os.preadv(descriptor, [block], start)
        blocks.put(block)

    with direct(file, os.O_RDONLY) as descriptor, ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(read, descriptor), range(0, file.stat().st_size, BLOCK_BYTES)))


@contextmanager
def direct(file: Path, flags: int) -> Iterator[int]:
    """A file past the cache, or through it where its file system has no other way."""
    try:
        descriptor = os.open(file, flags | getattr(os, "O_DIRECT", 0), 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(file, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_plain(held: State, folder: Path) -> None:
    with (folder / "plain").open("rb", buffering=0) as file:
        for tensor in held.values():
            there = tensor if not tensor.is_cuda else torch.empty(tensor.shape, pin_memory=True)
            data = there.numpy().data.cast("B")
            while len(data):
                data = data[file.readinto(data) :]
            if tensor.is_cuda:
                tensor.copy_(there)


# ---- the peers


def save_dcp(held: State, folder: Path, threads: int) -> None:
    dcp.save(held, storage_writer=dcp.FileSystemWriter(folder / "dcp", thread_count=threads))


def load_dcp(held: State, folder: Path) -> None:
    dcp.load(held, storage_reader=dcp.FileSystemReader(folder / "dcp"))


def save_safetensors(held: State, folder: Path) -> None:
    save_file(held, folder / "one.safetensors")
    with (folder / "one.safetensors").open("rb") as file:
        os.fsync(file.fileno())


def load_safetensors(held: State, folder: Path) -> None:
    device = next(iter(held.values())).device
    for name, value in load_file(folder / "one.safetensors", device=str(device)).items():
        held[name].copy_(value)


def save_torch(held: State, folder: Path) -> None:
    with (folder / "one.pt").open("wb") as file:
        torch.save(held, file)
        file.flush()
        os.fsync(file.fileno())


def load_torch(held: State, folder: Path) -> None:
    for name, value in torch.load(folder / "one.pt", mmap=True, weights_only=True).items():
        held[name].copy_(value)


# ---- ours


@contextmanager
def checkpointer(folder: Path, held: State, world: World) -> Iterator[Checkpointer]:
    ours = Checkpointer(LocalStore(folder), Checkpoints(), world, logging.getLogger(__name__))
    ours.take()
    try:
        ours.prepare(held)
        ours.ready()
        yield ours
    finally:
        ours.close()


def save_ours(ours: Checkpointer, held: State, step_seconds: float) -> tuple[float, float]:
    """Seconds that a step took longer, and from there to the commit."""
    alone = min(computed(held, step_seconds) for _ in range(2))
    began = time.perf_counter()
    ours.save(1, held, {"changes": []})
    computed(held, step_seconds, of=alone)
    ours.staged()
    settle(held)
    ended = time.perf_counter()
    if (failed := ours.finish()) is not None:
        raise failed.error
    return max(ended - began - alone, 0.0), time.perf_counter() - ended


def computed(held: State, seconds: float, of: float | None = None) -> float:
    """On a GPU: products for about so long, how long they took; with `of` they are only begun. Nothing on a CPU."""
    device = next(iter(held.values())).device
    if device.type != "cuda":
        return 0.0
    side = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    settle(held)
    began = time.perf_counter()
    for _ in range(round(seconds / 1.6e-3)):  # 1.1 TFLOP each
        side @ side
    if of is None:
        settle(held)
    return time.perf_counter() - began


def settle(held: State) -> None:
    if next(iter(held.values())).is_cuda:
        torch.cuda.synchronize()


# ---- rounds


def forget(folder: Path) -> None:
    """The files leave the cache: they are on the disk already."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def loads(load: Callable[[], None], folder: Path, held: State) -> dict[str, float]:
    """Seconds; and that what came is what was saved, by some numbers of every tensor."""
    wanted = {name: tensor[::SAMPLED].clone() for name, tensor in held.items()}
    found = {}
    for name in ("cold", "warm"):
        for tensor in held.values():
            tensor.zero_()
        if name == "cold":
            forget(folder)
        found[name] = timed(lambda: (load(), settle(held)))
        if any(not torch.equal(held[name][::SAMPLED], value) for name, value in wanted.items()):
            raise RuntimeError(f"{folder}: other bits came back")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the state")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8, help="of the peers and of the disk itself")
    parser.add_argument("--step-seconds", type=float, default=0.85)
    parser.add_argument("--small", action="store_true", help="only to see that all of it runs")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.gigabytes, arguments.rounds = 0.2, 1
    folder = arguments.folder / "benchmark-checkpoint"
    with joined() as world:
        if world.size > 1:
            raise SystemExit("of one rank: benchmarks.checkpoint_step measures a model's over several")
        measure(arguments, folder, world)


def measure(arguments: argparse.Namespace, folder: Path, world: World) -> None:
    held = state(arguments.gigabytes, world.device)
    size = sum(tensor.nbytes for tensor in held.values())
    many = arguments.threads
    ways = {
        "a plain file": Way(plain, read_plain),
        f"past the cache, {many} threads": Way(partial(past_the_cache, threads=many), None),
        "torch.save": Way(save_torch, load_torch),
        "safetensors": Way(save_safetensors, load_safetensors),
        "torch's distributed checkpoint": Way(partial(save_dcp, threads=1), load_dcp),
        f"the same, {many} threads": Way(partial(save_dcp, threads=many), load_dcp),
    }
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            with emptied(folder):
                seconds = {"write": timed(partial(way.save, held, folder))}
                if way.load is not None:
                    seconds |= loads(partial(way.load, held, folder), folder, held)
                found.setdefault(name, []).append(seconds)
        with emptied(folder), checkpointer(folder, held, world) as ours:
            stall, write = save_ours(ours, held, arguments.step_seconds)
            seconds = loads(partial(ours.restore, held, lambda commit: None), folder, held)
            found.setdefault("ours", []).append({"stall": stall, "write": write, **seconds})
    report(found, size, world)


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder)


def report(found: dict[str, list[dict[str, float]]], size: int, world: World) -> None:
    rates = {
        name: {key: size / GB / median(one[key] for one in rounds) for key in rounds[0] if key != "stall"}
        for name, rounds in found.items()
    }
    disk = max(rate["write"] for name, rate in rates.items() if name.startswith(("a plain", "past")))
    stall = median(one["stall"] for one in found["ours"])
    print(f"{size / GB:.1f} GB, torch {torch.__version__}, {world.device}, median of {len(found['ours'])} rounds, GB/s")
    print("| | written | of the disk | loaded, cold | loaded, cached |\n|---|---|---|---|---|")
    for name, rate in rates.items():
        read = [f"{rate[key]:.2f}" if key in rate else "" for key in ("cold", "warm")]
        print(f"| {name} | {rate['write']:.2f} | {rate['write'] / disk:.2f} | {read[0]} | {read[1]} |")
    print(f"ours: the training waited {stall:.2f} s")
    print(json.dumps({"bytes": size, "seconds": found, "machine": machine()}))


if __name__ == "__main__":
    main()
