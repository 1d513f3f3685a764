"""One thing that was checked: whether it is there, and if not, what a person can do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """`where` is a node, or `here`. `way_out` is for a person, empty if all is well."""

    where: str
    check: str
    verdict: Severity
    detail: str
    way_out: str = ""

    @property
    def is_missing(self) -> bool:
        return self.verdict == "missing"


def ok(check: str, detail: str) -> Finding:
    return Finding("", check, "ok", detail)


def missing(check: str, detail: str, way_out: str) -> Finding:
    """A build would fail for it."""
    return Finding("", check, "missing", detail, way_out)


def judged(check: str, is_well: bool, detail: str, way_out: str, otherwise: Severity = "missing") -> Finding:
    """`otherwise` is "note" for what makes a build slower, or may be as it should be."""
    return ok(check, detail) if is_well else Finding("", check, otherwise, detail, way_out)
