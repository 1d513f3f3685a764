"""The base install: neither ray nor torch nor matplotlib. What needs them says in one line what to install."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from bamba_data.errors import MissingPackage, UserError
from bamba_data.extras import EXTRAS, require, telling_extras
from tests.wheels import built_wheel


def test_what_is_missing_is_a_user_s_error_and_an_import_s() -> None:
    with pytest.raises(MissingPackage, match=r"needs no_such_package.*'bamba-data\[trainer\]'") as caught:
        require("no_such_package", extra="trainer")
    assert isinstance(caught.value, UserError) and isinstance(caught.value, ImportError)
    assert (caught.value.name, caught.value.extra) == ("no_such_package", "trainer")
    require("json")


def test_another_package_that_is_missing_keeps_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, telling_extras():
        raise ModuleNotFoundError("no", name="torch.of_the_future")
    assert not isinstance(caught.value, MissingPackage)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import loader
loader.OrderSpec, loader.MixPlan
try:
    loader.build_loader
except ImportError as error:
    print(error)
"""


def test_python_code_that_needs_torch_is_told_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert done.stdout == "this needs torch, which is not installed: pip install 'bamba-data[trainer]'\n"


def line(extra: str, *packages: str) -> str:
    return f"error: this needs {', '.join(packages)}, which is not installed: pip install 'bamba-data[{extra}]'"


#: What a base install answers, in one line and before anything is done.
REFUSED = {
    "build demo --out new": line("ray", "ray"),
    "download demo --out new": line("ray", "ray"),
    "submit demo --out s3://bucket/x --address http://127.0.0.1:1": line("ray", "ray"),
    "logs x --address http://127.0.0.1:1": line("ray", "ray"),
    "stop x --address http://127.0.0.1:1": line("ray", "ray"),
    "status --address http://127.0.0.1:1": line("ray", "ray"),
    "index-on-ray demo --out new": line("ray", "ray"),
    "model pretrain --recipe tiny-cpu --out new": line("pretrain", "ray", "torch"),
    "model train --recipe tiny-cpu --out new": line("trainer", "torch"),
    "model evaluate run --text run": line("trainer", "torch"),
    "model generate run --prompt a": line("trainer", "torch"),
    "model export run --out new": line("trainer", "torch"),
    "model memory --recipe bamba-9b-phase1": line("trainer", "torch"),
    "model health": line("trainer", "torch"),
    "loader quality --out pictures": line("plot", "matplotlib"),
}
SERVED = ["--version", "--help", "recipes", "schema", "model schema", "plan demo --out planned"]


#: One process for all commands: each of its own would cost a second of imports.
ASKED = """
import contextlib, io, json, sys
from bamba.pipelines.cli import app, run
answers = {}
for words in json.load(sys.stdin):
    said, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        code = run(app, words.split())
    answers[words] = [code, said.getvalue().strip()]
print(json.dumps(answers))
"""


@pytest.mark.costly
@pytest.mark.timeout(900)
def test_every_command_of_a_base_install_works_or_says_what_to_install(tmp_path: Path) -> None:
    wheel, environment = built_wheel(tmp_path), tmp_path / "venv"
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "pip", "install", "-q", "--disable-pip-version-check", wheel]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the dependencies cannot be installed here: {installed.stderr.strip()[-200:]}")
    site = next((environment / "lib").glob("python*")) / "site-packages"
    assert not [name for name in EXTRAS if (site / name).exists()]

    def run(*arguments: str, stdin: str = "") -> str:
        command = [str(environment / "bin" / "python"), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=tmp_path, check=True).stdout

    (tmp_path / "run").write_text("words")
    answers = json.loads(run("-c", ASKED, stdin=json.dumps([*REFUSED, *SERVED])).splitlines()[-1])
    assert answers == {words: [2, answer] for words, answer in REFUSED.items()} | {words: [0, ""] for words in SERVED}
    assert not (tmp_path / "new").exists() and not (tmp_path / "pictures").exists()
    for module in ("bamba_data", "pipelines", "loader", "trainer"):
        assert "Usage:" in run("-m", module, "--help"), module
