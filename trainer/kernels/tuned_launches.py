"""Which launch a kernel takes on which device. Every choice computes the same function; only the time differs.

What stands in the kernels' files was measured on an H100 and holds for every Hopper (an H200 has the same
multiprocessors). An A100's and a B200's launches stand here, chosen by what the compiler makes of them
(benchmarks/kernel_resources.py), without a measurement. Another device takes what `python -m benchmarks.kernels --tune`
once measured on it, kept in a file by device and Triton version; until then a Hopper's or an A100's launches, by the
size of its shared memory, and one line in the log. A process drives one kind of device.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
import triton

from bamba.loader.cache.atomic_write import write_anew
from bamba_data.errors import UserError

from . import conv, gated_norm, ssd_backward, ssd_chunks, ssd_decay, ssd_forward, ssd_pairs, ssd_states, swiglu
from .launch import BLACKWELL, HOPPER, Launch, TunableLaunch

LOG = logging.getLogger(__name__)

#: The launches of all kernels, by the names that files of tuned launches on people's machines hold.
_TUNABLE: dict[str, TunableLaunch] = {
    tunable.name: tunable
    for tunable in (
        *(conv.FORWARD, conv.BACKWARD, gated_norm.FORWARD, gated_norm.BACKWARD, ssd_decay.DECAYS, ssd_forward.FORWARD),
        *(ssd_states.STATES, ssd_pairs.SCORES, ssd_chunks.CHUNKS),
        *(ssd_backward.JOIN, ssd_backward.FINISH, swiglu.BACKWARD),
    )
}
KERNELS = tuple(_TUNABLE)
HOPPER_SHARED_BYTES = 232_448  # that a program may have
A100_SHARED_BYTES = 166_912  # the largest of its launches takes 139,264

#: Where an A100 takes others: its products read from registers, of which a Hopper's launches would spill up to 9 kB.
A100 = {
    "decay.DECAYS": Launch(warps=8, block=16),
    "scan_forward.FORWARD": Launch(warps=8, stages=3, block=32),
    "scan_pairs.SCORES": Launch(warps=8),
    "scan_chunks.CHUNKS": Launch(warps=8, stages=2, block=16),
    "scan_backward.JOIN": Launch(warps=8),
    "scan_backward.FINISH": Launch(warps=8, block=16),
}

#: Where a B200 takes others. One stage: Triton 3.6 ends with "Fatal pipeliner error" where a loop that it pipelines for
#: a Blackwell stores a tile.
B200 = {
    "scan_states.STATES": Launch(warps=8, stages=1, block=128),
}


def current() -> dict[str, Launch]:
    """What every kernel takes now."""
    return {name: tunable.launch for name, tunable in _TUNABLE.items()}


def apply(launches: Mapping[str, Launch]) -> None:
    """From now on, kernels take these; those that are not named keep theirs."""
    for name, launch in launches.items():
        _TUNABLE[name].launch = launch


def shipped(device: str, shared_bytes: int, capability: int) -> dict[str, Launch]:
    """The launches that came with the kernels, for a device whose programs may have so much shared memory, of the major
    number of its compute capability."""
    if shared_bytes < A100_SHARED_BYTES:
        raise UserError(
            f"{device} gives a program {shared_bytes >> 10} KiB of shared memory, and the Mamba2 kernels are made "
            f"for {A100_SHARED_BYTES >> 10} or more: train on an A100, H100, H200 or larger"
        )
    if shared_bytes < HOPPER_SHARED_BYTES:
        return current() | A100
    return current() | B200 if capability == BLACKWELL else current()


def file_of(device: str) -> Path:
    """Where the launches measured on such a device are kept: in $XDG_CACHE_HOME, or ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-")
    # By Triton's version too: another compiler makes another code, for which another launch may be the fastest.
    return Path(folder) / "bamba-data" / "launches" / f"{name}-triton-{triton.__version__}.json"


def write(file: Path, launches: Mapping[str, Launch]) -> None:
    """Keep measured launches, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(launch) for name, launch in launches.items()}, indent=1)
    write_anew(file, text.encode())


def read(file: Path) -> dict[str, Launch] | None:
    """What was kept; None where nothing was, or, said in the log, where it cannot be understood."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        launches = {name: Launch(**plain[name]) for name in KERNELS}
        if all(type(value) is int for launch in launches.values() for value in asdict(launch).values()):
            return launches
        raise ValueError("a launch is made of whole numbers")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        LOG.warning("%s is left out, it holds no launches of these kernels: %s", file, error)
        return None


@cache
def ready(device: torch.device) -> None:
    """Before the first kernel on a GPU: let all of them take what is best known for it."""
    name = torch.cuda.get_device_name(device)
    file = file_of(name)
    kept = read(file)
    if kept is not None:
        apply(kept)
    elif (capability := torch.cuda.get_device_capability(device)[0]) != HOPPER:
        shared_bytes = triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
        apply(shipped(name, shared_bytes, capability))
        LOG.warning(
            "the launches of the Mamba2 kernels were measured on Hopper, not on %s: right, but maybe slow. "
            "`python -m benchmarks.kernels --tune` measures what suits it, once, into %s",
            name,
            file,
        )
