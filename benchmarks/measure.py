"""How things are measured side by side: in rounds, each of them in another order and then in the reverse of it.

In a round each side works twice, the first time in an order drawn at random, the second time in reverse (A B C C B A), so that a
drift of the machine meets all alike, and none always follows the same other. A ratio is that of two sides in one round; shown are
the median of the rounds' ratios and the quartiles. The garbage collector rests while a clock runs.
"""

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.contenders import Contender

__all__ = ["Effort", "Operation", "Quartiles", "Result", "Side", "compare", "console", "in_turns", "label"]

Arguments = tuple[Any, ...]

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 150  # of a file


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds until the time is up, but at least and at most so many."""

    seconds: float
    least: int
    most: int
    warm_up: int  #: rounds that do not count


class Quartiles(NamedTuple):
    """Of a number of rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        """Of one value, that value thrice."""
        return cls(*(statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3))


@dataclass
class Result:
    """µs for one document, of each side in each round."""

    document: str
    kind: str  #: "insert {}"
    operation: str  #: "insert 1,000"
    callers: int
    times: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many were counted."""
        return len(next(iter(self.times.values())))

    def time(self, key: str) -> Quartiles:
        """µs for one document."""
        return Quartiles.of(self.times[key])

    def ratio(self, key: str, against: str) -> Quartiles:
        """Of two sides, round by round."""
        return Quartiles.of([ours / theirs for ours, theirs in zip(self.times[key], self.times[against], strict=True)])


@dataclass(frozen=True)
class Side:
    """One of those that are compared. ``run`` gives the nanoseconds that it took for ``count`` documents."""

    key: str
    count: int
    prepare: Callable[[], Any]
    run: Callable[[Any], int]


def in_turns(
    sides: Iterable[Side], effort: Effort, *, tidy: Callable[[], None] | None = None, every: int = 10
) -> dict[str, list[float]]:
    """µs for one document, of each side and round. ``tidy`` and a full collection of garbage: every so many rounds."""
    sides = list(sides)
    times: dict[str, list[float]] = {side.key: [] for side in sides}
    number, until = 0, 0.0
    while number < effort.warm_up + effort.least or (time.monotonic() < until and number < effort.warm_up + effort.most):
        if number % every == 0:
            if tidy:
                tidy()
            gc.collect()
        if number == effort.warm_up:
            until = time.monotonic() + effort.seconds
        order = random.sample(sides, len(sides))
        spent = dict.fromkeys(times, 0)
        for side in [*order, *reversed(order)]:
            work = side.prepare()
            gc.disable()
            try:
                spent[side.key] += side.run(work)
            finally:
                gc.enable()
        if number >= effort.warm_up:
            for side in sides:
                times[side.key].append(spent[side.key] / 1_000 / 2 / side.count)
        number += 1
    return times


# --- Contenders as sides ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """What all contenders are asked to do."""

    name: str
    method: str
    is_bulk: bool = False  #: one call for many documents
    adds: bool = False  #: the collection grows, and is emptied now and then

    def calls(self, contender: Contender, callers: int) -> int:
        """How many of them are timed at a time."""
        if self.is_bulk:
            return callers
        return min(contender.singles if callers == 1 else callers * 5, len(contender.people))

    def arguments(self, contender: Contender, targets: Sequence[Any], calls: int) -> list[Arguments]:
        """Of so many calls. ``targets``: ids or addresses of what is there."""
        if self.is_bulk:
            return [(contender.fresh(contender.bulk),) if self.adds else () for _ in range(calls)]
        if self.adds:
            return [(person,) for person in contender.fresh(calls)]
        chosen = random.sample(targets, calls)
        if self.method == "update":
            return [(target, random.choice(contender.people).notes) for target in chosen]
        return [(target,) for target in chosen]


def side(operation: Operation, contender: Contender, callers: int, targets: Sequence[Any]) -> Side:
    """A contender with so many callers, who share the calls between them: threads, or tasks of the one event loop."""
    calls, method = operation.calls(contender, callers), getattr(contender, operation.method)

    def prepare() -> list[list[Arguments]]:
        arguments = operation.arguments(contender, targets, calls)
        return [arguments[number::callers] for number in range(callers)]

    def run(shares: list[list[Arguments]]) -> int:
        if contender.is_async:
            return contender.clients.runner.run(_in_tasks(method, shares))
        return _in_threads(method, shares, contender.clients.threads) if callers > 1 else _alone(method, shares[0])

    return Side(label(contender.key, callers), calls * (contender.bulk if operation.is_bulk else 1), prepare, run)


def label(key: str, callers: int) -> str:
    """The name of a side."""
    return key if callers == 1 else f"{key} x{callers}"


def compare(
    operation: Operation, contenders: Sequence[tuple[Contender, int]], targets: dict[Contender, Sequence[Any]], effort: Effort
) -> Result:
    """One operation, of contenders with so many callers each."""
    family, callers = contenders[0][0].family, max(callers for _, callers in contenders)
    name = operation.name.format(f"{family.bulk:,}")

    def empty() -> None:
        for contender in {contender for contender, _ in contenders}:
            contender.empty()

    sides = [side(operation, contender, callers, targets.get(contender, ())) for contender, callers in contenders]
    tidy, every = (empty, 3 if operation.is_bulk else 10) if operation.adds else (None, 10)
    with console.status(f"{family.name}: {name}, {callers} caller{'s' * (callers > 1)}"):
        return Result(family.name, operation.name, name, callers, in_turns(sides, effort, tidy=tidy, every=every))


def _alone(method: Callable[..., Any], share: list[Arguments]) -> int:
    began = time.perf_counter_ns()
    for arguments in share:
        method(*arguments)
    return time.perf_counter_ns() - began


def _in_threads(method: Callable[..., Any], shares: list[list[Arguments]], threads: ThreadPoolExecutor) -> int:
    def caller(share: list[Arguments]) -> None:
        for arguments in share:
            method(*arguments)

    began = time.perf_counter_ns()
    for _ in threads.map(caller, shares):
        pass  # so that an error is raised
    return time.perf_counter_ns() - began


async def _in_tasks(method: Callable[..., Any], shares: list[list[Arguments]]) -> int:
    async def caller(share: list[Arguments]) -> None:
        for arguments in share:
            await method(*arguments)

    began = time.perf_counter_ns()
    if len(shares) == 1:
        await caller(shares[0])
    else:
        await asyncio.gather(*map(caller, shares))
    return time.perf_counter_ns() - began
