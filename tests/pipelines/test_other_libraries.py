"""Under other versions of the libraries that write bytes, a dataset is the same dataset, and a build of it goes on."""

import json
from pathlib import Path

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.format.versions import versions
from bamba_data.inspect.verify import verify
from bamba_data.tokenization.conformance import Certificate
from loader.dataset import build_loader
from tests.building import build, tiny_inputs
from tests.golden.digests import of_batches
from tests.peers import environment, run

pytestmark = pytest.mark.peers

OLD = ["pyarrow==20.0.0", "tokenizers==0.22.2", "polars==1.30.0"]

BUILD = """
import json, sys
import pyarrow, tokenizers, polars
assert pyarrow.__version__.startswith("20."), pyarrow.__version__
from pathlib import Path
from bamba_data.tokenization.conformance import choose
from bamba_data.format.dataset import open_dataset
from bamba_data.format.versions import versions
from bamba_data.storage.store import open_store
from bamba_data.tokenization.tokenizer import Tokenizer
from bamba_data.inspect.verify import verify
from tests.building import build
from tests.corpora import TOKENIZER
out, recipe = sys.argv[1:]
build(out, choose(Tokenizer(TOKENIZER.read_bytes()), "gigatoken")[1], recipe)
dataset = open_dataset(out)
print(json.dumps({"versions": versions(open_store(out)), "identity": dataset.identity,
                  "digest": dataset.manifest.digest, "faults": [str(f) for f in verify(out, full=True).faults]}))
"""

READ = """
import json, sys
from loader.dataset import build_loader
from tests.golden.digests import of_batches
url, cache, state = sys.argv[1:]
loader = build_loader(url, row_tokens=32, batch_rows=4, seed=5, cache=cache)
if state:
    loader.load_state_dict(json.loads(state))
print(of_batches([next(loader) for _ in range(5)]))
print(json.dumps(loader.state_dict()))
"""


@pytest.fixture(scope="module")
def old() -> Path:
    return environment("old-libraries", OLD)


def test_identity_is_equal_and_each_side_goes_on_with_the_other_s_work(
    old: Path, certificate: Certificate, tmp_path: Path
) -> None:
    recipe = str(tiny_inputs(tmp_path))
    theirs = json.loads(run(old, BUILD, tmp_path / "theirs", recipe).splitlines()[-1])
    assert theirs["faults"] == []
    build(tmp_path / "ours", certificate, recipe)
    ours = open_dataset(str(tmp_path / "ours"))
    assert ours.identity == theirs["identity"]
    assert ours.manifest.digest != theirs["digest"]  # other software wrote it, and its shards say so

    # a finished build, run again after the libraries changed, publishes nothing, in either direction
    build(tmp_path / "theirs", certificate, recipe)
    assert versions(open_dataset(str(tmp_path / "theirs")).store) == [1]
    again = json.loads(run(old, BUILD, tmp_path / "ours", recipe).splitlines()[-1])
    assert again == {"versions": [1], "identity": ours.identity, "digest": ours.manifest.digest, "faults": []}
    assert verify(str(tmp_path / "theirs"), full=True).faults == []

    # a state taken on one resumes on the other, with the same rows
    rows, state = run(old, READ, tmp_path / "theirs", tmp_path / "old-cache", "").splitlines()[-2:]
    loader = build_loader(str(tmp_path / "ours"), row_tokens=32, batch_rows=4, seed=5, cache=tmp_path / "cache")
    assert of_batches([next(loader) for _ in range(5)]) == rows
    loader.load_state_dict(json.loads(state))
    resumed, _ = run(old, READ, tmp_path / "theirs", tmp_path / "old-cache", state).splitlines()[-2:]
    assert of_batches([next(loader) for _ in range(5)]) == resumed
