"""What a wheel holds (the rest stands in pyproject.toml): our code at an address that nothing else takes, `bamba.…`, at
the short names `loader`, `trainer`, `pipelines` a few lines that lead there (bamba/__init__.py), and README.md as the
page of an index shows it. And bamba_data/native.c, compiled where there is a C compiler; all works without it.

Where the sources live stands in one place, `repository-code` of CITATION.cff. With it the wheel has the project's URLs
and absolute links; without it links are words: an index shows the page far from the files that it links to.
"""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SHORT_NAMES = ("loader", "trainer", "pipelines")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")


def repository() -> str | None:
    """The address of the sources, without a slash at its end; None where it is not said."""
    citation = ROOT / "CITATION.cff"
    text = citation.read_text(encoding="utf-8") if citation.is_file() else ""
    said = re.search(r"^repository-code:\s*[\"']?(https://[^\s\"']+?)/?[\"']?\s*$", text, re.MULTILINE)
    return said[1] if said else None


def urls(address: str | None) -> dict[str, str]:
    """The links beside a project's page on an index."""
    pages = {"Repository": "", "Documentation": "/tree/HEAD/docs", "Changelog": "/blob/HEAD/CHANGELOG.md"}
    return {name: f"{address}{path}" for name, path in pages.items()} if address else {}


def page_of_the_index(text: str, address: str | None) -> str:
    """README.md with links that hold anywhere: below `address`, or, without one, words in the place of links to files
    and nothing in the place of pictures."""

    def elsewhere(match: re.Match[str]) -> str:
        is_picture, words, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        if address is None:
            return "" if is_picture else words
        return f"{is_picture}[{words}]({address}/{'raw' if is_picture else 'blob'}/HEAD/{target})"

    return _LINK.sub(elsewhere, text)


class BuildNative(build_ext):
    """Plain C that ctypes loads: one file for every Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


class NativeWheel(bdist_wheel):
    """Of this platform, and for every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


NATIVE = Extension("bamba_data.native_code", ["bamba_data/native.c"], optional=True, extra_compile_args=["-O3"])

if __name__ == "__main__":
    setup(
        ext_modules=[NATIVE],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": NativeWheel},
        packages=[*find_packages(include=["bamba", "bamba.*", "bamba_data", "bamba_data.*"]), *SHORT_NAMES],
        package_dir={name: f"bamba/_top_level/{name}" for name in SHORT_NAMES},
        long_description=page_of_the_index((ROOT / "README.md").read_text(encoding="utf-8"), repository()),
        long_description_content_type="text/markdown",
        project_urls=urls(repository()),
    )
