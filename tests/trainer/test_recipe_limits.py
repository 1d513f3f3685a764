"""A training recipe is refused where its step could not be computed on a GPU."""

import pytest
from pydantic import ValidationError

from trainer.config import Recipe, load_recipe


def test_a_recipe_in_float32_is_refused_where_only_bfloat16_fits_a_gpu() -> None:
    recipe = load_recipe("tiny-cpu").model_dump(mode="json")
    recipe["model"]["mamba_state"] = 256
    with pytest.raises(ValidationError, match=r"compute\.dtype: a state of 256 in float32"):
        Recipe.model_validate({**recipe, "compute": {**recipe["compute"], "dtype": "float32"}})
    Recipe.model_validate({**recipe, "compute": {**recipe["compute"], "dtype": "bfloat16"}})
