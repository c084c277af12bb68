"""What was measured, as tables in the terminal, as JSON, as a plot, and between two markers of docs/performance.md."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.alone import CIPHER, FLOOR, HASH, OURS, PLAIN
from benchmarks.contenders import CALLERS
from benchmarks.measure import Quartiles, Result, label

__all__ = ["BEGIN", "END", "Figures", "plot", "show", "tables", "verdicts", "write_docs"]

BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of the figures -->"

CUSTOMER = "1 KB"
OPERATIONS = ("insert one", "read one", "insert {}", "read {}", "update one", "search for one")
#: operation → at most, aim: ratios to plaintext, for the customer
BARS = {
    "insert one": (1.10, 0.97),
    "read one": (1.15, 1.05),
    "insert {}": (1.20, 0.95),
    "read {}": (1.30, 1.10),
    "search for one": (1.20, 1.05),
    "stored bytes": (1.10, 1.00),
}
FLOOR_BAR = 1.5
MEMORY_BAR = 30.0  # MB
BLOB, FIELDS = "CSFLE, one blob", "CSFLE, 12 fields"
BLOB_BAR, FIELDS_BAR = 4.0, 20.0

#: whose ratio is to whom; an async contender's to plaintext over the async driver
AGAINST = {
    "ours": "plain",
    "ours async": "plain async",
    "plain async": "plain",
    "Beanie": "plain async",
    BLOB: "plain",
    FIELDS: "plain",
    "ours, w=1": "plain, w=1",
}


@dataclass(frozen=True)
class Figures:
    """One run."""

    machine: dict[str, str]
    settings: dict[str, int]
    results: list[Result]
    stored: dict[str, dict[str, float]]  #: model → contender → bytes of one document
    memory: dict[str, dict[str, float]]  #: driver → what `stream` found

    def of(self, kind: str, callers: int = 1, document: str = CUSTOMER) -> Result:
        """The one result of this kind. Raise ``StopIteration`` if there is none."""
        return next(each for each in self.results if each.kind == kind and each.callers == callers and each.document == document)

    @property
    def documents(self) -> list[str]:
        """The models, by size in words."""
        return list(self.stored)

    def as_json(self) -> dict[str, Any]:
        """Everything; times in µs for one document, and quartiles as [low, median, high]."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "comparisons": [_as_json(result) for result in self.results],
            "stored bytes": self.stored,
            "memory in MB": self.memory,
            "verdicts": [{"claim": each.claim, "measured": each.measured, "held": each.held} for each in verdicts(self)],
        }


def _as_json(result: Result) -> dict[str, Any]:
    about = {"document": result.document, "operation": result.operation, "callers": result.callers, "rounds": result.rounds}
    sides: dict[str, Any] = {key: {"µs": [round(each, 3) for each in result.time(key)]} for key in result.times}
    for key, against in _pairs(result):
        sides[key].setdefault("ratio to", {})[against] = [round(each, 4) for each in result.ratio(key, against)]
    return about | {"sides": sides}


def _pairs(result: Result) -> Iterator[tuple[str, str]]:
    """Who is compared with whom: with plaintext of the same kind, with plaintext over the sync driver, with one caller."""
    if FLOOR in result.times:
        yield OURS, FLOOR
        yield OURS, PLAIN
    for key in result.times:
        name, _, several = key.partition(" x")
        callers = int(several or 1)
        others = {label(AGAINST.get(name, key), callers), *([label("plain", callers)] if name == "Beanie" else [])}
        others |= {name} if callers > 1 else set()
        yield from ((key, other) for other in sorted(others) if other != key and other in result.times)


# --- Verdicts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One line of what was to be reached."""

    claim: str
    measured: str
    held: bool


