"""Token files of Megatron and datatrove, as somebody else would write them: of any type, whole or broken."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}


def write_token_files(prefix: Path, documents: Sequence[Sequence[Sequence[int]]], dtype: str = "uint16") -> Path:
    """`documents` are lists of sequences of ids. Returns the prefix."""
    sequences = [sequence for document in documents for sequence in document]
    lengths = [len(sequence) for sequence in sequences]
    bounds = np.cumsum([0, *(len(document) for document in documents)])
    kind = np.dtype(dtype).newbyteorder("<")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.bin").write_bytes(
        np.array([token for sequence in sequences for token in sequence], kind).tobytes()
    )
    pointers = np.cumsum([0, *lengths])[:-1] * kind.itemsize
    prefix.with_name(f"{prefix.name}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, CODES[dtype], len(sequences), len(bounds))
        + np.array(lengths, "<i4").tobytes()
        + pointers.astype("<i8").tobytes()
        + bounds.astype("<i8").tobytes()
    )
    return prefix


def write_datatrove(ids: Path, documents: Sequence[Sequence[int]], width: int = 2, tokenizer: str = "words") -> Path:
    """`<ids>`, its index and its metadata, as datatrove's `TokenizedFile` writes them. Returns the file of ids."""
    tokens = sum(map(len, documents))
    ids.parent.mkdir(parents=True, exist_ok=True)
    ids.write_bytes(np.array([token for document in documents for token in document], f"<u{width}").tobytes())
    ends = np.cumsum(list(map(len, documents)))
    ids.with_name(f"{ids.name}.index").write_bytes(ends.astype("<u8").tobytes())
    ids.with_name(f"{ids.name}.metadata").write_text(f"{tokenizer}|{width}\n{tokens}\n{tokens} T")
    return ids
