"""The image is what its files say, by hash, once in its layers, and its first stage makes what it promises."""

import json
import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.k8s.containerfile import CONTAINERFILE, ROOT, faults, instructions

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Of each image.
EXTRAS = {"ray": ["ray"], "pretrain": ["pretrain", "benchmark"]}


def test_an_operator_finds_nothing_to_refuse() -> None:
    assert list(faults(CONTAINERFILE)) == []


PLANTED = {
    "a base by its tag": (r"@sha256:[0-9a-f]{64}", ""),
    "no default base": (r"ARG BASE=\S+", "ARG BASE"),
    "another base for what runs": (r"FROM \$\{BASE\}\n", "FROM docker.io/library/python:3.11\n"),
    "no hashes": (r" --require-hashes", ""),
    "no hashes of what is built": (r" --require-hashes( --no-deps --no-build-isolation)", r"\1"),
    "any package built": (r" --only-binary :all: --no-binary \S+", ""),
    "tools as they come": (r" --no-build-isolation", ""),
    "modes changed in the last stage": (r"RUN mkdir -p /work", "RUN chmod -R a+rX /opt/bamba && mkdir -p /work"),
    "owners changed in the last stage": (r"RUN mkdir -p /work", "RUN chgrp -R 0 /opt/bamba && mkdir -p /work"),
    "pip in the last stage": (r"RUN mkdir -p /work", "RUN pip install --require-hashes -r x && mkdir -p /work"),
    "root": (r"\nUSER 1001", ""),
    "a name for a user": (r"\nUSER 1001", "\nUSER ray"),
    "an entry point": (r"\nCMD ", '\nENTRYPOINT ["bamba-data"]\nCMD '),
    "no profile": (r"\nRUN echo .*profile.*", ""),
}


@pytest.mark.parametrize(("old", "new"), PLANTED.values(), ids=PLANTED)
def test_a_planted_mistake_is_found(old: str, new: str) -> None:
    planted, times = re.subn(old, new, CONTAINERFILE)
    assert times
    assert list(faults(planted)) != []


# ---- what is installed


def pins(name: str) -> dict[str, str]:
    """Of a file of requirements: package to version. Each has a hash, or pip would not take the file."""
    text = (ROOT / "k8s" / f"requirements-{name}.txt").read_text(encoding="utf-8")
    found = re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;\\]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}[^\n]*\n?)+)", text, re.M
    )
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    return {canonical(package): version for package, version, _ in found}


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonical(package): version.split(";")[0].strip() for package, version in found}


@pytest.mark.parametrize("name", [*EXTRAS, "tools"])
def test_versions_of_the_image_are_those_that_were_tested(name: str) -> None:
    """After a change of dependencies: python .ci/requirements.py"""
    tested = constraints()
    assert {
        package: version for package, version in pins(name).items() if tested.get(package, version) != version
    } == {}


@pytest.mark.parametrize(("image", "extras"), EXTRAS.items())
def test_every_dependency_is_among_those_with_a_hash(image: str, extras: list[str]) -> None:
    """After a change of dependencies: python .ci/requirements.py"""
    have = pins(image)
    asked = [*PROJECT["dependencies"]]
    extras = [*extras]
    while extras:
        for line in PROJECT["optional-dependencies"][extras.pop()]:
            wanted = Requirement(line)
            if wanted.name == "bamba-data":
                extras += wanted.extras
            else:
                asked.append(line)
    for line in asked:
        wanted = Requirement(line)
        assert wanted.specifier.contains(have[canonical(wanted.name)]), line


def test_the_images_that_the_guides_build_have_their_files() -> None:
    texts = [CONTAINERFILE, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    asked = {extra for text in texts for extra in re.findall(r"EXTRAS=(\w+)", text)}
    assert asked == set(EXTRAS)


def test_the_environment_of_the_image_is_that_of_the_manifests() -> None:
    assert "HOME=/tmp/home" in CONTAINERFILE and "USER=ray" in CONTAINERFILE


def test_the_context_holds_what_is_copied_and_nothing_that_is_not() -> None:
    lines = (ROOT / ".containerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copies = [one.text.split() for one in instructions(CONTAINERFILE) if one.name == "COPY"]
    copied = {name for words in copies if not words[0].startswith("--from") for name in words[:-1]}
    assert "*" in lines and copied == allowed
    assert all(list(ROOT.glob(name)) for name in copied)


# ---- a login shell


def _is_root_with_namespaces() -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def in_a_login_shell(line: str, tmp_path: Path) -> str:
    """What PATH a login shell has where the image's ENV and `line`, run as the image's layer, were in force. The system
    below is this machine's own, Debian as the image's is; what `line` writes goes when it ends."""
    script = f"mount --make-rprivate / && mount --bind {tmp_path} /etc/profile.d && {line} && exec env -i "
    script += """PATH=/opt/bamba/bin:/usr/bin:/bin HOME=/tmp bash -lc 'echo "$PATH"'"""
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(not _is_root_with_namespaces(), reason="needs root and unshare")
def test_a_login_shell_finds_our_commands_first(tmp_path: Path) -> None:
    layer = next(one.text for one in instructions(CONTAINERFILE) if one.name == "RUN" and "profile.d" in one.text)
    assert in_a_login_shell(layer, tmp_path).split(":")[0] == "/opt/bamba/bin"
    (tmp_path / "bamba.sh").unlink()
    if "Debian" in Path("/etc/os-release").read_text(encoding="utf-8"):
        assert "/opt/bamba/bin" not in in_a_login_shell("true", tmp_path)


# ---- the first stage, run


@pytest.mark.peers
def test_the_first_stage_makes_an_environment_that_runs_and_nobody_can_write(tmp_path: Path) -> None:
    """Every COPY and RUN of it, by a shell, with /opt and the working folder below a folder of ours."""
    source, opt = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    environment = {**os.environ, "EXTRAS": "ray", "BASE": "here@sha256:0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for one in instructions(CONTAINERFILE):
        if one.stage != 1:
            continue
        if one.name == "COPY":
            *names, target = one.text.split()
            for path in [path for name in names for path in ROOT.glob(name)]:
                place = source / target if len(names) == 1 and path.is_dir() else source / target / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, place, **({"symlinks": True} if path.is_dir() else {}))  # type: ignore[operator]
        if one.name == "RUN":
            line = one.text.replace("/opt/", f"{opt}/")
            done = subprocess.run(["sh", "-ec", line], cwd=source, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    made = opt / "bamba"
    said = subprocess.run([made / "bin" / "bamba-data", "recipes"], capture_output=True, text=True, check=True, cwd=opt)
    assert "demo" in said.stdout
    packages = {one["name"]: one["version"] for one in json.loads((made / "sbom.cdx.json").read_text())["components"]}
    assert packages["ray"] == pins("ray")["ray"] and "bamba-data" in packages
    assert not {"pip", "cyclonedx-bom", "setuptools", "torch"} & packages.keys()
    modes = [path.lstat().st_mode for path in made.rglob("*") if not path.is_symlink()]
    assert not any(mode & (stat.S_IWGRP | stat.S_IWOTH) for mode in modes)
    assert all(mode & stat.S_IROTH for mode in modes)
