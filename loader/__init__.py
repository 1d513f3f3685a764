"""Which row of which source comes next, for every machine, from one integer.

The order of rows is a pure function of what is read and how it is mixed; ranks, workers and machines only decide who
reads which row. This package holds that function, bottom up:

    permutation   a keyed bijection on [0, n): any row's place in a shuffled epoch, and back
    mix           a lattice over (step, slot): which source a row of the global order comes from, and its ordinal there
    shares        which rows of a batch a rank computes
    stream        one source, cut into rows: where each begins
    plan          which sources in which shares from which row on, what is skipped or in quarantine
    packing       how documents become rows: end to end and cut, best-fit, or a function of your own
    order         a plan and the blocks of its sources: any row's place
    text          a source of parquet files that are tokenized when they are read
    segments      blocks as an epoch serves them, verified and cached
    rows          a batch's rows as arrays
    cursor        where a run is
    dataset       all that for torch: build_loader, TokenDataset
    quality       the statistics that a shuffle has to pass beside Fisher-Yates
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loader.dataset import Loader, Settings, TokenDataset, build_loader
    from loader.plan import MixPlan
    from loader.text_source import TextSource, text_sources

__all__ = ["Loader", "MixPlan", "Settings", "TextSource", "TokenDataset", "build_loader", "text_sources"]


def __getattr__(name: str) -> Any:
    """What most people need, without importing torch for those who need only the mathematics."""
    if name == "MixPlan":
        from loader.plan import MixPlan

        return MixPlan
    if name in ("TextSource", "text_sources"):
        from loader import text_source

        return getattr(text_source, name)
    if name in __all__:
        from loader import dataset

        return getattr(dataset, name)
    raise AttributeError(name)
