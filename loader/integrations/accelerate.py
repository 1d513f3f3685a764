"""A loader as Accelerate sees it: which loader is being read, and when its last batch was handed out.

`accelerator.accumulate` makes a step of what is left at the end of a pass, whatever the number of batches, if the data
says that it ends; Accelerate's own loaders do. `prepare` leaves a loader of ours as it is, so ours says it itself.
Nothing is imported and nothing is done unless the program uses Accelerate.
"""

import sys
from typing import Any


def begin(loader: Any) -> None:
    """A pass over `loader` begins."""
    if (state := _state()) is not None and loader not in state.dataloader_references:
        state._add_dataloader(loader)


def end(loader: Any) -> None:
    """It is over."""
    if (state := _state()) is not None and loader in state.dataloader_references:
        state._remove_dataloader(loader)


def _state() -> Any:
    """Accelerate's GradientState, if an Accelerator was made."""
    module = sys.modules.get("accelerate.state")
    kind = getattr(module, "GradientState", None)
    return kind() if kind is not None and kind._shared_state else None
