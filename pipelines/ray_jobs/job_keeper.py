"""The one actor that all tasks of a job share: it hands out requests to hosts, and keeps count. One, for each costs the
start of a process."""

from bamba_data.recipe import Network

from ..observe.progress import ProgressKeeper
from .rate_limit_actor import BudgetKeeper


class JobKeeper(BudgetKeeper, ProgressKeeper):
    """Runs as an actor. Its answers are instant: whoever must wait waits at home."""

    def __init__(self, network: Network) -> None:
        BudgetKeeper.__init__(self, network)
        ProgressKeeper.__init__(self)
