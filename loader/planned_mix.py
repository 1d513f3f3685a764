"""The mix of a plan as the page of a dataset shows it: the share of every source, from row to row."""

from fractions import Fraction
from pathlib import Path

from bamba_data.format.dataset import Dataset
from bamba_data.page.planned import MAX_STRETCHES, PlannedMix, PlannedStretch

from .order.mixture import MAX_ROW
from .order.plan import load
from .order.stretches import Stretch
from .sources.shards import content_name


def planned_mix(path: Path, dataset: Dataset) -> PlannedMix:
    """What the plan at `path` makes of the sources of a dataset.

    Raises:
        UserError: it is no plan, or none that makes sense.
    """
    plan = load(path)
    known = {name: content_name(identity.content, dataset) for name, identity in dataset.identities.items()}
    mixes = plan.mixes
    return PlannedMix(
        name=path.name,
        row_tokens=plan.header.row_tokens,
        stretches=[_stretch(stretch) for stretch in mixes[:MAX_STRETCHES]],
        of=len(mixes),
        strangers=sorted(name for name, identity in plan.sources.items() if known.get(name) != identity),
    )


def _stretch(stretch: Stretch) -> PlannedStretch:
    weights = dict(zip(stretch.sources, stretch.lattice.weights, strict=True))
    total = sum(weights.values())
    return PlannedStretch(
        first_row=stretch.first_row,
        end=stretch.end if stretch.end < MAX_ROW else None,
        batch_rows=stretch.batch_rows,
        shares={name: float(Fraction(weight, total)) for name, weight in weights.items()},
    )
