"""How a run begins with what another one learned: its model, and by choice its optimizer's moments."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bamba_data.errors import UserError

from .checkpoint.commits import model_alone, read_commit
from .checkpoint.locate import locate_checkpoint
from .checkpoint.restore import load
from .config import StartFrom


def overrides_of_start(run: str, overrides: Sequence[str]) -> list[str]:
    """What `--set` would say to begin with the model of `run`, a run or a checkpoint, in the shape that it has.

    `UserError` where `overrides`, the caller's own, say something of the same.
    """
    for override in overrides:
        field = override.partition("=")[0]
        if field.partition(".")[0] in ("model", "start_from"):
            raise UserError(f"--start-from {run} beside --set {field}: both say with which model it begins; give one")
    store, name = locate_checkpoint(run)
    model = read_commit(store, name)["recipe"]["model"]
    return [f"start_from={json.dumps(run)}", f"model={json.dumps(model)}"]


def load_start(start: StartFrom | str, state: Mapping[str, Tensor]) -> str:
    """Load what `start` names into `state`, the tensors of a run; a collective call. Returns what was done, in words.

    `UserError` where moments are to be kept and the checkpoint is an imported model or an average, which have none.
    """
    asked = StartFrom(run=start) if isinstance(start, str) else start
    keep = asked.optimizer == "keep"
    store, name = locate_checkpoint(asked.run)
    wanted = {key: value for key, value in state.items() if key.startswith("model.") or keep}

    def accept(commit: dict[str, Any]) -> None:
        if keep and (kind := model_alone(commit)):
            raise UserError(f"start_from: {store.url}/{name} is {kind}, it has no moments to keep: optimizer: fresh")

    begun = load(store, name, wanted, accept)
    what = "the model and the moments" if keep else "the model"
    return f"begins with {what} of step {begun['step']} of {store.url}"
