"""Small JSON objects that vouch for themselves: each ends with the sha256 of the rest of its fields.

What is named by its content (shards, tables, manifests, locks) has a digest in its name. Everything else that we
write and later believe (records of units and parts, pointers, versions, plans, verdicts) is a sealed record: one
flipped bit, wherever it is, is a CorruptManifest and never another value.

    data = seal({"format": "bamba-unit/2", "key": key})
    fields = unseal(data, path, max_bytes=1 << 20)
"""

from collections.abc import Mapping
from typing import Any

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest

SEAL = "sha256"


def seal(fields: Mapping[str, Any]) -> bytes:
    """The canonical JSON of `fields` and their sha256, as the field `sha256`. One value has one text."""
    if SEAL in fields:
        raise ValueError(f"a record has no field {SEAL!r} of its own")
    return canonical_json.dumps({**fields, SEAL: canonical_json.digest(dict(fields))})


def unseal(data: bytes, where: str, max_bytes: int) -> dict[str, Any]:
    """The fields of a sealed record, without the seal.

    Raises CorruptManifest, naming `where`, for what is no record, for one whose sha256 is not that of its fields,
    and for one that is written in any other way than `seal` does: a blank that becomes a tab is damage, too.
    """
    raw = canonical_json.loads(data, where, max_bytes)
    if not isinstance(raw, dict) or not isinstance(raw.get(SEAL), str):
        raise CorruptManifest(where, f"is not a record that ends with its own {SEAL}")
    fields = {name: value for name, value in raw.items() if name != SEAL}
    if seal(fields) != data:
        raise CorruptManifest(where, f"does not have the {SEAL} that it states: it is damaged, or was edited")
    return fields
