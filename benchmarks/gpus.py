"""Whether the GPUs that a benchmark is to measure are here: one that begins without them measures nothing for hours."""

import torch


def too_few(asked: int, option: str, otherwise: str) -> str | None:
    """What to say where so many GPUs are not here; None where they are.

    Args:
        option: That asks for so many.
        otherwise: What can be done without one.
    """
    here = torch.cuda.device_count()
    if not here:
        return f"there is no GPU here: {otherwise}"
    if asked > here:
        return f"{option} {asked}: {'there is 1 GPU' if here == 1 else f'there are {here} GPUs'} here"
    return None
