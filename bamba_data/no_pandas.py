"""pyarrow without pandas, for processes that are ours alone.

At the first list that becomes an array, pyarrow imports pandas if it is installed, only to see whether the list is one
of its series: 0.2 processor seconds and 40 MB of every worker of a build, which has no use for them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is spared", name=name)


def spare_pandas() -> None:
    """For the rest of this process pyarrow takes pandas for not installed (`to_pandas` raises). `import pandas` itself
    works as before. Does nothing where pandas is imported already."""
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])  # pyarrow looks for pandas once in the life of a process
    finally:
        sys.meta_path.remove(finder)
