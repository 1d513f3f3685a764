"""All commands that we have end the same way: what is wrong is one line on stderr, and an exit code."""

import importlib
import signal
import subprocess
import sys

import pytest

from bamba_data import exit_codes

COMMANDS = [
    "loader.index",
    "loader.pack",
    "loader.quality.__main__",
    "loader.simulate",
    "pipelines.cli",
    "pipelines.download",
    "pipelines.index",
    "pipelines.pretrain",
    "pipelines.tokenize",
    "trainer.__main__",
    "trainer.checkpoints",
    "trainer.demo",
    "trainer.evaluate",
    "trainer.export_hf",
    "trainer.generate",
    "trainer.health",
    "trainer.import_hf",
]


@pytest.mark.parametrize("module", COMMANDS)
def test_an_option_that_there_is_not_is_one_line_and_exit_2(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = importlib.import_module(module).app
    assert exit_codes.run(app, ["--there-is-no-such-option"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "--there-is-no-such-option" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("loader.pack", ["/nowhere"]),
        ("loader.quality.__main__", ["/nowhere"]),
        ("loader.simulate", ["/nowhere/plan.json"]),
        ("trainer.evaluate", ["/nowhere", "--text", "/nowhere/text"]),
        ("trainer.export_hf", ["/nowhere", "/nowhere/out"]),
        ("trainer.generate", ["/nowhere", "--tokenizer", "/nowhere/t.json", "--prompt", "x"]),
        ("trainer.import_hf", ["/nowhere", "/nowhere/out"]),
        pytest.param("trainer.demo", ["/nowhere", "/nowhere/out"], marks=pytest.mark.process),
    ],
)
def test_what_is_not_there_is_named_and_ends_with_exit_2(
    module: str, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    app = importlib.import_module(module).app
    assert exit_codes.run(app, arguments) == 2
    said = capfd.readouterr().err
    assert "/nowhere" in said and "Traceback" not in said


def test_whose_error_it_is_stands_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")  # as torchrun does
    app = importlib.import_module("trainer.__main__").app
    assert exit_codes.run(app, ["--recipe", "no-such-recipe", "--out", "/nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error (rank 3): ")


WAITING = """
import sys, time, typer
{imports}
app = typer.Typer()
@app.command()
def wait():
    print("waits", flush=True)
    try:
        time.sleep(60)
    except Exception:
        time.sleep(60)
sys.exit({run}(app, []))
"""


@pytest.mark.parametrize(
    ("imports", "run", "number"),
    [
        ("from bamba_data import exit_codes", "exit_codes.run", signal.SIGINT),
        ("from pipelines import cli", "cli.run", signal.SIGINT),
        ("from pipelines import cli", "cli.run", signal.SIGTERM),
    ],
)
def test_ctrl_c_and_a_stop_of_a_build_are_one_line_and_the_exit_code_for_go_on(
    imports: str, run: str, number: signal.Signals
) -> None:
    """Also where a library is busy that goes on after any Exception, as Ray does while it starts."""
    script = WAITING.format(imports=imports, run=run)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert (
        said.startswith("error: ") and said.endswith("run the same command again to go on\n") and said.count("\n") == 1
    )
