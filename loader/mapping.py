"""A file as read-only memory, without holding its descriptor: Python's mmap keeps one open for each mapping, and a
window of blocks is more mappings than a process may have open files. (Python 3.13 can, with trackfd=False.)
"""

import ctypes
import errno
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROT_READ, MAP_SHARED = 1, 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file. Unmapped when the last array over them is gone; a file that is removed stays readable."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.empty(0, np.uint8)
        address = _LIBC.mmap(None, size, PROT_READ, MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number or errno.ENOMEM), str(path))
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _LIBC.munmap, address, size)
    found = np.ctypeslib.as_array(memory)
    found.flags.writeable = False
    return found
