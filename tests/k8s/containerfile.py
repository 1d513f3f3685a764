"""The Containerfile, read: its stages, its instructions, and what an operator refuses in one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTAINERFILE = (ROOT / "k8s" / "Containerfile").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Instruction:
    """One line as the builder sees it, continuations joined; `stage` is 0 before the first FROM."""

    stage: int
    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    found, stage = [], 0
    for line in lines.replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(rest.split())))
    return found


def faults(text: str) -> Iterator[str]:
    every = instructions(text)
    last = [one for one in every if one.stage == every[-1].stage]
    base = next((one.text for one in every if one.name == "ARG" and one.text.startswith("BASE=")), "")
    if not re.search(r"@sha256:[0-9a-f]{64}$", base):
        yield f"the base is not named by its digest: {base or 'no default'}"
    yield from (f"{one.text}: another base" for one in every if one.name == "FROM" and "${BASE}" not in one.text)
    for one in every:
        if one.name == "RUN":
            for install in re.findall(r"pip(?: --python \S+)? install ([^&]*)", one.text):
                if "--require-hashes" not in install and not re.search(r"--no-deps .*/\*\.whl", install):
                    yield f"installed without hashes: {install}"
            for wheel in re.findall(r"pip wheel ([^&]*)", one.text):
                if "--no-build-isolation" not in wheel:
                    yield "a wheel is built by tools that are fetched as they come"
                if "-r " in wheel and not ("--require-hashes" in wheel and "--only-binary :all:" in wheel):
                    yield f"whatever comes is built, or without hashes: {wheel}"
    copied = [one.text.split()[-1] for one in last if one.name == "COPY"]
    for one in last:
        if one.name == "RUN":
            if re.search(r"\bpip\b", one.text):
                yield f"the last stage installs: {one.text}"
            if any(re.search(rf"\b(chmod|chown|chgrp|cp|mv)\b[^&]* {re.escape(path)}\b", one.text) for path in copied):
                yield f"a second copy of what was copied: {one.text}"
    users = [one.text for one in last if one.name == "USER"]
    if not users or not users[-1].isdecimal() or users[-1] == "0":
        yield f"runs as {users or 'root'}"
    if any(one.name == "ENTRYPOINT" for one in last):
        yield "an entry point is in the way of KubeRay's command"
    if "/etc/profile.d/" not in " ".join(one.text for one in last if one.name == "RUN"):
        yield "a login shell does not find our commands"
