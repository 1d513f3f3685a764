"""How a run begins with what another one learned: its model, and by choice its optimizer's moments."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bamba_data.errors import UserError

from .checkpoint.locate import locate_checkpoint
from .checkpoint.restore import load
from .config import StartFrom


def load_start(start: StartFrom | str, state: Mapping[str, Tensor]) -> str:
    """Load what `start` names into `state`, the tensors of a run; a collective call. Returns what was done, in words.

    `UserError` where moments are to be kept and the checkpoint is an imported model, which has none.
    """
    asked = StartFrom(run=start) if isinstance(start, str) else start
    keep = asked.optimizer == "keep"
    store, name = locate_checkpoint(asked.run)
    wanted = {key: value for key, value in state.items() if key.startswith("model.") or keep}

    def accept(commit: dict[str, Any]) -> None:
        if keep and commit.get("imported"):
            raise UserError(
                f"start_from: {store.url}/{name} is an imported model, it has no moments to keep: optimizer: fresh"
            )

    begun = load(store, name, wanted, accept)
    what = "the model and the moments" if keep else "the model"
    return f"begins with {what} of step {begun['step']} of {store.url}"
