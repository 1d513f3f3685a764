"""Why nobody goes on from a checkpoint although it was committed: its bytes are damaged, or the run went back behind
it.

A mark is an object beside the commit. It never changes the checkpoint, and can be lifted:
`python -m trainer.checkpoints RUN --lift NAME`. Nothing but damage that was read, and a run's own decision, sets one.
"""

from dataclasses import dataclass
from typing import Literal

from bamba_data.canonical_json import loads
from bamba_data.errors import CorruptManifest
from bamba_data.records import seal, unseal
from bamba_data.storage.store import Store

from .commits import MARK

FORMAT = "bamba-mark/1"
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """`why` is in words."""

    kind: Literal["damaged", "abandoned", "unknown"]
    why: str


def set_mark(store: Store, name: str, mark: Mark) -> None:
    store.put(f"{name}/{MARK}", seal({"format": FORMAT, "kind": mark.kind, "why": mark.why}))


def lift(store: Store, name: str) -> None:
    store.delete(f"{name}/{MARK}")


def read_mark(store: Store, name: str) -> Mark | None:
    """None where there is no mark. One that cannot be read is a mark still."""
    where = f"{name}/{MARK}"
    try:
        data = store.read(where)
    except FileNotFoundError:
        return None
    try:
        raw = loads(data, where, MAX_BYTES)
        if isinstance(raw, dict) and raw.keys() == {"why"}:  # before marks had a kind
            kind: Literal["damaged", "abandoned"] = "abandoned" if "loss spike" in str(raw["why"]) else "damaged"
            return Mark(kind, str(raw["why"]))
        fields = unseal(data, where, MAX_BYTES)
        return Mark(fields["kind"], fields["why"])
    except (CorruptManifest, KeyError) as error:
        return Mark("unknown", f"the mark itself cannot be read: {error}")
