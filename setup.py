"""What a wheel holds (the rest stands in pyproject.toml): our code at an address that nothing else takes, `bamba.…`,
and at the short names `loader`, `trainer`, `pipelines` a few lines that lead there (bamba/__init__.py)."""

from setuptools import find_packages, setup

SHORT_NAMES = ("loader", "trainer", "pipelines")

setup(
    packages=[*find_packages(include=["bamba", "bamba.*", "bamba_data", "bamba_data.*"]), *SHORT_NAMES],
    package_dir={name: f"bamba/_top_level/{name}" for name in SHORT_NAMES},
)
