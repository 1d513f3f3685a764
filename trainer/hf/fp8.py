"""FP8 of the linears of an export: weights of eight bits with one scale a row, as vLLM and transformers open them.

The layout is `float-quantized` of compressed-tensors, and the rule that of llm-compressor's FP8_DYNAMIC (weights e4m3
by output channel, activations e4m3 by token while it runs): codes and scales are the same to the bit, and no
calibration is needed. The embedding, the head and all vectors stay: `TensorMapping.linear` says which are meant.
"""

from typing import Any

import torch
from torch import Tensor

#: The largest number of e4m3.
LARGEST = torch.finfo(torch.float8_e4m3fn).max

#: The scale of a row of zeros, for which every scale is right: that of the library.
OF_ZEROS = torch.finfo(torch.bfloat16).eps


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, e4m3, [rows, columns], and scales, bfloat16, [rows, 1]; their product is the weight, nearly.

    All arithmetic is that of bfloat16, which is what the weights of a model to be quantized are: with float32 in the
    place of a rounding, some codes would be others than those of llm-compressor.
    """
    weight = weight.to(torch.bfloat16)
    scales = weight.abs().amax(dim=1, keepdim=True) / LARGEST
    scales = torch.where(scales == 0, OF_ZEROS, scales).to(torch.bfloat16)
    codes = (weight / scales).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return codes, scales


def quantization_config() -> dict[str, Any]:
    """What config.json says of it."""
    eight = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight, "strategy": "token", "dynamic": True},
            }
        },
    }
