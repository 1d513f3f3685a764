"""The raw mirror: downloaded by a Ray job, verified, and enough to build from with the network gone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bamba_data.errors import CorruptInput, UserError
from bamba_data.format.versions import Version
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.paths import checked, stored_name
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.driver import Prepared, finish, prepare, run_here
from tests.corpora import recipe, records, write_jsonl
from tests.running import bamba, bamba_on_a_terminal
from tests.servers.faults import Fault, Status
from tests.servers.hub import HubServer

FILES, FOREVER = 12, 1 << 30
REQUESTS_PER_SECOND = 5
#: One of a name that is fine for its host and for no Windows disk.
NAMES = [*(f"{n}.json.gz" for n in range(FILES - 1)), "11: 50% off?#cafe\u0301.json.gz"]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[HubServer]:
    """A plain file host, which knows no sha256, and answers 429 to whoever asks more often than it likes."""
    for n, name in enumerate(NAMES):
        write_jsonl(tmp_path / "upstream" / "files" / name, records(10, n * 10))
    with HubServer(tmp_path / "upstream", rate_limit=REQUESTS_PER_SECOND + 1) as server:
        yield server


def asked(folder: Path, upstream: HubServer) -> list[str]:
    path = recipe(folder, files=NAMES, backend="tokenizers")
    network = f"network={{retry_seconds: 3, requests_per_second: {REQUESTS_PER_SECOND}, burst: 1}}"
    return [str(path), "--set", f"corpora.0.base={upstream.url}/files", "--set", network]


def prepared(words: list[str], out: Path, mirror: Path | None = None) -> Prepared:
    loaded, folder = load_recipe(words[0], [words[2], words[4]])
    return prepare(loaded, folder, str(out), Fetcher(retry_seconds=3), mirror=str(mirror) if mirror else None)


def built(ready: Prepared) -> Version:
    faults = run_here(ready, Fetcher(retry_seconds=3))
    if faults:
        raise faults[0]
    return finish(ready)[0]


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("dataset=*/*.parquet")}


@pytest.mark.costly
@pytest.mark.ray
def test_a_mirror_goes_on_where_it_stopped_and_is_enough_to_build_what_its_upstream_builds(
    upstream: HubServer, tmp_path: Path
) -> None:
    words, mirror = asked(tmp_path, upstream), tmp_path / "mirror"
    upstream.faults.append(Fault("GET .*/1.json.gz", Status(503), times=FOREVER))
    done = bamba("download", *words, "--to", mirror, "--workers", "2")
    assert done.returncode == 4 and "1.json.gz" in done.stderr and "error:" in done.stderr
    with pytest.raises(UserError, match="no finished mirror"):
        prepared(words, tmp_path / "early", mirror)

    upstream.faults.clear()
    before = len(upstream.requests)
    code, seen = bamba_on_a_terminal("download", *words, "--to", mirror, "--workers", "2")
    assert code == 0, seen
    assert f"units {FILES}/{FILES}" in seen and f"mirrored {FILES} files" in seen
    assert {request.path for request in upstream.requests[before:] if request.method == "GET"} == {"/files/1.json.gz"}
    assert 429 not in {request.status for request in upstream.requests}  # eight tasks at once, one budget
    for path in (tmp_path / "upstream" / "files").iterdir():
        assert (mirror / stored_name(f"texts/{path.name}")).read_bytes() == path.read_bytes()

    assert all(checked(path.relative_to(mirror).as_posix()) for path in mirror.rglob("*.gz"))

    built(prepared(words, tmp_path / "direct"))
    before = len(upstream.requests)
    built(prepared(words, tmp_path / "mirrored", mirror))
    assert len(upstream.requests) == before  # with no other network
    assert shards(tmp_path / "mirrored") == shards(tmp_path / "direct") != {}

    with pytest.raises(UserError, match="mirror of other inputs"):
        prepared([*words[:4], "limits.files=1"], tmp_path / "other", mirror)

    damaged = mirror / "texts" / "2.json.gz"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(CorruptInput, match=r"2\.json\.gz"):
        built(prepared(words, tmp_path / "third", mirror))
