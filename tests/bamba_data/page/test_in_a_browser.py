"""The page in a real browser, at a desk and on a phone: all there, nothing run or fetched that was in the data."""

import threading
from pathlib import Path
from typing import Any

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.page.browse import Browser
from bamba_data.page.content import content
from bamba_data.page.file import page
from bamba_data.page.planned import PlannedMix, PlannedStretch
from bamba_data.page.server import Server
from bamba_data.tokenization.conformance import Certificate
from tests.browser import Tab, browser
from tests.building import build
from tests.corpora import TOKENIZER, lines, write_jsonl

pytestmark = pytest.mark.costly

RUNS = "<script>document.body.dataset.owned = 1</script>"
IDS = [
    f"</script>{RUNS}",
    "<img src=x onerror='document.body.dataset.owned = 1'>",
    '" onmouseover="document.body.dataset.owned = 1\' & &lt;',
    "\u202egpj.exe",
    "مرحبا بالعالم",
    "x" * 5_000,
    "\u2028\u2029\ufeff\u200b",
    "escape \x1b[2J \x01",
]
SECTIONS = ["documents", "mix", "lengths", "licences", "ledger", "versions", "identity"]


@pytest.fixture(scope="module")
def hostile(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in which everything that a stranger can write is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    good = [{"id": f"{one}{n}", "text": f"{one[:80]} text number {n}"} for n in range(5) for one in IDS]
    bad = b"\xff" + RUNS.encode() + b"\n" + b'{"id": "nul", "text": "a\\u0000b"}\n'
    write_jsonl(folder / "inputs" / "<b>.json.gz", lines(good) + bad)
    (folder / "hostile.yaml").write_text(
        f"""
name: hostile
tokenizer: {{url: package:{TOKENIZER.name}}}
corpora:
  - {{corpus: folder, name: lines, base: inputs, form: jsonl, files: ["*.json.gz"], license: {RUNS!r},
     attribution: {RUNS!r}}}
bad_input: {{max_bad_rate: 0.5}}
""",
        encoding="utf-8",
    )
    build(folder / "dataset", certificate, str(folder / "hostile.yaml"))
    return folder / "dataset"


def opened_all(tab: Tab) -> None:
    tab.ask("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    tab.ask("new Promise((done) => setTimeout(done, 100))")  # their contents are made by an event


def check(tab: Tab, width: int) -> None:
    """Nothing in the data has run, become an element, or made the page wider than the screen."""
    assert tab.complaints == []
    assert tab.ask("document.body.dataset.owned ?? null") is None
    assert tab.ask("[document.scripts.length, document.images.length]") == [2, 0]
    assert tab.ask("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_data_is_text(hostile: Path, tmp_path: Path, width: int) -> None:
    dataset = open_dataset(str(hostile))
    file = tmp_path / "page.html"
    file.write_text(page(content(dataset, url=f"/place/{RUNS}", documents=100)), encoding="utf-8")
    with browser() as tab:
        for dark in (False, True):
            tab.open(file.as_uri(), width, dark=dark)
            assert tab.ask("[...document.querySelectorAll('section')].map((one) => one.id)") == SECTIONS
            opened_all(tab)
            check(tab, width)
            assert tab.requests == [file.as_uri()]
        text = tab.ask("document.body.textContent")
        assert RUNS in text and "\\u202egpj.exe" in text and "\u202egpj" not in text
        assert "ff 3c 73 63 72 69 70 74" in text, "the raw bytes of a dead letter"
        tab.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000


@pytest.mark.parametrize("width", [390, 1280])
def test_bars_of_a_plan_are_as_long_as_its_shares_and_what_it_leaves_out_has_none(
    tiny: Path, tmp_path: Path, width: int
) -> None:
    long = "elsewhere-" * 6
    shares = {"lines": 0.25, long: 0.75}
    plan = PlannedMix("<b>.json", 4096, [PlannedStretch(0, None, 384, shares)], 1, [long])
    file = tmp_path / "page.html"
    file.write_text(page(content(open_dataset(str(tiny)), url="place", plan=plan)), encoding="utf-8")
    with browser() as tab:
        tab.open(file.as_uri(), width)
        check(tab, width)
        rows = tab.ask("""[...document.querySelectorAll('.mixrow')].map((row) => ({
            name: row.firstChild.textContent,
            planned: row.querySelector('.value .soft').textContent,
            bar: getComputedStyle(row.querySelector('.bar.second')).visibility === 'hidden' ? 0
              : row.querySelector('.bar.second').getBoundingClientRect().width,
            right: [...row.querySelectorAll('.value div')].map((one) => {
              const range = document.createRange();
              range.selectNodeContents(one);
              return [range.getClientRects().length ? Math.round(range.getBoundingClientRect().right) : 0,
                one.getBoundingClientRect().height < 25];
            }),
        }))""")
        by_name = {row["name"]: row for row in rows}
        assert by_name["rows"]["planned"] == "left out" and by_name["rows"]["bar"] == 0
        assert by_name["lines"]["planned"].startswith("25.0% · epoch ")
        assert by_name[long]["planned"] == "75.0% · not here"
        assert by_name[long]["bar"] == pytest.approx(3 * by_name["lines"]["bar"], rel=0.02)
        edges = {edge for row in rows for edge, _ in row["right"]}
        assert len(edges) == 1, "numbers end at one edge"
        assert all(one_line for row in rows for _, one_line in row["right"])


def shown(tab: Tab) -> Any:
    return tab.ask("[...document.querySelectorAll('#documents details .id')].map((one) => one.textContent)")


def search(tab: Tab, text: str) -> None:
    tab.ask(
        "(() => { const one = document.querySelector('#documents input[type=search]');"
        f" one.value = {text!r}; one.dispatchEvent(new Event('input')); }})()"
    )


def until_shown(tab: Tab, count: int) -> None:
    """Wait, for as long as the test may take, until so many documents are listed."""
    listed = "document.querySelectorAll('#documents details').length"
    tab.ask(
        f"new Promise((done) => {{ const look = () => {listed} === {count} ? done() : setTimeout(look, 50); look(); }})"
    )


def test_the_search_of_a_file_is_among_its_samples(hostile: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(content(open_dataset(str(hostile)), url="place", documents=100)), encoding="utf-8")
    with browser() as tab:
        tab.open(file.as_uri(), 390)
        search(tab, "NUMBER 3")
        assert len(shown(tab)) == len(IDS)
        assert "8 of 40 samples" in tab.ask("document.querySelector('#documents .note').textContent")
        assert tab.ask("document.querySelector('#documents mark').textContent") == "number 3"


def test_a_server_lets_the_page_leaf_and_search(hostile: Path) -> None:
    dataset = open_dataset(str(hostile))
    made = page(content(dataset, url="place", live=True))
    with Server(made, Browser(dataset)) as server, browser() as tab:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tab.open(server.url, 390)
            until_shown(tab, 20)
            tab.ask(
                "[...document.querySelectorAll('#documents button')].find((one) => one.innerText === 'More').click()"
            )
            until_shown(tab, 40)
            search(tab, "number 4")
            until_shown(tab, len(IDS))
            opened_all(tab)
            check(tab, 390)
            own = server.url.partition("/?")[0]
            assert all(request.startswith(own) for request in tab.requests if "favicon" not in request)
        finally:
            server.stop()
            thread.join()
