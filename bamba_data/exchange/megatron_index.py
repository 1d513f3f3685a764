"""The index of Megatron's token files (.idx): its header, its tables, and the codes of the types of ids.

    9 bytes    MMIDIDX and two zeros
    uint64     version, 1
    uint8      code of the type of the ids in the .bin file
    uint64     sequences, n
    uint64     entries of the document index, d
    int32[n]   ids of each sequence
    int64[n]   where each begins in the .bin file, in bytes
    int64[d]   the first sequence of each document, and at last n
    int8[n]    mode of each sequence; multimodal files alone

All little-endian. Source: `megatron.core.datasets.indexed_dataset` of megatron-core 0.19.
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_FIELDS = struct.Struct("<QBQQ")
HEADER_BYTES = len(MAGIC) + _FIELDS.size

#: Code -> type of the ids. Those of floats hold no ids; they are here to be called by their name.
DTYPES: Mapping[int, str] = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float64",
    7: "float32",
    8: "uint16",
}
CODES = {name: code for code, name in DTYPES.items()}


class IndexHeader(NamedTuple):
    """The head of an .idx file, as it stands there: nothing of it is checked but that it is one."""

    version: int
    code: int
    sequences: int
    document_entries: int

    @classmethod
    def parse(cls, data: bytes) -> "IndexHeader | None":
        """Of the first HEADER_BYTES of a file; None where that is no index of Megatron."""
        if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
            return None
        return cls(*_FIELDS.unpack_from(data, len(MAGIC)))

    def packed(self) -> bytes:
        return MAGIC + _FIELDS.pack(*self)

    @property
    def size_bytes(self) -> int:
        """Of the whole file, without modes."""
        return HEADER_BYTES + self.sequences * 12 + self.document_entries * 8


def stored_dtype(token_dtype: str) -> tuple[int, np.dtype[Any]]:
    """(code, type) for ids that a dataset stores as `token_dtype`. Megatron knows no uint32; ids are below 2**31."""
    name = "uint16" if token_dtype == "<u2" else "int32"
    return CODES[name], np.dtype(name).newbyteorder("<")
