"""Which model is meant: a shape that is known by name, a recipe, a config.json, or the checkpoint of a run."""

import json
from pathlib import Path

from bamba_data.errors import UserError

from ..config import RECIPES, load_recipe
from ..model.config import ModelConfig

#: Shapes of others, to stand beside ours. Only sizes count here; how it scales its rotary embedding costs nothing.
KNOWN = {
    "llama-3.1-8b": ModelConfig(
        vocab_size=128_256,
        hidden_size=4096,
        mlp_size=14_336,
        layers=32,
        attention_layers="all",
        attention_heads=32,
        kv_heads=8,
        rotary_fraction=1.0,
        rotary_base=500_000.0,
        mamba_heads=128,  # of no layer: all attend
    ),
}


#: As `--beside`: the widths of the model itself, and all layers attend.
ATTENTION_ONLY = "attention-only"


def shape_beside(beside: str, ours: ModelConfig) -> ModelConfig:
    """The shape to compare with: `ATTENTION_ONLY`, or one by name (`shape_of`)."""
    if beside == ATTENTION_ONLY:
        return ModelConfig.model_validate({**ours.model_dump(), "attention_layers": "all"})
    return shape_of(beside)


def shape_of(model: str) -> ModelConfig:
    """The shape of `model`.

    Args:
        model: One of `KNOWN`, a recipe's name or .yaml file, a folder with a config.json of Hugging Face's or that
            file, or a run (local or s3://), or one of its checkpoints.

    Raises:
        UserError: It is none of these; or a config.json that is no model of ours, by the field that is not.
    """
    if model in KNOWN:
        return KNOWN[model]
    if model.endswith((".yaml", ".yml")) or (RECIPES / f"{model}.yaml").is_file():
        return load_recipe(model).model
    path = Path(model)
    file = path / "config.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        return _of_config(file)
    if "://" not in model and not path.exists():
        raise UserError(
            f"{model}: no such shape, recipe, run or config.json. Known are {', '.join(KNOWN)} and the recipes "
            f"{', '.join(sorted(recipe.stem for recipe in RECIPES.glob('*.yaml')))}"
        )
    from ..checkpoint.reader import SavedCheckpoint

    return SavedCheckpoint(model).config


def _of_config(file: Path) -> ModelConfig:
    from ..hf.form import form_of

    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({str(error)[:120]})") from None
    return form_of(theirs, str(file)).config_of(theirs, str(file))
