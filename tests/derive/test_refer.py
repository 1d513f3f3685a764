"""merge --refer: shards of other places stay there, and every reader follows."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bamba_data.catalog import expire
from bamba_data.derive.compacting import compact
from bamba_data.derive.merging import merge
from bamba_data.derive.subsetting import subset
from bamba_data.errors import CorruptManifest, ReferredFileMissing, UserError
from bamba_data.exchange.export import export
from bamba_data.format import manifest as manifests
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import manifest_path
from bamba_data.format.referring import unreachable
from bamba_data.inspect import garbage
from bamba_data.inspect.stats import stats
from bamba_data.inspect.trace import find_document, trace
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import S3Store, open_store
from bamba_data.tokenization.conformance import Certificate
from loader import OrderSpec, Reading, build_loader
from pipelines.cli import app, run
from tests.corpora import TOKENIZER, records, write_jsonl
from tests.derive.appended import append
from tests.derive.content import dropped, objects, read
from tests.pushing import TOKEN, command, environment
from tests.servers.hub import HubServer

PULL = """
import huggingface_hub, sys
huggingface_hub.snapshot_download(sys.argv[1], repo_type="dataset", local_dir=sys.argv[2])
"""


@pytest.fixture
def halves(tiny_copy: Path) -> tuple[Path, Path]:
    """The two sources of the tiny dataset as datasets of their own, each with a document dropped."""
    other = Path(shutil.copytree(tiny_copy, tiny_copy.parent / "other"))
    subset(str(tiny_copy), ["lines"], "document_id <> 'doc-4'")
    subset(str(other), ["rows"], "document_id <> 'doc-104'")
    return tiny_copy, other


@pytest.fixture
def referring(halves: tuple[Path, Path], tmp_path: Path) -> Path:
    """The two at a third place, which holds no shard."""
    merge([str(half) for half in halves], str(tmp_path / "out"), refer=True)
    return tmp_path / "out"


def test_nothing_is_copied_and_all_is_read_where_it_lies(
    halves: tuple[Path, Path], referring: Path, tmp_path: Path
) -> None:
    left, right = halves
    assert objects(referring) == {} and len(open_dataset(referring).shards) > 3
    assert read(referring, tmp_path / "cache") == read(left, tmp_path / "cache") + read(right, tmp_path / "cache")
    report = verify(str(referring), full=True)
    assert report.faults == [] and report.shards == len(open_dataset(referring).shards)
    dataset = open_dataset(referring)
    assert dataset.manifest.format == "bamba-data/4" and not dataset.is_whole
    copied = merge([str(left), str(right)], str(tmp_path / "copied"), copy=True)
    assert copied.manifest.identity == dataset.identity and copied.manifest.format == "bamba-data/3"
    for place in ("lines:doc-7", "rows:doc-111"):
        assert trace(dataset, find_document(dataset, place)[0], Fetcher()).same is True
    assert [one.documents for one in stats(dataset)] == [
        one.documents for one in stats(open_dataset(tmp_path / "copied"))
    ]
    urls = set(dataset.shard_urls(with_dropped=True))
    assert urls == {f"{half}/{path}" for half in halves for path in open_dataset(half).shards["path"]}


def test_a_run_reads_it_in_processes_of_its_own_and_goes_on_with_it(referring: Path, tmp_path: Path) -> None:
    spec = OrderSpec(row_tokens=48, batch_rows=4, seed=3, holdout=0)
    rows = []
    for workers in (0, 2):
        loader = build_loader(str(referring), spec, Reading(cache=tmp_path / f"cache-{workers}", num_workers=workers))
        rows.append([next(loader)["input_ids"].tolist() for _ in range(3)])
    assert rows[0] == rows[1]
    dataset = open_dataset(referring)
    dataset.files_store.read(dataset.shards["path"][0])
    assert "files_store" not in pickle.loads(pickle.dumps(dataset)).__dict__


def test_exports_and_pages_have_its_documents(referring: Path, tmp_path: Path) -> None:
    exported = export(open_dataset(referring), "jsonl", str(tmp_path / "exported"))
    assert exported
    assert run(app, ["page", str(referring), "--out", str(tmp_path / "page.html")]) == 0
    assert "doc-1" in (tmp_path / "page.html").read_text()


def test_what_is_derived_from_it_refers_on_until_nothing_is_left_to_refer_to(
    halves: tuple[Path, Path], referring: Path, tmp_path: Path
) -> None:
    wanted = read(referring, tmp_path / "cache")
    dropped(referring, {"doc-7", "doc-111"})
    dataset = open_dataset(referring)
    assert (
        dataset.manifest.format == "bamba-data/4"
        and sum(read(referring, tmp_path / "cache").values()) == sum(wanted.values()) - 2
    )
    before = {half: objects(half) for half in halves}
    compact(str(referring), 0)
    assert verify(str(referring), full=True).faults == []
    assert len(objects(referring)) == len(dataset.masks.unique("shard"))
    assert {half: objects(half) for half in halves} == before
    now = open_dataset(referring)
    referred = set(now.elsewhere["path"]) & set(now.shards["path"])
    assert len(referred) == len(now.shards) - len(objects(referring))
    subset(str(referring), ["lines"], None)
    assert set(open_dataset(referring).elsewhere["store"]) == {str(halves[0])}


def test_an_append_to_it_keeps_new_shards_at_home(referring: Path, tmp_path: Path, certificate: Certificate) -> None:
    write_jsonl(tmp_path / "team" / "inputs" / "code.jsonl", records(11, 700, text_chars=400))
    recipe = tmp_path / "team" / "recipe.yaml"
    recipe.write_text(
        f"name: team\ntokenizer: {{url: package:{TOKENIZER.name}}}\ncorpora:\n"
        '  - {corpus: folder, name: code, base: inputs, form: jsonl, files: ["*.jsonl"]}\n'
    )
    append(referring, recipe)
    assert verify(str(referring), full=True).faults == [] and len(objects(referring)) == 1


def test_sweeps_of_it_touch_nothing_elsewhere_and_keep_what_it_needs(
    halves: tuple[Path, Path], referring: Path
) -> None:
    before = {half: objects(half) for half in halves}
    dropped(referring, {"doc-8"})
    expire(open_store(str(referring)), [1], "")
    garbage.remove(str(referring), garbage.find(str(referring), 0))
    assert {half: objects(half) for half in halves} == before
    assert verify(str(referring), full=True).faults == []


def test_a_shard_that_is_gone_there_is_an_error_that_says_who_must_act(
    halves: tuple[Path, Path], referring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(path for path in open_dataset(referring).shards["path"] if "=rows" in path)
    (halves[1] / path).unlink()
    for full in (False, True):
        faults = verify(str(referring), full=full).faults
        assert [fault.where for fault in faults] == [path]
        assert f"is missing in {halves[1]}, where {referring} refers to it" in faults[0].detail
    with pytest.raises(
        ReferredFileMissing, match=rf"Who keeps {halves[1]} must put it back.*{referring} itself is sound"
    ):
        read(referring, tmp_path / "cache")
    error = ReferredFileMissing("a", "s3://b", "/c")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert run(app, ["trace", str(referring), f"{path}:0"]) == 5
    assert "must put it back" in " ".join(capsys.readouterr().err.split())


@pytest.mark.costly
def test_a_push_of_it_is_whole_and_a_pull_of_that_reads_nothing_elsewhere(tiny_copy: Path, tmp_path: Path) -> None:
    other, out, pulled = tmp_path / "other", tmp_path / "out", tmp_path / "pulled"
    shutil.copytree(tiny_copy, other)
    subset(str(tiny_copy), ["lines"], None)
    subset(str(other), ["rows"], None)
    merge([str(tiny_copy), str(other)], str(out), refer=True)
    assert "lie in other places" in (out / "README.md").read_text() and not (out / "croissant.json").exists()
    (tmp_path / "hub").mkdir()
    with HubServer(tmp_path / "hub", writer=TOKEN) as hub:
        pushed = command(hub, tmp_path / "home", "push", str(out), "hf://datasets/acme/whole")
        assert pushed.returncode == 0, pushed.stderr
        env = environment(hub, tmp_path / "home", None)
        subprocess.run([sys.executable, "-c", PULL, "acme/whole", str(pulled)], env=env, check=True)
    wanted = read(out, tmp_path / "cache")
    shutil.rmtree(tiny_copy)
    shutil.rmtree(other)
    dataset = open_dataset(pulled)
    assert dataset.is_whole and dataset.manifest.digest == open_dataset(out).manifest.digest
    assert verify(str(pulled), full=True).faults == [] and read(pulled, tmp_path / "cache2") == wanted
    assert set(dataset.shard_urls()) == {f"{pulled}/{path}" for path in dataset.shards["path"]}
    assert "dataset=lines/" in (pulled / "README.md").read_text()


def test_what_cannot_be_meant_or_cannot_work_is_refused(
    halves: tuple[Path, Path], referring: Path, tmp_path: Path
) -> None:
    urls = [str(half) for half in halves]
    with pytest.raises(UserError, match="--copy brings the shards of other places, --refer leaves them there: say one"):
        merge(urls, str(tmp_path / "third"), copy=True, refer=True)
    with pytest.raises(UserError, match=r"say --copy; to leave them where they are.* say --refer"):
        merge(urls, str(tmp_path / "third"))
    assert "is a folder of one machine" in str(unreachable(S3Store("s3://bucket/home"), "/data/corpus"))
    assert unreachable(open_store("/home/corpus"), "s3://bucket/corpus") is None
    for strange in ("../corpus", "https://host/corpus", "file:///corpus"):
        assert "neither s3://" in str(unreachable(open_store("/home/corpus"), strange))


def test_who_knows_only_the_third_format_refuses_it_by_name(referring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (referring / manifest_path(open_dataset(referring).manifest.digest)).read_bytes()
    with pytest.raises(CorruptManifest, match=r"derived\.elsewhere: is no field of 'bamba-data/3'"):
        manifests.loads(data.replace(b"bamba-data/4", b"bamba-data/3"), "here")
    monkeypatch.setattr(manifests, "FORMATS", ("bamba-data/1", "bamba-data/2", "bamba-data/3"))
    with pytest.raises(CorruptManifest, match="format is 'bamba-data/4'"):
        manifests.loads(data, "here")


def test_referring_to_what_refers_names_the_place_where_it_lies(
    halves: tuple[Path, Path], referring: Path, tmp_path: Path, certificate: Certificate
) -> None:
    write_jsonl(tmp_path / "team" / "inputs" / "code.jsonl", records(11, 700, text_chars=400))
    subset(str(referring), ["lines"], None)
    made = merge([str(referring), str(halves[1])], str(tmp_path / "far"), refer=True)
    far = open_dataset(tmp_path / "far")
    assert set(far.elsewhere["store"]) == set(map(str, halves)) and made.manifest.identity == far.identity
    assert verify(str(tmp_path / "far"), full=True).faults == []
    merge([str(referring), str(halves[1])], str(tmp_path / "copied"), copy=True)
    assert open_dataset(tmp_path / "copied").manifest.format == "bamba-data/3"
    assert verify(str(tmp_path / "copied"), full=True).faults == []


@pytest.mark.s3
def test_a_dataset_on_a_disk_refers_to_a_bucket_and_one_in_a_bucket_to_another(
    halves: tuple[Path, Path], bucket: str, tmp_path: Path
) -> None:
    for place, half in zip(("left", "right"), halves, strict=True):
        far = open_store(f"{bucket}/{place}")
        for file in half.rglob("*"):
            if file.is_file():
                far.put(file.relative_to(half).as_posix(), file.read_bytes())
    wanted = read(halves[0], tmp_path / "cache") + read(halves[1], tmp_path / "cache")
    before = {entry.path for entry in open_store(f"{bucket}/left").list()}
    for out in (f"{bucket}/all", str(tmp_path / "all")):
        merge([f"{bucket}/left", f"{bucket}/right"], out, refer=True)
        assert verify(out, full=True).faults == [] and read(out, tmp_path / "cache") == wanted
    assert {entry.path for entry in open_store(f"{bucket}/left").list()} == before
    with pytest.raises(UserError, match=r"--refer: .* is a folder of one machine.*say --copy"):
        merge([f"{bucket}/left", str(halves[1])], f"{bucket}/third", refer=True)
    shard = next(entry.path for entry in open_store(f"{bucket}/right").list() if "=rows" in entry.path)
    open_store(f"{bucket}/right").delete(shard)
    (fault,) = verify(str(tmp_path / "all"), full=False).faults
    assert fault.where == shard and f"is missing in {bucket}/right" in fault.detail
