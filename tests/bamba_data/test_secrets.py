"""No URL with a secret in it is taken, wherever it is given; and no secret of the environment is ever shown."""

import json
from pathlib import Path

import pytest

from pipelines.cli import app, run

SECRET = "s3cr3t-of-these-tests"
URLS = [f"s3://key:{SECRET}@bucket/x", f"https://user:{SECRET}@host/x", f"https://{SECRET}@host/x"]

COMMANDS = [
    ["lock", "demo", "--out", "URL"],
    ["plan", "demo", "--out", "URL"],
    ["build", "demo", "--out", "URL"],
    ["download", "demo", "--to", "URL"],
    ["lock", "demo", "--out", "OUT", "--mirror", "URL"],
    ["lock", "demo", "--out", "OUT", "--set", "corpora.0.base=URL"],
    ["build", "demo", "--out", "OUT", "--set", "corpora.1.base=URL"],
    ["build", "demo", "--out", "OUT", "--set", "tokenizer.url=URL"],
    ["plan", "demo", "--out", "OUT", "--set", "tokenizer={url: 'URL'}"],
    ["show", "URL"],
    ["stats", "URL"],
    ["verify", "URL"],
    ["trace", "URL", "0:0"],
    ["diff", "URL", "OUT"],
    ["sweep", "URL"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("url", URLS, ids=["s3", "https", "token"])
def test_a_url_with_credentials_is_refused_wherever_it_is_given_and_not_shown(
    command: list[str], url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [part.replace("URL", url).replace("OUT", str(tmp_path / "out")) for part in command]
    exit_code = run(app, arguments)
    said = "".join(capfd.readouterr())
    assert (exit_code, "credentials in it is refused" in said) == (2, True)
    assert SECRET not in said


@pytest.mark.parametrize("url", URLS, ids=["s3", "https", "token"])
def test_a_second_dataset_or_a_base_with_credentials_is_refused(
    url: str, demo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codes = [run(app, ["diff", str(demo), url]), run(app, ["trace", str(demo), "0:0", "--base", f"books={url}"])]
    said = "".join(capfd.readouterr())
    assert codes == [2, 2]
    assert SECRET not in said


def test_secrets_of_the_environment_stand_in_no_file_of_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    assert run(app, ["lock", "demo", "--out", str(tmp_path), "--json"]) == 0
    said = capfd.readouterr().out
    assert json.loads(said)["files"]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert SECRET not in said
    assert not any(SECRET.encode() in data for data in written)
