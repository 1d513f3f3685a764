"""How a file is compressed: told by its first bytes, for its name and its host may say otherwise.

A `.jsonl` that a host stores gzipped, a `.gz` that some proxy unpacked: both are read as what they are, and counted.
No text in UTF-8 begins as gzip, zstd or xz do; one that begins as bzip2 does would be no JSON.
"""

from typing import Literal

Compression = Literal["none", "gzip", "zstd", "bz2", "xz"]
Choice = Literal["auto", "none", "gzip", "zstd", "bz2", "xz"]

HEAD_BYTES = 512  # so many first bytes tell
MAX_WINDOW_BYTES = 1 << 27  # how far back a file may refer: what zstd itself allows without --long

#: RFC 1952, RFC 8878, the bzip2 and the xz format: the first bytes of each.
MAGIC: dict[Compression, bytes] = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
}
_SUFFIXES: dict[str, Compression] = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bz2",
    ".xz": "xz",
}
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # of the first block, or of the end of an empty stream
#: Frames that hold no data (RFC 8878, 3.1.2); pzstd writes one first.
_ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
#: Bytes that no text has. (ESC is in what terminals logged.)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"


def by_content(head: bytes) -> Compression | None:
    """What the first bytes say; None if they say nothing."""
    if head.startswith(MAGIC["bz2"]):
        return "bz2" if head[3:4] in b"123456789" and head[4:10] in _BZ2_BLOCKS else None
    for name, magic in MAGIC.items():
        if head.startswith(magic):
            return name
    if len(head) >= 4 and int.from_bytes(head[:4], "little") in _ZSTD_SKIPPABLE:
        return "zstd"
    return None


def by_name(url: str) -> Compression:
    name = url.rpartition("/")[2].lower()
    return next((found for suffix, found in _SUFFIXES.items() if name.endswith(suffix)), "none")


def is_text(head: bytes) -> bool:
    """Whether these first bytes could begin a text in UTF-8, perhaps within a character."""
    if head.translate(None, _CONTROLS) != head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start >= len(head) - 3
    return True
