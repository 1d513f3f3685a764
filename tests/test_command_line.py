"""One command line: groups of commands, one name for one idea, and nothing that a person does not expect to see."""

import ast
import importlib
import json
import os
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from bamba_data import __version__, exit_codes
from bamba_data.cli.entry import alone
from bamba_data.errors import UserError
from bamba_data.intruders import intruders
from bamba_data.terminal import console, print_json, printable
from pipelines.cli import app, run

ROOT = Path(__file__).parents[1]

#: Modules that are run by `python -m`, and the command that each is.
ENTRIES = {
    "pipelines.tokenize": "build",
    "pipelines.download": "download",
    "pipelines.index": "index-on-ray",
    "pipelines.pretrain": "model pretrain",
    "loader.index": "index",
    "loader.pack": "loader pack",
    "loader.quality": "loader quality",
    "loader.simulate": "loader simulate",
    "trainer": "model train",
    "trainer.benchmark": "model benchmark",
    "trainer.evaluate": "model evaluate",
    "trainer.generate": "model generate",
    "trainer.export_hf": "model export",
    "trainer.import_hf": "model import",
    "trainer.checkpoints": "model checkpoints",
    "trainer.health": "model health",
}


def command_of(words: str) -> Any:
    command: Any = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    return command


def commands(command: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, each in (below or {}).items():
        yield from commands(each, f"{path} {name}".strip())


# ---- groups


def test_datasets_have_the_verbs_and_runs_and_models_a_group_of_their_own() -> None:
    top = command_of("").commands
    assert {"show", "build", "versions", "submit"} <= set(top)
    assert set(top["model"].commands) == {
        "chat",
        *("train", "pretrain", "evaluate", "generate", "export", "push", "import", "checkpoints", "health", "memory"),
        *("arithmetic", "average", "benchmark", "judge", "phonebook", "extend", "schema", "suite-texts"),
    }
    assert set(top["loader"].commands) == {"index", "pack", "quality", "simulate"}


def test_help_shows_commands_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["--help"]) == 0
    said = capsys.readouterr().out
    panels = ["Make a dataset", "Look at a dataset", "Versions of a dataset", "Run on a cluster", "Groups of commands"]
    places = [said.index(panel) for panel in panels]
    assert places == sorted(places)
    assert all(getattr(command, "rich_help_panel", None) for command in command_of("").commands.values())


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["--version"]) == 0
    assert capsys.readouterr().out == f"bamba-data {__version__}\n"


def test_a_shell_completes_commands_of_a_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_BAMBA_DATA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "bamba-data model ev")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        run(app, [])
    assert capsys.readouterr().out.split() == ["evaluate"]


# ---- entries


@pytest.mark.parametrize(("module", "words"), ENTRIES.items())
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_python_m_calls_itself_by_its_own_name_and_is_the_command(
    module: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"trainer": "trainer.__main__", "loader.quality": "loader.quality.__main__"}
    file = names.get(module, module)
    monkeypatch.delitem(sys.modules, file, raising=False)  # as in a fresh process
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert f"Usage: python -m {module} [OPTIONS]" in " ".join(capsys.readouterr().out.split())
    own = typer.main.get_command(importlib.import_module(file).app)
    assert [each.name for each in own.params if each.name not in ("help",)] == [
        each.name for each in command_of(words).params if each.name not in ("help",)
    ]


@pytest.mark.parametrize("module", ENTRIES)
def test_an_entry_is_thin(module: str) -> None:
    path = ROOT / f"{module.replace('.', '/')}.py"
    path = path if path.exists() else path.with_suffix("") / "__main__.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_a_wrong_word_names_the_page_of_help_by_the_name_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["model", "evaluate", "--no-such"]) == 2
    assert "(bamba-data model evaluate --help)" in capsys.readouterr().err


# ---- options

#: What has one name everywhere, and the names that other tools, or we before, gave it.
ONE_NAME = {
    "--out": {"--to", "--output", "--index", "--destination", "-o"},
    "--address": {"--cluster", "--ray-address"},
    "--workers": {"--processes", "--jobs", "--num-workers"},
    "--set": {"--override"},
    "--json": {"--as-json", "--format"},
}


