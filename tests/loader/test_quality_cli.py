"""`python -m loader.quality`: the table, the pictures, the verdict as an exit code."""

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from bamba_data.exit_codes import run
from loader.order.permutation import Permutation
from loader.quality.__main__ import app
from loader.quality.bamba_lcg import legacy_order
from loader.quality.plots import strays


def epochs(n: int, count: int) -> np.ndarray:
    return np.stack([Permutation(n, 100 + epoch)(np.arange(n)) for epoch in range(count)])


def test_it_prints_the_table_and_draws_the_pictures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loader.quality", "--n", "1500", "--keys", "20", "--out", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ours: passes all 24 statistics" in done.stdout
    assert "a = 5: fails" in done.stdout
    assert done.stdout.count("│") > 24 * 8
    pictures = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in pictures] == ["displacement.png", "mix.png", "scatter.png"]
    for path in pictures:
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_an_order_of_yours_passes_if_it_is_shuffled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "order.npy"
    np.save(file, epochs(5000, 3))
    assert run(app, ["--order", str(file), "--out", str(tmp_path)]) == 0
    assert "passes for a true shuffle" in capsys.readouterr().out
    assert (tmp_path / "scatter.png").stat().st_size > 1000


def test_an_order_that_is_none_fails_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "order.npy"
    np.save(file, legacy_order(5000, 42))
    assert run(app, ["--order", str(file)]) == 1
    said = capsys.readouterr().out
    assert "no true shuffle" in said
    assert "turning points" in said


def test_an_epoch_like_the_last_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "order.npy"
    np.save(file, np.repeat(epochs(5000, 1), 2, axis=0))
    assert run(app, ["--order", str(file)]) == 1
    assert "company" in capsys.readouterr().out.splitlines()[-1]


def test_rows_may_have_any_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The k-th smallest stands for place k: the table is that of the places."""
    tables = []
    for name, order in {"places": epochs(2000, 2), "numbers": epochs(2000, 2).astype(np.int64) * 1000 - 7}.items():
        np.save(tmp_path / f"{name}.npy", order)
        assert run(app, ["--order", str(tmp_path / f"{name}.npy")]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (np.arange(999), "too few"),
        (np.repeat(np.arange(1000), 2), "each of them once"),
        (np.stack([np.arange(1000), np.arange(1, 1001)]), "same rows"),
        (np.linspace(0, 1, 2000), "float64"),
        (np.zeros((2, 2, 2), np.int64), r"[2, 2, 2]"),
        (np.array([{}] * 1000), "allow_pickle"),
    ],
)
def test_what_is_no_order_is_refused_as_the_users_error(
    order: np.ndarray, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "order.npy"
    np.save(file, order)
    assert run(app, ["--order", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_none_is_the_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npy").write_text("0 1 2")
    for name in ("text.npy", "missing.npy"):
        assert run(app, ["--order", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err


def test_a_wrong_option_is_the_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["--n", "10"]) == 2
    assert "--n" in capsys.readouterr().err


def test_the_picture_of_the_mix_shows_the_source_that_is_off_most() -> None:
    sources, steps = np.array([0, 0, 1, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    assert strays(sources, steps, np.array([0.5, 0.5]), 2).tolist() == [0.5, 0.0]
