"""A tokenizer must be a pure function of the text: one that rolls dice gives other ids each time, and is refused.

Options of `tokenizer.json` that sample among segmentations while encoding (training-time regularization): BPE's
`dropout`, Unigram's `alpha` and `nbest_size`. Truncation and padding, which also may stand in the file, are switched
off (tokenizer.Reference): ids are those of the whole text.
"""

import json

from bamba_data.errors import TokenizerError

DICE = ("dropout", "alpha", "nbest_size")


def check_pure(data: bytes) -> None:
    """Raises TokenizerError, which names the option and the way out, for a tokenizer.json that encodes at random."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return  # who loads it says what is wrong
    model = config.get("model") if isinstance(config, dict) else None
    for name in DICE:
        if isinstance(model, dict) and model.get(name):
            raise TokenizerError(
                f"tokenizer: model.{name} is {model[name]!r}, so the same text would give other ids each time: set it "
                "to null in the tokenizer.json (its ids are then those of the best segmentation) and give that file"
            )
