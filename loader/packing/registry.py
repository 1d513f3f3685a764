"""The packings that a plan can name."""

from bamba_data.errors import UserError

from .base import Packer, Packing, PackingInput
from .best_fit import best_fit
from .concat_split import ConcatSplit
from .grouped import Grouped

#: Those that make whole rows, by the name that a plan gives. A plan does not know what a function does: if you change
#: one that has been in use, give it another name.
PACKERS: dict[str, Packer] = {"best-fit": best_fit}


def packing_of(source: PackingInput) -> Packing:
    """How the plan packs this source. Raises UserError for a name that is not known here."""
    name = source.header.packing
    if name == "chunk":
        return ConcatSplit.of(source)
    if name not in PACKERS:
        raise UserError(
            f"the plan packs by {name!r}, and there are {sorted(['chunk', *PACKERS])}: put a packing of your own into "
            "loader.packing.PACKERS before the loader is made"
        )
    return Grouped.of(source, PACKERS[name])