def test_one_idea_has_one_name_in_every_command() -> None:
    opts = {(path, name) for path, command in commands() for param in command.params for name in param.opts}
    no_places = {("export", "--to"), ("model extend", "--to")}  # a format, a length
    shown = {name for path, name in opts if (path, name) not in no_places}
    for name, others in ONE_NAME.items():
        assert name in shown
        assert not others & shown


@pytest.mark.parametrize(
    ("words", "old", "value", "param"),
    [
        ("download demo", "--to", "there", "out"),
        ("report there", "-o", "page.html", "out"),
        ("report there", "--to", "page.html", "out"),
        ("logs job", "--cluster", "http://there", "address"),
        ("stop job", "--cluster", "http://there", "address"),
        ("status", "--cluster", "http://there", "address"),
        ("submit demo --out there", "--cluster", "http://there", "address"),
        ("index", "--index", "there", "out"),
        ("index-on-ray recipe", "--index", "there", "out"),
        ("loader index", "--index", "there", "out"),
        ("loader pack data", "--processes", "3", "workers"),
    ],
)
def test_an_old_name_of_an_option_works_and_is_not_shown(words: str, old: str, value: str, param: str) -> None:
    names = [word for word in words.split() if word in ("loader", "model")] or []
    names.append(words.split()[len(names)])
    command = command_of(" ".join(names))
    arguments = [*words.split()[len(names) :], old, value]
    context = command.make_context("it", arguments)
    assert str(context.params[param]) == value
    assert old not in {name for each in command.params for name in each.opts}


@pytest.mark.parametrize("words", ["export run", "import folder"])
def test_where_a_model_goes_is_an_option_or_the_second_word_and_never_both(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["model", *words.split()]) == 2
    assert run(app, ["model", *words.split(), "a", "--out", "b"]) == 2
    assert capsys.readouterr().err.count("say where it goes, once: --out") == 2


# ---- what is imported

WITHOUT = """
import sys
for name in ("torch", "ray"):
    sys.modules[name] = None  # as if it were not installed
from pipelines.cli import main
main()
"""