def verdicts(figures: Figures) -> list[Verdict]:
    """All of them. The ratios to plaintext are those of the customer, of one caller, over the sync driver."""
    found = []
    for kind, (bar, _) in BARS.items():
        ratio = _bytes_ratio(figures) if kind == "stored bytes" else figures.of(kind).ratio("ours", "plain").median
        name = kind if kind == "stored bytes" else figures.of(kind).operation
        found.append(Verdict(f"{name}: at most {bar:.2f} of plaintext", f"{ratio:.2f}", round(ratio, 2) <= bar))
    for ours, word in (("ours async", "both async"), ("ours", "ours sync")):
        times = {kind: figures.of(kind).ratio("Beanie", ours).median for kind in OPERATIONS}
        least = min((kind for kind in OPERATIONS if kind in BARS), key=lambda kind: times[kind])
        measured = f"at least {times[least]:.2f} times, {figures.of(least).operation}"
        found.append(Verdict(f"faster than Beanie in all of these, {word}", measured, times[least] > 1))
        found.append(
            Verdict(f"update one: faster than Beanie, {word}", f"{times['update one']:.2f} times", times["update one"] > 1)
        )
    for other, bar in ((BLOB, BLOB_BAR), (FIELDS, FIELDS_BAR)):
        for kind in ("insert {}", "read {}"):
            result = figures.of(kind)
            times = result.ratio(other, "ours").median
            found.append(Verdict(f"{result.operation}: {bar:.0f} times as fast as {other}", f"{times:.1f} times", times >= bar))
    for kind in ("seal, in a loop", "open, in a loop"):
        ratio = figures.of(kind).ratio(OURS, FLOOR).median
        found.append(Verdict(f"{kind}: at most {FLOOR_BAR} of the floor", f"{ratio:.2f}", round(ratio, 2) <= FLOOR_BAR))
    slowest, where = max(
        (figures.of(kind, CALLERS).ratio(label("ours", CALLERS), "ours").median, figures.of(kind, CALLERS).operation)
        for kind in OPERATIONS
    )
    measured = f"at most {slowest:.2f} of the time, {where}"
    found.append(Verdict(f"{CALLERS} threads are not slower than 1", measured, round(slowest, 2) <= 1))
    for driver, memory in figures.memory.items():
        growth = max(memory["save_many"], memory["find"])
        claim = f"memory stays within {MEMORY_BAR:.0f} MB while {memory['documents']:,.0f} documents stream, {driver}"
        found.append(Verdict(claim, f"{growth:.0f} MB", growth <= MEMORY_BAR))
    return found


def _bytes_ratio(figures: Figures, document: str = CUSTOMER, key: str = "ours") -> float:
    return figures.stored[document][key] / figures.stored[document]["plain"]


# --- Tables -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The same for the terminal and for Markdown. The first column is on the left, the others are numbers."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def tables(figures: Figures) -> list[Table]:
    """From what matters most to the details."""
    return [
        _against_plaintext(figures),
        _against_others(figures),
        _callers(figures),
        _sizes(figures),
        _alone(figures),
        _bytes(figures),
        _memory(figures),
        _verdicts(figures),
    ]


def _against_plaintext(figures: Figures) -> Table:
    rows = []
    for kind in (OPERATIONS[0], "insert one, w=1", *OPERATIONS[1:]):
        result = figures.of(kind)
        plain, ours = ("plain", "ours") if "plain" in result.times else ("plain, w=1", "ours, w=1")
        times, ratio = [_microseconds(result.time(key).median) for key in (plain, ours)], result.ratio(ours, plain)
        rows.append([result.operation, *times, f"{ratio.median:.2f}", _quartiles(ratio), *_bar(kind, ratio.median)])
    stored, ratio_of_bytes = figures.stored[CUSTOMER], _bytes_ratio(figures)
    sizes = [f"{stored[key]:.0f} B" for key in ("plain", "ours")]
    rows.append(["stored bytes", *sizes, f"{ratio_of_bytes:.2f}", "", *_bar("stored bytes", ratio_of_bytes)])
    note = "The customer of 1 KB, one caller, the sync driver. µs for each document, and ours against plaintext."
    return Table("Against plaintext", note, ["", "plaintext", "ours", "ratio", "quartiles", "at most", "aim", "verdict"], rows)


def _bar(kind: str, ratio: float) -> list[str]:
    if kind not in BARS:
        return ["", "", ""]
    bar, aim = BARS[kind]
    verdict = "aim reached" if round(ratio, 2) <= aim else "held" if round(ratio, 2) <= bar else "above"
    return [f"{bar:.2f}", f"{aim:.2f}", verdict]


