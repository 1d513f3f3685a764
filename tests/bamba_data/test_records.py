"""A sealed record is read back as it was written, or refused."""

import pytest

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest
from bamba_data.records import seal, unseal

FIELDS = {"format": "bamba-test/1", "key": "é", "counts": {"a": 1, "b": [1, 2.5, None, True]}}
DATA = seal(FIELDS)


def test_what_was_sealed_is_read_back_without_its_seal() -> None:
    assert unseal(DATA, "here", 1 << 10) == FIELDS


@pytest.mark.parametrize("at", range(len(DATA)))
def test_any_flipped_bit_is_refused(at: int) -> None:
    for bit in range(8):
        flipped = bytearray(DATA)
        flipped[at] ^= 1 << bit
        with pytest.raises(CorruptManifest, match="here"):
            unseal(bytes(flipped), "here", 1 << 10)


@pytest.mark.parametrize(
    "data", [b"", DATA[:-1], DATA[: len(DATA) // 2], DATA + b"\n", b"[]\n", canonical_json.dumps(FIELDS)]
)
def test_what_is_torn_or_without_a_seal_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptManifest, match="here"):
        unseal(data, "here", 1 << 10)


def test_a_record_cannot_bring_a_seal_of_its_own() -> None:
    with pytest.raises(ValueError, match="sha256"):
        seal({"sha256": "0" * 64})
