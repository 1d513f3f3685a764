"""A batch as a causal model of Hugging Face `transformers` takes it: `model(**for_transformers(batch))`.

    build_loader(url, ..., transform=for_transformers)

A batch has more in it than a model takes (`row`, `source`, `seq_idx`, `waited_seconds`), and its labels are shifted
already, where such a model shifts them itself: given as they are, every target would be off by one. So they are given
as `shift_labels`, which its loss takes as they are; `labels` only say that a loss is wanted. `position_ids` begin anew
with every document, by which the attention of transformers tells documents in a row apart.
"""

from collections.abc import Mapping
from typing import Any


def for_transformers(batch: Mapping[str, Any]) -> dict[str, Any]:
    """`input_ids`, `position_ids`, `labels` and `shift_labels`."""
    labels = batch["labels"]
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "labels": labels,
        "shift_labels": labels,
    }