def _against_others(figures: Figures) -> Table:
    rows = []
    for kind in OPERATIONS:
        result = figures.of(kind)
        ratios = [_cell(result, key, AGAINST[key]) for key in ("ours", "ours async", "Beanie")]
        times = [f"{result.ratio(other, ours).median:.1f}x" for other, ours in _OTHERS]
        rows.append(
            [
                result.operation,
                *ratios,
                _cell(result, "Beanie", "plain"),
                *(_cell(result, key, "plain") for key in (BLOB, FIELDS)),
                *times,
            ]
        )
    columns = ["to plaintext", "ours", "ours async", "Beanie", "Beanie to sync", BLOB, FIELDS]
    columns += ["faster than Beanie", "than one blob", "than 12 fields"]
    note = (
        "The same customer, one caller. Async contenders, and Beanie is one, stand against plaintext over the async driver; "
        "“to sync”: over the sync driver. The last three columns: how many times as fast ours is (Beanie: ours async)."
    )
    return Table("Against others", note, columns, rows)


_OTHERS = (("Beanie", "ours async"), (BLOB, "ours"), (FIELDS, "ours"))


def _callers(figures: Figures) -> Table:
    rows = []
    for kind in OPERATIONS:
        one, several = figures.of(kind), figures.of(kind, CALLERS)
        cells = [_cell(one, "ours", "plain"), _cell(one, "ours async", "plain async")]
        cells += [_cell(several, label(f"ours{mode}", CALLERS), label(f"plain{mode}", CALLERS)) for mode in ("", " async")]
        cells += [
            f"{several.ratio(key, label(key, CALLERS)).median:.2f}x" for key in ("plain", "ours", "plain async", "ours async")
        ]
        rows.append([one.operation, *cells])
    columns = ["to plaintext", "1 thread", "1 task", f"{CALLERS} threads", f"{CALLERS} tasks"]
    columns += [f"{who}: {CALLERS} {what} to 1" for what in ("threads", "tasks") for who in ("plaintext", "ours")]
    note = "The same customer, against plaintext with as many callers. The last four columns: how much more is done in a second."
    return Table("Several callers", note, columns, rows)


def _sizes(figures: Figures) -> Table:
    others = [document for document in figures.documents if document != CUSTOMER]
    rows = []
    for document in others:
        for kind in OPERATIONS:
            one, several = (figures.of(kind, callers, document) for callers in (1, CALLERS))
            times = [_microseconds(one.time(key).median) for key in ("plain", "ours")]
            cells = [_cell(one, "ours", "plain"), _cell(one, "ours async", "plain async")]
            cells += [_cell(several, label(f"ours{mode}", CALLERS), label(f"plain{mode}", CALLERS)) for mode in ("", " async")]
            rows.append([f"{document}: {one.operation}", *times, *cells])
    columns = ["", "plaintext, µs", "ours, µs", "1 thread", "1 task", f"{CALLERS} threads", f"{CALLERS} tasks"]
    return Table(
        "Other sizes", "Ratios to plaintext with as many callers, as above; the times are those of one thread.", columns, rows
    )


def _alone(figures: Figures) -> Table:
    rows = []
    for result in figures.results:
        if FLOOR in result.times:
            pydantic = next(key for key in result.times if key.startswith("pydantic"))
            times = [_microseconds(result.time(key).median) for key in (OURS, FLOOR, CIPHER, HASH, pydantic, PLAIN)]
            ratio = result.ratio(OURS, FLOOR)
            rows.append(
                [f"{result.document}: {result.operation}", *times[:2], f"{ratio.median:.2f}", _quartiles(ratio), *times[2:]]
            )
    columns = ["µs", "ours", "floor", "ratio", "quartiles", "AES-CTR", "HMAC", "pydantic", "plaintext and BSON"]
    return Table(
        "Sealing and opening alone",
        f"No server. The ratio is to the floor; at most {FLOOR_BAR} is wanted in a loop.",
        columns,
        rows,
    )


def _bytes(figures: Figures) -> Table:
    rows = []
    for document, stored in figures.stored.items():
        others = [
            f"{_bytes_ratio(figures, document, key):.2f}" if key in stored else "" for key in ("ours", "Beanie", BLOB, FIELDS)
        ]
        rows.append([document, f"{stored['plain']:,.0f}", f"{stored['ours']:,.0f}", *others])
    note = "BSON of one document on average, before the server compresses it for its disk."
    return Table("Stored bytes", note, ["", "plaintext", "ours", "ratio", "Beanie", BLOB, FIELDS], rows)