def without_torch_and_ray(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["model", "--help"], ["model", "evaluate", "--help"]])
def test_help_needs_neither_torch_nor_ray(arguments: list[str]) -> None:
    done = without_torch_and_ray(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("words")
    done = without_torch_and_ray("model", "evaluate", str(tmp_path), "--text", str(tmp_path / "text"))
    assert done.returncode == 2
    assert done.stderr == "error: this needs torch, which is not installed: pip install 'bamba-data[trainer]'\n"


def test_the_modules_of_commands_import_nothing_heavy_at_the_top() -> None:
    light = {"typer", "bamba_data", "bamba", "dataclasses", "json", "re", "signal", "sys", "pathlib", "typing"}
    for path in [*ROOT.glob("*/cli/*.py"), ROOT / "loader" / "cli.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            tops = {name.split(".")[0] for name in names}
            assert tops <= light | {"collections", "copy", "inspect"}, (path, tops)


# ---- what is shown


def test_controls_in_names_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\x9b1mc\x7f\u202ed\re"
    console().print(evil, markup=False)
    print_json({"name": evil})
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x9b\x7f\u202e\r")
    assert json.loads(shown.partition("\n")[2])["name"] == evil
    assert printable(evil) == r"a\x1b[2Jb\x9b1mc\x7f\u202ed\re"
    assert printable("tab\tand\nline") == "tab\tand\nline"


#: Where streams are written to: here controls are escaped.
EDGES = {"bamba_data/terminal.py", "bamba_data/exit_codes.py"}


def test_whatever_is_written_to_a_stream_goes_through_the_one_place_that_escapes() -> None:
    """Every command prints by `bamba_data.terminal`, or names `printable` where it writes itself."""
    for path in [
        path for room in ("bamba_data", "loader", "trainer", "pipelines") for path in (ROOT / room).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            is_stream = called.endswith((".stdout.write", ".stderr.write")) or called == "stream.write"
            if (is_stream or called in ("typer.echo", "typer.secho", "Console")) and "printable(" not in ast.unparse(
                node
            ):
                where = path.relative_to(ROOT).as_posix()
                assert where in EDGES or "__version__" in ast.unparse(node), f"{where}:{node.lineno}"


EVIL = "x\x1b[2J\x9b1m\u202ey"


def test_no_command_obeys_a_control_in_what_it_is_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every command, with a hostile word for each argument and each option that takes text."""
    for words, command in commands():
        line = words.split()
        for param in command.params:
            if param.param_type_name == "argument" and param.required:
                line.append(f"{tmp_path}/{EVIL}")
            elif param.required:
                line += [param.opts[0], f"{tmp_path}/{EVIL}"]
        run(app, line)
        said = "".join(capfd.readouterr())
        assert not set(said) & set("\x1b\x9b\u202e"), words
        run(app, [*words.split(), f"--{EVIL}"])
        assert not set("".join(capfd.readouterr())) & set("\x1b\x9b\u202e"), words


def fail(text: str) -> None:
    raise UserError(text)


def test_an_error_shows_neither_controls_nor_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_codes.run(alone(fail), ["\x1b[2J s3://key:secret@bucket/x is wrong"]) == 2
    assert capsys.readouterr().err == "error: \\x1b[2J s3://…@bucket/x is wrong\n"


# ---- who has taken our names

#: We are found behind the folders of the path, as by the finder of an editable install: a mere folder shadows us, too.
SHADOWED = f"""
import sys
from importlib.machinery import PathFinder

class Last:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if path is None else None

sys.meta_path.append(Last)
from bamba.pipelines.cli import main
main(["--version"])
"""


@pytest.mark.parametrize("taken", ["loader.py", "trainer/__init__.py", "pipelines"])
def test_who_shadows_our_names_is_said_in_one_line(taken: str, tmp_path: Path) -> None:
    file = tmp_path / taken
    if file.suffix:
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    else:
        file.mkdir()
    name = Path(taken).parts[0].removesuffix(".py")
    done = subprocess.run([sys.executable, "-c", SHADOWED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == f'note: "import {name}" finds {file}, which is not of bamba-data: use "bamba.{name}"\n'


def test_where_nobody_shadows_our_names_nothing_is_said() -> None:
    assert list(intruders()) == []


def test_no_command_at_all_shows_the_help_and_no_empty_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, []) == 2
    said = capsys.readouterr()
    assert "Make a dataset" in said.out + said.err and "error:" not in said.out + said.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("loader pack data --row-tokens 99999999", "row_tokens is 99999999"),
        ("loader pack data --plan plan.json --row-tokens 1024", "--row-tokens beside --plan"),
        ("loader index --recipe r.yaml --name web", "--name beside --recipe"),
        ("model import folder --out=", "--out is empty"),
    ],
)
def test_what_cannot_be_or_is_said_twice_is_one_line(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, line.split()) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_part_that_an_installed_library_lacks_keeps_its_name() -> None:
    odd = typer.Typer()

    @odd.command()
    def old() -> None:
        raise ModuleNotFoundError("No module named 'torch.nn.later'", name="torch.nn.later")

    with pytest.raises(ModuleNotFoundError, match=r"torch\.nn\.later"):
        run(odd, [])


def test_a_password_in_a_url_is_hidden_and_a_bucket_with_a_version_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    odd = typer.Typer()

    @odd.command()
    def fail() -> None:
        raise UserError("of s3://bucket@3, https://user@host/x, https://user:pass@host/x and s3://key:pass@bucket/x")

    assert run(odd, []) == 2
    said = capsys.readouterr().err
    assert said == "error: of s3://bucket@3, https://…@host/x, https://…@host/x and s3://…@bucket/x\n"


def test_a_package_in_a_zip_file_that_takes_our_name_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "egg.zip", "w") as archive:
        archive.writestr("trainer/__init__.py", "")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "egg.zip")}
    command = [sys.executable, "-m", "bamba.pipelines.cli", "show", str(tmp_path / "nothing")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f'"import trainer" finds {tmp_path / "egg.zip"}' in done.stderr
