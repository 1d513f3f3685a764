"""What a tool must give to be measured: one command line to time, and one to count what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

RUNNERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer.json and what tools ask about it."""

    path: Path
    eos_token: str
    eos_id: int
    vocabulary: int

    @classmethod
    def read(cls, path: Path, eos_token: str) -> Tokenizer:
        data = json.loads(path.read_text("utf-8"))
        ids = {t["content"]: int(t["id"]) for t in data["added_tokens"]}
        ids = data["model"]["vocab"] | ids
        if eos_token not in ids:
            raise SystemExit(f"{path}: no token {eos_token!r}; name the end token with --eos-token")
        return cls(path.resolve(), eos_token, ids[eos_token], max(ids.values()) + 1)


@dataclass(frozen=True, slots=True)
class RecipeInputs:
    """What to tokenize. All paths are absolute; `scratch` is empty, new for every run, removed after it."""

    files: tuple[Path, ...]
    format: str
    tokenizer: Tokenizer
    scratch: Path


@dataclass(frozen=True, slots=True)
class Command:
    """`argv` is timed, from exec to exit. `count` is not: it writes the JSON of `peers/common.py:count`
    to `report`. `env` is added to the environment of `one_core_environment`."""

    argv: tuple[str, ...]
    count: tuple[str, ...]
    report: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tool:
    """A named way to tokenize files. `fast` tools are measured a second time on more files, because a
    file that keeps a peer busy for seconds is over before such a tool has started. `strips` says
    that the tool strips white space off every text, so its ids are compared with stripped texts."""

    name: str
    command: Callable[[RecipeInputs, Path], Command | None]
    formats: tuple[str, ...]
    fast: bool = False
    strips: bool = False


def runner_arguments(inputs: RecipeInputs, out: Path, report: Path) -> tuple[str, ...]:
    """The arguments every script under peers/ takes, after its `build` or `count`."""
    tokenizer = inputs.tokenizer
    return (
        *("--tokenizer", str(tokenizer.path), "--eos-id", str(tokenizer.eos_id)),
        *("--eos-token", tokenizer.eos_token, "--vocabulary", str(tokenizer.vocabulary)),
        *("--out", str(out), "--report", str(report)),
        *map(str, inputs.files),
    )
