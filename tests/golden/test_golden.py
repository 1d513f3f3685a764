"""What earlier versions wrote stays readable: datasets, states, plans and indexes in `format-1` are those of the first
format (make.py says how they were made). They open, verify, trace and go on with the same bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.trace import find_document, trace
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from loader.dataset import Loader, build_loader
from loader.sources.shards import open_blocks
from loader.text.index_format import read_arrays, read_index
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here
from tests.golden.digests import of_batches, of_first_batches, of_ids

FIRST = Path(__file__).parent / "format-1"
ABOUT: dict[str, Any] = json.loads((FIRST / "about.json").read_text())
PACKINGS = sorted(ABOUT["packings"])


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A copy of the dataset of the first format."""
    return str(shutil.copytree(FIRST / "dataset", tmp_path / "dataset"))


def loader_of(dataset: str, packing: str, cache: Path) -> Loader:
    asked = ABOUT["packings"][packing]["asked"]
    return build_loader(dataset, {"lines": 2, "rows": 1}, packing=packing, cache=cache, **asked)


def state_of(packing: str) -> dict[str, Any]:
    return dict(json.loads((FIRST / f"state-{packing}.json").read_text()))


def test_a_dataset_of_the_first_format_is_sound(dataset: str) -> None:
    report = verify(dataset, full=True)
    assert report.faults == []
    assert (report.documents, report.shards) == (100, 10)
    assert report.dataset == ABOUT["manifest"]


@pytest.mark.parametrize("document", ["lines:doc-3", "lines:doc-47-892", "rows:doc-139"])
def test_a_row_of_the_first_format_traces_to_its_line(dataset: str, document: str) -> None:
    opened = open_dataset(dataset)
    (row,) = find_document(opened, document)
    found = trace(opened, row, Fetcher(), {"lines": str(FIRST / "inputs"), "rows": str(FIRST / "inputs")})
    assert found.why == ""
    assert found.same
    assert found.document_id == document.partition(":")[2]
    assert found.text == found.decoded


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_order_of_the_first_format_is_served_and_its_states_resume(
    dataset: str, packing: str, tmp_path: Path
) -> None:
    wanted = ABOUT["packings"][packing]
    loader = loader_of(dataset, packing, tmp_path / "cache")
    assert of_batches(next(loader) for _ in range(5)) == wanted["first_5"]
    resumed = loader_of(dataset, packing, tmp_path / "cache")
    resumed.load_state_dict(state_of(packing))
    assert of_batches(next(resumed) for _ in range(20)) == wanted["next_20"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_plan_of_the_first_format_with_a_change_of_mix_goes_on(dataset: str, packing: str, tmp_path: Path) -> None:
    loader = build_loader(dataset, plan=FIRST / f"plan-{packing}.json", cache=tmp_path / "cache", num_workers=0)
    loader.load_state_dict(state_of(packing))
    assert of_batches(next(loader) for _ in range(20)) == ABOUT["packings"][packing]["next_20_of_the_plan"]


def test_an_index_of_texts_of_the_first_format_opens() -> None:
    store, key = open_store(FIRST / "index"), ABOUT["text_index"]["key"]
    index = read_index(store, key)
    assert index is not None
    assert index.content == ABOUT["text_index"]["content"]
    assert int(read_arrays(store, key, index)["documents"].sum()) == 40


def test_the_demo_has_the_ids_that_it_always_had(demo: Path, tmp_path: Path) -> None:
    blocks = open_blocks(open_dataset(str(demo)), tmp_path / "cache")
    assert {name: of_ids(each) for name, each in blocks.items()} == ABOUT["demo"]["ids"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_demo_is_served_in_the_order_that_it_always_was(demo: Path, packing: str, tmp_path: Path) -> None:
    assert of_first_batches(str(demo), packing, tmp_path / "cache") == ABOUT["demo"]["rows"][packing]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The dataset of the first format, and after it the same inputs built anew, as version 2."""
    folder = tmp_path_factory.mktemp("golden") / "format-1"
    shutil.copytree(FIRST, folder)
    recipe, beside = load_recipe(str(folder / "golden.yaml"), [])
    ready = prepare(recipe, beside, str(folder / "dataset"), Fetcher())
    assert not run_here(ready, Fetcher())
    version, _ = finish(ready)
    assert version.number == 2
    return str(folder / "dataset")


def test_the_same_inputs_built_anew_have_the_content_that_they_had(rebuilt: str) -> None:
    before, after = open_dataset(rebuilt, 1), open_dataset(rebuilt, 2)
    assert verify(rebuilt, 1, full=True).faults == verify(rebuilt, 2, full=True).faults == []
    assert before.manifest.digest == ABOUT["manifest"] != after.manifest.digest
    for name in ("lines", "rows"):
        assert before.identities[name].content == after.identities[name].content
        assert before.identities[name].document_ids is None


@pytest.mark.parametrize("packing", PACKINGS)
def test_states_and_plans_of_the_first_format_go_on_with_what_was_built_anew(
    rebuilt: str, packing: str, tmp_path: Path
) -> None:
    wanted = ABOUT["packings"][packing]
    resumed = loader_of(rebuilt, packing, tmp_path / "cache")
    resumed.load_state_dict(state_of(packing))
    assert of_batches(next(resumed) for _ in range(20)) == wanted["next_20"]
    planned = build_loader(rebuilt, plan=FIRST / f"plan-{packing}.json", cache=tmp_path / "cache", num_workers=0)
    planned.load_state_dict(state_of(packing))
    assert of_batches(next(planned) for _ in range(20)) == wanted["next_20_of_the_plan"]
    later = planned.state_dict()  # of today's format, from a plan of the first
    again = build_loader(rebuilt, plan=planned.plan, cache=tmp_path / "cache", num_workers=0)
    again.load_state_dict(later)


def test_a_plan_whose_manifest_lies_nowhere_here_is_refused_with_the_reason(rebuilt: str, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(rebuilt, alone)
    (alone / f"_bamba/manifests/{ABOUT['manifest']}.json").unlink()
    with pytest.raises(UserError, match=f"manifest {ABOUT['manifest'][:16]}…, which does not lie in this store"):
        build_loader(str(alone), plan=FIRST / "plan-chunk.json", cache=tmp_path / "cache")
