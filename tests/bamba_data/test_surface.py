"""What `bamba_data` gives, and what it costs to ask for it."""

import subprocess
import sys

import bamba_data


def test_everything_that_it_says_it_gives_is_there() -> None:
    for name in bamba_data.__all__:
        assert getattr(bamba_data, name) is not None
    assert set(bamba_data.__all__) <= set(dir(bamba_data))


def test_to_import_it_imports_nothing_heavy() -> None:
    heavy = ("pyarrow", "polars", "pydantic", "tokenizers", "numpy", "torch", "ray")
    code = f"import bamba_data, sys; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
