"""`python -m trainer.import_hf FOLDER OUT`: a Hugging Face Bamba as a checkpoint of ours, bit for bit; a recipe begins
with it by `start_from: OUT`. Tensors pass one by one."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import safe_open
from torch import Tensor

from bamba_data import edge
from bamba_data.errors import UserError
from bamba_data.store import open_store
from trainer.checkpoint.commits import folder_name
from trainer.checkpoint.plain import write
from trainer.hf_layout import Piece, config_of, pieces
from trainer.metrics import say
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    folder: Annotated[Path, typer.Argument(help="A local folder with config.json and safetensors.")],
    out: Annotated[str, typer.Argument(metavar="URL", help="Where the checkpoint goes: a local path or s3://.")],
) -> None:
    """Import a model of `BambaForCausalLM`."""
    imported(folder, out)


def imported(folder: Path, out: str) -> None:
    """Commit the model of `folder` as step 0 of a run at `out`; `UserError` where a tensor is missing, too many or of
    another shape."""
    config = config_of(json.loads((folder / "config.json").read_text()), str(folder / "config.json"))
    files = _files(folder)
    wanted = [piece.theirs for piece in pieces(config)]
    if missing := sorted(set(wanted) - set(files)):
        raise UserError(f"{folder}: {len(missing)} tensors are missing, {missing[0]} among them")
    if extra := sorted(set(files) - set(wanted)):
        raise UserError(f"{folder}: {len(extra)} tensors are of no Bamba, {extra[0]} among them")
    about = {"step": 0, "world_size": 1, "recipe": {"model": config.model_dump(mode="json")}, "imported": True}
    write(open_store(f"{out}/checkpoints"), folder_name(0, "0"), _tensors(config, files), about)
    say(f"{out}: the model of {folder}")


def _files(folder: Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def _tensors(config: ModelConfig, files: dict[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Ours, in float32, each put together of its pieces."""
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Bamba(config).named_parameters()}
    by_ours: dict[str, list[Piece]] = {}
    for piece in pieces(config):
        by_ours.setdefault(piece.ours, []).append(piece)
    for name, parts in by_ours.items():
        whole = torch.empty(shapes[name])
        for piece in parts:
            with safe_open(files[piece.theirs], framework="pt") as opened:
                theirs = opened.get_tensor(piece.theirs)
            expected = [piece.end - piece.start, *([1] if piece.middle else []), *whole.shape[1:]]
            if list(theirs.shape) != expected:
                raise UserError(f"{files[piece.theirs]}: {piece.theirs} is {list(theirs.shape)}, not {expected}")
            piece.into(whole, theirs)
        yield f"model.{name}", whole


if __name__ == "__main__":
    sys.exit(edge.run(app))
