"""`explore`: a scenario with a fault at every point, and `Report`: what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from durable_flow import Store
from durable_flow.testing.clock import START, FakeClock
from durable_flow.testing.ground import MEMORY, Ground, KeptGround, UrlGround
from durable_flow.testing.oracle import judge
from durable_flow.testing.points import CANCELS, ERRORS, KILLS, NETWORK, Mode, Plan, Point
from durable_flow.testing.scenario import Scenario
from durable_flow.testing.story import Story, Teller


class Case(msgspec.Struct):
    """One plan and what was wrong with it. `store` is what it was played on."""

    scenario: str
    store: str
    plan: Plan
    problems: list[str]
    trace: str = ""

    def __str__(self) -> str:
        told = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.scenario} on {self.store}, plan: {self.plan}\n{told}\n{self.trace}"


class Report(msgspec.Struct):
    """`cases` were played, `bad` of them broke a rule. `sites` are the (operation, mode) pairs there are, `covered`
    those at which a fault was really met."""

    cases: int = 0
    bad: list[Case] = []
    sites: set[tuple[str, str]] = set()
    covered: set[tuple[str, str]] = set()

    def add(self, other: Report) -> None:
        """Takes over what another report found."""
        self.cases += other.cases
        self.bad += other.bad
        self.sites |= other.sites
        self.covered |= other.covered

    def __str__(self) -> str:
        told = f"{self.cases:,} cases / {len(self.bad)} bad / "
        if not self.sites:
            return told + f"{len(self.covered):,} sites × modes met"
        hit = len(self.sites & self.covered)
        return told + f"{hit:,} of {len(self.sites):,} sites × modes ({hit / len(self.sites):.0%})"

    def raise_for_bad(self) -> None:
        """Raises AssertionError with the first bad case, if there is one."""
        if self.bad:
            raise AssertionError(f"{self}\n{self.bad[0]}")


class Explorer:
    """Plays a scenario on stores made by `url` (`{folder}` stands for a folder of the case), or on any other store.

    That store is what `make` returns, unopened, whenever it is called, always on the same data; they must hold no
    execution, and everything that is in them is deleted after each case. Then use the explorer in a ``with`` statement:
    the stores stay open from case to case. `judge` says what is wrong with a case, given the one without faults.

    >>> import durable_flow as df
    >>> import tempfile
    >>> scenario = Scenario(name="ask", workflow=df.load({"id": "ask", "name": "Ask", "steps": [
    ...     {"id": "set", "type": "assign", "set": {"result": 1}}]}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Explorer(scenario, make=lambda: df.open_store(f"sqlite:///{folder}/flows.db")) as explorer:
    ...         print(explorer.each(KILLS))
    9 cases / 0 bad / 4 of 4 sites × modes (100%)
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        url: str = MEMORY,
        make: Callable[[], Store] | None = None,
        name: str | None = None,
        guard: bool = True,
        hint: Callable[[Case], str] | None = None,
        folder: Path | None = None,
        judge: Callable[[Story, Story, Scenario], list[str]] = judge,
    ) -> None:
        self.scenario = scenario
        self.judge = judge
        self.guard = guard
        self.hint = hint
        self.ground: Ground = (
            UrlGround(url, folder=folder) if make is None else KeptGround(make, name=name or "a store of its own")
        )
        self.report = Report()
        try:
            self.reference = self.tell(Plan())
        except BaseException:
            self.close()
            raise
        problems = self.judge(self.reference, self.reference, scenario)
        self.report.cases += 1
        if problems:
            self._bad(self.reference, problems)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes what stayed open. Nothing can be played any more on a store that `make` made."""
        self.ground.close()

    @property
    def points(self) -> list[Point]:
        """The points of a run without faults."""
        return self.reference.lives[0]

    def tell(self, plan: Plan, *, start: float = START) -> Story:
        """Plays one case, which begins at this time (epoch seconds)."""
        clock = FakeClock(start)

        async def main() -> Story:
            return await Teller(self.scenario, plan, ground=self.ground, guard=self.guard).tell()

        return self.ground.play(main, clock)

    def play(self, plan: Plan) -> Story:
        """Plays one case and puts it in the report."""
        story = self.tell(plan)
        self.report.cases += 1
        self.report.covered |= {(self._site(point), str(point.mode)) for point in story.met}
        problems = self.judge(story, self.reference, self.scenario)
        if problems:
            self._bad(story, problems)
        return story

    def _site(self, point: Point) -> str:
        return f"{self.scenario.name} on {self.ground.name}: {point.site}"

    def _bad(self, story: Story, problems: list[str]) -> None:
        case = Case(self.scenario.name, self.ground.name, story.plan, problems, story.trace)
        if self.hint is not None:
            case.problems.append(self.hint(case))
        self.report.bad.append(case)

    def plans(self, modes: Sequence[Mode] = tuple(Mode)) -> Iterator[Plan]:
        """One fault at every point of the first process, in every mode."""
        for point in self.points:
            for mode in modes:
                if not mode.fits(point):
                    continue
                self.report.sites.add((self._site(point), str(mode)))
                yield Plan(({point.number: mode},))

    def each(self, modes: Sequence[Mode] = tuple(Mode), *, most: int | None = None) -> Report:
        """Plays every plan with one fault; stops after `most` bad cases."""
        for plan in self.plans(modes):
            self.play(plan)
            if most is not None and len(self.report.bad) >= most:
                break
        return self.report

    def pairs(self, modes: Sequence[Mode] = KILLS) -> Report:
        """Plays every pair of deaths: one at every point of the first process, one at every point of the second."""
        for first in self.points:
            for one in modes:
                for two in modes:
                    number = 1
                    while len(self.play(Plan(({first.number: one}, {number: two}))).met) == 2:
                        number += 1
        return self.report

    def turns(self, modes: Sequence[Mode] = (Mode.CANCEL_BEFORE, Mode.SCOPE_BEFORE, Mode.BOTH_BEFORE)) -> Report:
        """Cancels the caller in every round of the event loop, and so at every await."""
        for turn in range(1, self.reference.turns + 1):
            for mode in modes:
                self.play(Plan((), {turn: mode}))
        return self.report

    def smallest(self, case: Case) -> Case:
        """The case made smaller: faults that are not needed dropped, the others as early as it stays bad."""
        plan = case.plan
        shrunk = True
        while shrunk:
            shrunk = False
            for smaller in _smaller(plan):
                story = self.tell(smaller)
                if problems := self.judge(story, self.reference, self.scenario):
                    case = Case(case.scenario, case.store, smaller, problems, story.trace)
                    plan, shrunk = smaller, True
                    break
        return case


def _smaller(plan: Plan) -> Iterator[Plan]:
    lives = plan.lives
    for index, life in enumerate(lives):
        for number in life:
            without = {other: mode for other, mode in life.items() if other != number}
            if len(plan) > 1:
                yield Plan((*lives[:index], without, *lives[index + 1 :]), plan.turns)
    if len(plan) > 1:
        for index, life in enumerate(lives):
            for number, mode in life.items():
                for lower in range(1, number):
                    if lower not in life:
                        moved = {other: given for other, given in life.items() if other != number} | {lower: mode}
                        yield Plan((*lives[:index], moved, *lives[index + 1 :]), plan.turns)


def explore(
    scenario: Scenario,
    *,
    url: str = MEMORY,
    modes: Sequence[Mode] = (*KILLS, *ERRORS, *CANCELS, *NETWORK),
    plans: Iterable[Plan] | None = None,
) -> Report:
    """Plays a scenario with a fault at every point, or with the given plans, and compares each run with one without.

    Call it from a plain function: it runs its own event loop, on which waiting takes no time.

    >>> import durable_flow as df
    >>> workflow = df.load({"id": "pay", "name": "Pay", "steps": [
    ...     {"id": "charge", "type": "call", "service": "Bank", "method": "charge", "output": "result",
    ...      "retry": {"max_attempts": 3, "initial_interval": 0.1}}]})
    >>> from durable_flow.testing import Scripted
    >>> services = lambda clock: {"Bank": Scripted(clock, charge="paid")}
    >>> report = explore(Scenario(name="pay", workflow=workflow, services=services), modes=KILLS)
    >>> len(report.bad)
    0
    """
    explorer = Explorer(scenario, url=url)
    if plans is None:
        return explorer.each(modes)
    for plan in plans:
        explorer.play(plan)
    return explorer.report
