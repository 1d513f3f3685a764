"""What work came to, in numbers: one value that adds and subtracts, of a batch, a unit, a source or a whole build."""

from dataclasses import astuple, dataclass
from operator import add, sub

from bamba_data.document import Ledger
from bamba_data.format.manifest_entries import Account


@dataclass(frozen=True, slots=True)
class Counters:
    """Zero where nothing is said.

    Attributes:
        input_bytes: Of the inputs as they are stored, mostly compressed.
        text_bytes: Of the texts. In reports of a unit at work these are characters; its end gives the exact UTF-8.
        documents: Kept, as rows of shards.
        tokens: Of these documents.
        bad: Records that became dead letters.
        units: Finished.
    """

    input_bytes: int = 0
    text_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    bad: int = 0
    units: int = 0

    @classmethod
    def of(cls, ledger: Ledger | Account, input_bytes: int) -> "Counters":
        """The exact numbers of a unit that is finished, from its ledger."""
        return cls(input_bytes, ledger.text_bytes, ledger.kept, ledger.tokens, sum(ledger.dead_lettered.values()))

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Counters") -> "Counters":
        return Counters(*map(sub, astuple(self), astuple(other)))
