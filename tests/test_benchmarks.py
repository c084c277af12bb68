"""The benchmark: its contenders keep what they are given, its arithmetic is right, and all of it runs."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mongo_envelope import embedded

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The benchmark is a folder beside the package, as the examples are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield


@pytest.fixture(scope="module")
def clients(server: embedded.Server, importable: None) -> Iterator[Any]:
    """Of all contenders."""
    from benchmarks.contenders import Clients

    with Clients.connected(server.uri) as clients:
        yield clients


@pytest.mark.parametrize("searchable", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_every_contender_gives_back_what_it_was_given(clients: Any, number: int, searchable: bool) -> None:
    """The check that runs before anything is measured, on each of the three models."""
    from benchmarks.documents import families
    from benchmarks.run import MINE, OTHERS, checked

    family = families(bulk=80, searched=80)[number]
    found = checked(clients, family, searchable=searchable)
    assert [type(each) for each in found] == [*MINE, *(OTHERS if number == 0 else [])]
    for contender in found if searchable else []:
        addresses = contender.fill_to_search()
        assert len(set(addresses)) == contender.stored.count_documents({}) == family.searched
        assert contender.do(contender.search, addresses[-1]).email == addresses[-1]


@pytest.mark.parametrize("harm", ["reads others", "stores plaintext", "stores nothing", "has no index"])
def test_a_contender_that_does_not_work_is_not_measured(clients: Any, harm: str) -> None:
    """One that gives back another person, one that stores plaintext where it says it does not, one that loses everything."""
    from benchmarks.contenders import Ours, Plain, check
    from benchmarks.documents import families

    class Broken(Plain if harm == "has no index" else Ours):
        key = "broken"

        def prepare(self) -> None:
            super().prepare()
            if harm == "has no index":
                self.stored.drop_indexes()

        def insert_many(self, people: Any) -> None:
            if harm != "stores nothing":
                super().insert_many(people)

        def insert(self, person: Any) -> None:
            super().insert(person)
            if harm == "stores plaintext":
                self.stored.database["broken_1_KB_log"].insert_one(person.model_dump(include={"email"}))

        def read(self, id: Any) -> Any:
            person = super().read(id)
            return person.model_copy(update={"name": "Eve"}) if harm == "reads others" else person

    contender = Broken(clients, families(bulk=20, searched=20)[0], searchable=harm == "has no index")
    if harm == "stores plaintext":
        contender.stored = contender.stored.database["broken_1_KB_log"]
    with pytest.raises(SystemExit, match="broken"):
        check(contender)


def test_in_each_round_every_side_works_twice_in_mirrored_order() -> None:
    """Rounds that warm up do not count; times are divided by the documents, and by the two turns."""
    from benchmarks.measure import Effort, Side, in_turns

    turns: list[str] = []
    tidied: list[int] = []

    def side(key: str, count: int) -> Side:
        return Side(key, count, lambda: turns.append(key), lambda _: 8_000)

    effort = Effort(seconds=0, least=3, most=9, warm_up=1)
    times = in_turns([side("a", 1), side("b", 2), side("c", 4)], effort, tidy=lambda: tidied.append(len(turns)), every=2)
    assert times == {"a": [8.0] * 3, "b": [4.0] * 3, "c": [2.0] * 3}
    assert tidied == [0, 12]
    rounds = [turns[start : start + 6] for start in range(0, len(turns), 6)]
    assert len(rounds) == 4
    assert all(each == each[::-1] and sorted(each) == [*"aabbcc"] for each in rounds)


def test_a_ratio_is_that_of_each_round() -> None:
    """Not of the medians: a drift that meets both sides of a round is not seen."""
    from benchmarks.measure import Quartiles, Result

    result = Result("1 KB", "read one", "read one", 1, {"ours": [2.0, 4.0, 30.0], "plain": [1.0, 4.0, 20.0]})
    assert result.ratio("ours", "plain") == (1.25, 1.5, 1.75)
    assert (result.time("ours").median, result.rounds) == (4.0, 3)
    assert Quartiles.of([7.0]) == (7.0, 7.0, 7.0)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a quick run wrote its figures and a page, and what it said."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copy(ROOT / "docs" / "performance.md", folder)
    command = [sys.executable, "-W", "error", "-m", "benchmarks.run", "--quick", "--json", folder / "bench.json", "--docs", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_quick_run_measures_everything_side_by_side(quick: tuple[Path, str]) -> None:
    """Each operation on each model, of one caller and of eight, over both drivers; each contender on the customer."""
    figures = json.loads((quick[0] / "bench.json").read_text())
    found = {(each["document"], each["operation"], each["callers"]): each["sides"] for each in figures["comparisons"]}
    for document, callers in itertools.product(("200 B", "1 KB", "64 KB"), (1, 8)):
        count = 2 if document == "64 KB" else 80
        operations = ("insert one", "read one", f"insert {count}", f"read {count}", "update one", "search for one")
        suffix = "" if callers == 1 else " x8"
        mine = {f"{who}{suffix}" for who in ("plain", "ours", "plain async", "ours async")}
        for operation in operations:
            sides = found[document, operation, callers]
            assert mine <= sides.keys()
            assert sides[f"ours async{suffix}"]["ratio to"][f"plain async{suffix}"][1] > 0
            if (document, callers) == ("1 KB", 1):
                assert sides.keys() - mine == {"Beanie", "CSFLE, one blob", "CSFLE, 12 fields"}
                assert sides["Beanie"]["ratio to"].keys() == {"plain", "plain async"}
    assert figures["memory in MB"].keys() == {"sync", "async"}
    assert figures["stored bytes"]["1 KB"].keys() >= {"plain", "ours", "Beanie", "CSFLE, one blob", "CSFLE, 12 fields"}
    assert {type(each["held"]) for each in figures["verdicts"]} == {bool}


def test_a_quick_run_says_what_it_found_in_the_terminal_and_in_the_docs(quick: tuple[Path, str]) -> None:
    """The same tables; what stands around them in the docs stays, and no name of this machine or its folders gets in."""
    folder, said = quick
    written, page = (path.joinpath("performance.md").read_text() for path in (folder, ROOT / "docs"))
    begin, end = "<!-- figures: written by make bench -->", "<!-- end of the figures -->"
    assert written.partition(begin)[0] == page.partition(begin)[0]
    assert written.partition(end)[2] == page.partition(end)[2]
    for title in ("Against plaintext", "Against others", "Several callers", "Memory while streaming", "What was to be reached"):
        assert title in said
        assert f"### {title}" in written
    drawn = (folder / "performance.svg").read_text()
    assert drawn.count("CSFLE, one blob") == 1
    assert drawn == (folder / "bench.svg").read_text()
    assert len(drawn) < 60_000
    for text in (written, drawn):
        assert str(folder) not in text
        assert str(ROOT) not in text


def test_figures_are_only_written_between_their_markers(quick: tuple[Path, str], tmp_path: Path) -> None:
    """A page without them is left as it is."""
    from benchmarks import report

    page = tmp_path / "performance.md"
    page.write_text("something else")
    with pytest.raises(SystemExit, match=r"performance\.md"):
        report.write_docs(report.Figures({}, {}, [], {}, {}), tmp_path)
    assert page.read_text() == "something else"


@pytest.mark.soak
@pytest.mark.parametrize("driver", ["sync", "async"])
def test_memory_stays_flat_while_a_million_documents_stream(server: embedded.Server, driver: str) -> None:
    """Through save_many out of a generator, and through find: within 30 MB."""
    command = [sys.executable, "-W", "error", "-m", "benchmarks.stream", server.uri, "1000000", driver]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["documents"] == 1_000_000
    assert max(found["save_many"], found["find"]) <= 30, found
