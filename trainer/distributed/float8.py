"""The large linears in float8, by torchao: both operands of every product are scaled and rounded to eight bits on the
way in, forward and backward. Weights stay what they were, so checkpoints, resumes and exports do not know of it.

Eligible are the linears of the blocks whose sides are multiples of 16 (the hardware's rule) and at least `SMALLEST`
(below, the casts cost more than the products gain): in_proj, out_proj, qkv, out, gate_up and down, but never the head
or the embedding. On a CPU the products are emulated: the same roundings of the operands, in float32.
"""

import dataclasses
import logging
from typing import Any

import torch
from torch import nn

from bamba_data.errors import UserError

SMALLEST = 1024  # features, of a linear's shorter side
ABLE = (8, 9)  # CUDA compute capability: Ada, Hopper and later multiply float8


def convert(blocks: nn.Module, kind: str, device: torch.device, casts: str = "compiled") -> int:
    """Replace the linears of `blocks`, in place.

    Args:
        kind: One scale a matrix (tensorwise), one a row or column of it (rowwise), or none.
        casts: Who makes float8: the compiler (compiled), or our kernel in one read of each matrix, for forward and
            backward (kernel; tensorwise alone), which is held against torch's casts on this device first.

    Returns:
        How many were replaced.

    Raises:
        UserError: The device cannot, torchao is missing, or no linear is eligible.
    """
    if kind == "none":
        return 0
    cuda = device.type == "cuda"
    if cuda and torch.cuda.get_device_capability(device) < ABLE:
        raise UserError(
            f"compute.float8: {torch.cuda.get_device_name(device)} has no float8 products (compute capability "
            f"{ABLE[0]}.{ABLE[1]} or later has): set it to none"
        )
    swap, configs = _torchao()
    config = configs.from_recipe_name(kind)
    if not cuda:
        config = dataclasses.replace(config, emulate=True)
    fit = {name for name, module in blocks.named_modules() if _fits(module)}
    if not fit:
        raise UserError(
            f"compute.float8: no linear of this model has two sides of {SMALLEST} or more that are multiples of 16, so "
            "nothing would be computed in float8: set it to none"
        )
    swap(blocks, module_filter_fn=lambda module, name: name in fit, config=config)
    if casts == "kernel":
        from .float8_linear import OneReadLinear, check_cast

        check_cast(device)
        for name in fit:
            blocks.get_submodule(name).__class__ = OneReadLinear
    return len(fit)


def _fits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and all(
        side % 16 == 0 and side >= SMALLEST for side in (module.in_features, module.out_features)
    )


def _torchao() -> tuple[Any, Any]:
    """The two things needed of torchao. Its import warns of kernels for other purposes that did not load, and of
    another library's names: not the user's matter."""
    loggers = {name: logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")}
    before = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise UserError(f"compute.float8 needs torchao (pip install 'bamba-data[trainer]'): {error}") from error
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])
    return convert_to_float8_training, Float8LinearConfig
