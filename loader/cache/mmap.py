"""A file as read-only memory, without holding its descriptor: Python's mmap keeps one open for each mapping, and a
window of blocks is more mappings than a process may have open files. (Python 3.13 can, with trackfd=False.)

A process may have so many mappings and no more (vm.max_map_count, 65,530 unless told), whatever they are of. So all
caches of a process together keep a third of them at most (`register`, `keep_below`), and where the kernel refuses
one all the same, room is made, or the file is read instead: too little memory is not damage.
"""

import ctypes
import errno
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PROT_READ, MAP_SHARED = 1, 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def _most_mappings() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530


#: Files that a process keeps mapped at most: the rest of the kernel's allowance is for others of the process.
MAPPED = min(24_000, _most_mappings() // 3)


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, uint8 [bytes], read-only.

    Unmapped when the last array over them is freed; a file that is removed stays readable until then.

    Raises:
        OSError: the file cannot be opened, or not be mapped for another reason than too little memory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return np.empty(0, np.uint8)
        address = _LIBC.mmap(None, size, PROT_READ, MAP_SHARED, descriptor, 0)
        if address == _FAILED and ctypes.get_errno() == errno.ENOMEM:
            keep_below(share=2)  # others of the process, such as torch's allocator, may hold the rest
            address = _LIBC.mmap(None, size, PROT_READ, MAP_SHARED, descriptor, 0)
            if address == _FAILED and ctypes.get_errno() == errno.ENOMEM:
                content = np.fromfile(path, np.uint8)
                content.flags.writeable = False
                return content
    finally:
        os.close(descriptor)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number or errno.EIO), str(path))
    # numpy keeps `memory` alive as long as any view of it; the finalizer runs when that is freed.
    memory = _Memory(address, size)
    weakref.finalize(memory, _LIBC.munmap, address, size)
    return np.asarray(memory)


class _Memory:
    """Bytes at an address as numpy takes them: read-only. (A ctypes array would be a new class for each size.)"""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, True)}


class Holder(Protocol):
    """Something that keeps files mapped and can do without."""

    def mapped(self) -> int:
        """How many files it keeps mapped."""

    def unmap(self, share: int) -> None:
        """Let go of one in `share` of them."""


class _Holders:
    """Those of a process. A fork begins with none: what it has of its parent's it opens anew."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.all: weakref.WeakSet[Holder] = weakref.WeakSet()


_HOLDERS = _Holders()


def _holders() -> _Holders:
    global _HOLDERS
    if _HOLDERS.process != os.getpid():
        _HOLDERS = _Holders()
    return _HOLDERS


def register(holder: Holder) -> None:
    """Count what it has mapped, as long as it lives."""
    holders = _holders()
    with holders.lock:
        holders.all.add(holder)


def keep_below(share: int | None = None) -> None:
    """Have the process keep MAPPED files mapped at most: who keeps most lets go of a sixteenth. With `share`, all let
    go of one in so many now."""
    holders = _holders()
    with holders.lock:
        every = list(holders.all)
    if share is not None:
        for holder in every:
            holder.unmap(share)
    while every and sum(holder.mapped() for holder in every) > MAPPED:
        max(every, key=lambda holder: holder.mapped()).unmap(16)
