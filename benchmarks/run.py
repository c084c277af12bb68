"""``make bench``: ours against plaintext, Beanie and CSFLE, in one run on one mongod. docs/performance.md says how to read it.

``--quick`` only shows that everything runs; its figures mean nothing. ``--docs`` writes the figures into docs/performance.md.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from pymongocrypt.binding import lib as libmongocrypt

from benchmarks import report
from benchmarks.alone import alone
from benchmarks.contenders import (
    CALLERS,
    AsyncOurs,
    AsyncPlain,
    Beanie,
    Clients,
    Contender,
    CsfleBlob,
    CsfleFields,
    Ours,
    Plain,
    UnjournaledOurs,
    UnjournaledPlain,
    check,
)
from benchmarks.documents import Family, families
from benchmarks.measure import Effort, Operation, Result, compare, console
from mongo_envelope import embedded

ROOT = Path(__file__).parents[1]

INSERT = Operation("insert one", "insert", adds=True)
UNJOURNALED = Operation("insert one, w=1", "insert", adds=True)
READ = Operation("read one", "read")
UPDATE = Operation("update one", "update")
SEARCH = Operation("search for one", "search")
INSERT_MANY = Operation("insert {}", "insert_many", is_bulk=True, adds=True)
READ_MANY = Operation("read {}", "read_all", is_bulk=True)

MINE: list[type[Contender]] = [Plain, Ours, AsyncPlain, AsyncOurs]
OTHERS: list[type[Contender]] = [Beanie, CsfleBlob, CsfleFields]


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    effort: Effort
    bulk: int
    searched: int
    streamed: int

    def effort_for(self, operation: Operation, family: Family, callers: int) -> Effort:
        """The customer matters most, and what takes long needs long."""
        weight = (2.0 if callers == 1 else 1.25) if family.name == "1 KB" else 0.75
        effort = replace(self.effort, seconds=self.effort.seconds * weight * (1.5 if operation.is_bulk else 1))
        if operation.is_bulk and callers > 1:  # one round takes seconds
            effort = replace(effort, least=min(effort.least, 3), warm_up=min(effort.warm_up, 1))
        return effort


QUICK = Plan(Effort(seconds=0, least=1, most=1, warm_up=0), bulk=80, searched=300, streamed=2_000)
WHOLE = Plan(Effort(seconds=5, least=5, most=300, warm_up=2), bulk=1_000, searched=20_000, streamed=100_000)


def compare_both(
    operation: Operation, contenders: list[Contender], plan: Plan, targets: dict[Contender, Any] | None = None
) -> list[Result]:
    """Each alone; then ours and plaintext shared by several callers, beside themselves alone, and Beanie where it takes no time."""
    family = contenders[0].family
    alone = [(each, 1) for each in contenders]
    shared = [(each, callers) for each in contenders if type(each) in MINE for callers in (1, CALLERS)]
    shared += [(each, CALLERS) for each in contenders if type(each) is Beanie and not operation.is_bulk]
    return [
        compare(operation, sides, targets or {}, plan.effort_for(operation, family, callers))
        for sides, callers in ((alone, 1), (shared, CALLERS))
    ]


def measure(clients: Clients, family: Family, plan: Plan) -> tuple[list[Result], dict[str, float]]:
    """All operations on one model but the search, and the bytes that each contender stores for one document."""
    contenders = checked(clients, family)
    targets = {contender: contender.fill() for contender in contenders}
    size = [{"$group": {"_id": None, "bytes": {"$avg": {"$bsonSize": "$$ROOT"}}}}]
    stored = {contender.key: next(contender.stored.aggregate(size))["bytes"] for contender in contenders}
    results = [each for one in (READ, READ_MANY, UPDATE) for each in compare_both(one, contenders, plan, targets)]
    results += [each for one in (INSERT, INSERT_MANY) for each in compare_both(one, contenders, plan)]
    if family.name == "1 KB":
        unjournaled = [(kind(clients, family), 1) for kind in (UnjournaledPlain, UnjournaledOurs)]
        results.append(compare(UNJOURNALED, unjournaled, {}, plan.effort_for(UNJOURNALED, family, CALLERS)))
    for contender in contenders:
        contender.empty()
    return results, stored


def search(clients: Clients, family: Family, plan: Plan) -> list[Result]:
    """Find one by its e-mail address, in an index."""
    contenders = checked(clients, family, searchable=True)
    with console.status(f"{family.name}: {family.searched:,} documents to search"):
        addresses = {contender: contender.fill_to_search() for contender in contenders}
    results = compare_both(SEARCH, contenders, plan, addresses)
    for contender in contenders:
        contender.empty()
    return results


def checked(clients: Clients, family: Family, *, searchable: bool = False) -> list[Contender]:
    """Those who are measured on this model. Each gives back what it was given: nothing is measured that does not work."""
    kinds = [*MINE, *(OTHERS if family.name == "1 KB" else [])]
    contenders = [kind(clients, family, searchable=searchable) for kind in kinds]
    for contender in contenders:
        check(contender)
    return contenders


def stream(uri: str, count: int) -> dict[str, dict[str, float]]:
    """Memory while so many documents stream, over both drivers: each in a process of its own."""
    found = {}
    for driver in ("sync", "async"):
        with console.status(f"{count:,} documents through save_many and find, {driver}"):
            command = [sys.executable, "-m", "benchmarks.stream", uri, str(count), driver]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)  # noqa: S603 - ours
            found[driver] = json.loads(done.stdout)
    return found


def machine(server: embedded.Server) -> dict[str, str]:
    """What it ran on, without names of machines."""
    system = platform.system()
    if system == "Linux":
        system = platform.freedesktop_os_release().get("PRETTY_NAME", system)
    packages = ("pydantic", "pymongo", "cryptography", "beanie", "pymongocrypt")
    return {
        "system": f"{system}, {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} logical cores, {psutil.virtual_memory().total / 2**30:.0f} GiB of memory",
        "busy before": f"{psutil.cpu_percent(interval=1):.0f} % of the processor was used by others",
        "Python": platform.python_version(),
        "mongod": f"{server.version}, on the same machine, over {'a unix socket' if '%2F' in server.uri else 'TCP'}",
        **{name: version(name) for name in packages},
        "libmongocrypt": "with its own AES"
        if libmongocrypt.mongocrypt_is_crypto_available()
        else "without an AES of its own, as in pymongocrypt's wheel",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds of everything, to see that it runs")
    parser.add_argument(
        "--effort", type=float, default=1.0, metavar="FACTOR", help="measure longer or shorter (default: 1, 6 minutes)"
    )
    parser.add_argument("--documents", type=int, help=f"among which one is searched (default: {WHOLE.searched:,})")
    parser.add_argument("--stream", type=int, help=f"documents while memory is watched (default: {WHOLE.streamed:,})")
    parser.add_argument("--json", type=Path, metavar="FILE", default=ROOT / "build" / "bench.json", help="where figures go")
    parser.add_argument(
        "--docs", type=Path, metavar="FOLDER", nargs="?", const=ROOT / "docs", help="also write performance.md and .svg there"
    )
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else WHOLE
    plan = replace(
        plan,
        effort=replace(plan.effort, seconds=plan.effort.seconds * options.effort),
        searched=options.documents or plan.searched,
        streamed=options.stream or plan.streamed,
    )
    began = time.perf_counter()
    random.seed(1)
    results: list[Result] = []
    stored: dict[str, dict[str, float]] = {}
    with embedded.start(use_environment=False) as server:
        about = machine(server)
        with Clients.connected(server.uri) as clients:
            for family in families(bulk=plan.bulk, searched=plan.searched):
                measured, stored[family.name] = measure(clients, family, plan)
                results += measured + search(clients, family, plan)
                parts = replace(plan.effort, seconds=plan.effort.seconds / 2)
                plain = Plain(clients, family)
                results += alone(plain, parts, loops=True)
                if family.name == "1 KB":
                    results += alone(plain, parts, loops=False)
                plain.empty()
        memory = stream(server.uri, plan.streamed)
    settings = {"bulk": plan.bulk, "searched": plan.searched, "seconds": round(time.perf_counter() - began)}
    figures = report.Figures(about, settings, results, stored, memory)
    report.show(figures, console)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report.plot(figures, options.json.with_suffix(".svg"))
    if options.docs:
        report.write_docs(figures, options.docs)
    console.print(f"bench: all went well, in {settings['seconds']} s. The figures are in {options.json.name}")


if __name__ == "__main__":
    main()