def _memory(figures: Figures) -> Table:
    rows = [
        [
            driver,
            f"{found['documents']:,.0f}",
            *(f"{found[key]:.0f} MB" for key in ("settled", "save_many", "find")),
            *(f"{found['documents'] / found[f'{key} seconds']:,.0f}" for key in ("save_many", "find")),
        ]
        for driver, found in figures.memory.items()
    ]
    columns = ["driver", "documents", "buffers", "growth in save_many", "growth in find", "saved in a second", "read in a second"]
    note = "Resident memory of a process that streams customers out of a generator and reads them one by one."
    return Table("Memory while streaming", note, columns, rows)


def _verdicts(figures: Figures) -> Table:
    rows = [[each.claim, each.measured, "held" if each.held else "above"] for each in verdicts(figures)]
    return Table("What was to be reached", "", ["", "measured", "verdict"], rows)


def _cell(result: Result, key: str, against: str) -> str:
    return f"{result.ratio(key, against).median:.2f}"


def _quartiles(ratio: Quartiles) -> str:
    return f"{ratio.low:.2f} to {ratio.high:.2f}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# --- Where they go ------------------------------------------------------------------------------------------------------


def show(figures: Figures, console: Console) -> None:
    """In the terminal."""
    console.print(*(f"{name}: {value}" for name, value in figures.machine.items()), sep="\n")
    colours = {"held": "green", "aim reached": "green", "above": "yellow"}
    for table in tables(figures):
        rich = RichTable(title=table.title, caption=table.note)
        for number, column in enumerate(table.columns):
            rich.add_column(column, justify="right" if number else "left")
        for row in table.rows:
            rich.add_row(*(f"[{colours[cell]}]{cell}[/]" if cell in colours else cell for cell in row))
        console.print(rich)


def markdown(figures: Figures) -> Iterable[str]:
    """The part of docs/performance.md between the markers, line by line."""
    yield "Measured on: " + "; ".join(f"{name} {value}" for name, value in figures.machine.items()) + "."
    yield ""
    yield "![Time for each document against plaintext](performance.svg)"
    for table in tables(figures):
        yield from ("", f"### {table.title}", "", *([table.note, ""] if table.note else []))
        yield f"| {' | '.join(table.columns)} |"
        yield "|" + "|".join(["---", *["--:"] * (len(table.columns) - 1)]) + "|"
        for row in table.rows:
            yield f"| {' | '.join(row)} |"


def write_docs(figures: Figures, folder: Path) -> None:
    """Between the markers of performance.md, and performance.svg. Raise ``SystemExit`` where there are no markers."""
    page = folder / "performance.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page.name}: between {BEGIN} and {END} is where the figures would go")
    written = "\n".join([before + begin, "", *markdown(figures), "", end + after])
    page.write_text(written, encoding="utf-8")
    plot(figures, folder / "performance.svg")


def plot(figures: Figures, file: Path) -> None:
    """Each contender's ratio to plaintext, operation by operation, with its quartiles; the same figures give the same bytes."""
    looks = {
        "ours": ("o", "#0b6e4f"),
        "ours async": ("o", "#6fcf97"),
        "Beanie": ("s", "#2f6fde"),
        BLOB: ("^", "#e0a100"),
        FIELDS: ("v", "#c0392b"),
    }
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        results = [figures.of(kind) for kind in OPERATIONS]
        for number, (key, (marker, colour)) in enumerate(looks.items()):
            ratios = [result.ratio(key, AGAINST[key]) for result in results]
            medians = [each.median for each in ratios]
            around = [[each.median - each.low for each in ratios], [each.high - each.median for each in ratios]]
            places = [row + (number - 2) * 0.15 for row in range(len(results))]
            axes.errorbar(medians, places, xerr=around, fmt=marker, color=colour, markersize=6, elinewidth=1.2, label=key)
        axes.axvline(1, color="#444444", linewidth=1)
        for row, _ in pairwise(range(len(results))):
            axes.axhline(row + 0.5, color="#dddddd", linewidth=0.8)
        axes.set_xscale("log")
        ticks = [0.8, 1, 1.5, 2, 3, 5, 10, 20, 50]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(range(len(results)), [result.operation for result in results])
        axes.invert_yaxis()
        axes.set_xlabel("time for each customer of 1 KB; plaintext pydantic and pymongo is 1 (medians and quartiles)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=5, frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
