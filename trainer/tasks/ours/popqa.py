"""What is right in PopQA, as its authors have it (arXiv 2212.10511): one of the answers stands in what was written.

The harness loads this file by its path: it imports nothing of ours.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def answers(doc: Mapping[str, Any]) -> list[str]:
    """The answers that are right. `possible_answers` is a list in JSON, within a string, as the hub has it."""
    found = doc["possible_answers"]
    listed: list[str] = json.loads(found) if isinstance(found, str) else list(found)
    return listed


def right(doc: Mapping[str, Any], written: Sequence[str]) -> dict[str, float]:
    """{"acc": 1.0 or 0.0}; capitals make no difference."""
    text = written[0].casefold()
    return {"acc": float(any(answer.casefold() in text for answer in answers(doc) if answer))}
