"""The deduper of dolma, run as a peer: the part in Rust that `dolma dedupe` calls, with the configuration it is given.

The package itself imports taggers, which want libraries of their own (fasttext); the deduper wants none of them.
"""

import json
from pathlib import Path
from typing import Any

from tests.peers import environment, run

REQUIREMENTS = ["--no-deps", "dolma==1.2.1"]
DEDUPE = """
import sys, sysconfig, types
from pathlib import Path

package = types.ModuleType("dolma")
package.__path__ = [str(Path(sysconfig.get_paths()["purelib"]) / "dolma")]
sys.modules["dolma"] = package
from dolma.dolma import deduper_entrypoint

for config in sys.argv[1:]:
    deduper_entrypoint(config)
"""


def dedupe(folder: Path, *steps: dict[str, Any]) -> None:
    """Run steps one after the other: `documents` below `folder`, `name` of the attributes, `dedupe` as in dolma's own
    configuration, and whether the Bloom filter, `folder/bloom.bin`, is `read_only`. Attributes come beside `documents`.
    """
    configs = []
    for step in steps:
        parts = {"num_partitions": 1, "partition_index": 0, "file_partition": False, "document_dir": "documents"}
        bloom = {"file": str(folder / "bloom.bin"), "read_only": step["read_only"], "size_in_bytes": 0}
        config = {
            "documents": [f"{folder / step['documents']}/documents/*.gz"],
            "dedupe": {"name": step["name"], "skip_empty": True, "min_length": 0, "min_words": 0, **parts},
            "bloom_filter": {**bloom, "estimated_doc_count": 1000, "desired_false_positive_rate": 1e-9},
            "is_s3_volume": False,
            "work_dir": {"input": str(folder / "work-in"), "output": str(folder / "work-out")},
            "processes": 1,
            "compression": {"input": None, "output": None},
            "dryrun": False,
        }
        config["dedupe"] |= step["dedupe"]
        configs.append(json.dumps(config))
    run(environment("dolma", REQUIREMENTS, ours_below=False), DEDUPE, *configs)
