"""`explore`: a scenario with a fault at every point, and `Report`: what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from durable_flow.testing.clock import FakeClock, run
from durable_flow.testing.oracle import judge
from durable_flow.testing.points import CANCELS, ERRORS, KILLS, Mode, Plan, Point
from durable_flow.testing.scenario import Scenario
from durable_flow.testing.story import Story, Teller

MEMORY = "sqlite://:memory:"
FILE = "sqlite:///{folder}/flows.db"


class Case(msgspec.Struct):
    """One plan and what was wrong with it."""

    scenario: str
    url: str
    plan: Plan
    problems: list[str]
    trace: str = ""

    def __str__(self) -> str:
        told = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.scenario} on {self.url}, plan: {self.plan}\n{told}\n{self.trace}"


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
    """Plays a scenario on stores made by `url` (`{folder}` stands for a folder of the case)."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        url: str = MEMORY,
        guard: bool = True,
        hint: Callable[[Case], str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.scenario = scenario
        self.url = url
        self.guard = guard
        self.hint = hint
        self.folder = folder
        self.reference = self.tell(Plan())
        self.report = Report()
        problems = judge(self.reference, self.reference, scenario)
        self.report.cases += 1
        if problems:
            self._bad(self.reference, problems)

    @property
    def points(self) -> list[Point]:
        """The points of a run without faults."""
        return self.reference.lives[0]

    def tell(self, plan: Plan) -> Story:
        """Plays one case."""
        if "{folder}" not in self.url:
            return self._tell(plan, None)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            return self._tell(plan, Path(folder))

    def _tell(self, plan: Plan, folder: Path | None) -> Story:
        clock = FakeClock()

        async def main() -> Story:
            return await Teller(self.scenario, plan, url=self.url, folder=folder, guard=self.guard).tell()

        return run(main, clock)

    def play(self, plan: Plan) -> Story:
        """Plays one case and puts it in the report."""
        story = self.tell(plan)
        self.report.cases += 1
        self.report.covered |= {(self._site(point), str(point.mode)) for point in story.met}
        problems = judge(story, self.reference, self.scenario)
        if problems:
            self._bad(story, problems)
        return story

    def _site(self, point: Point) -> str:
        return f"{self.scenario.name} on {self.url}: {point.site}"

    def _bad(self, story: Story, problems: list[str]) -> None:
        case = Case(self.scenario.name, self.url, story.plan, problems, story.trace)
        if self.hint is not None:
            case.problems.append(self.hint(case))
        self.report.bad.append(case)

    def plans(self, modes: Sequence[Mode] = tuple(Mode)) -> Iterator[Plan]:
        """One fault at every point of the first process, in every mode."""
        for point in self.points:
            for mode in modes:
                if mode is Mode.ERROR_LATE and point.name != "commit":
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
                if problems := judge(story, self.reference, self.scenario):
                    case = Case(case.scenario, case.url, smaller, problems, story.trace)
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
    modes: Sequence[Mode] = (*KILLS, *ERRORS, *CANCELS),
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
