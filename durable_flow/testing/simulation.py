"""`simulate`: a workflow of one's own with and without a crash at every point, and what differs, in plain words."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from durable_flow import ConfigError, Extension, NotAllowed, Store, ValidationError, WorkflowDef, every_step, load
from durable_flow.testing.clock import START, FakeClock
from durable_flow.testing.crash import Explorer
from durable_flow.testing.ground import MEMORY
from durable_flow.testing.oracle import went_elsewhere
from durable_flow.testing.points import CANCELS, ERRORS, KILLS, NETWORK, Mode, Plan, Point
from durable_flow.testing.scenario import Scenario
from durable_flow.testing.standins import Cast, invented_input
from durable_flow.testing.story import Story
from durable_flow.testing.trail import step_of

Crash = Literal["everywhere", "kills", "none"]

MODES: Mapping[str, Sequence[Mode]] = {
    "everywhere": (*KILLS, *ERRORS, *CANCELS, *NETWORK),
    "kills": KILLS,
    "none": (),
}

DECADE = 315_360_000.0
"""Seconds for which a workflow may sleep before it counts as hanging."""

LATER = 7 * 86_400.0 + 31.0
"""Seconds by which a second run begins later: what differs then depends on the time, or on chance."""

DEATH = "the process dies"

GONE = "nothing"
"""What is shown for a value that is not there."""


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """A case that does not end like the one without a fault: `fault` says what happened, `problems` what came of it."""

    fault: str
    problems: list[str]
    plan: str
    trace: str = ""

    def __str__(self) -> str:
        return "\n".join([self.fault, *(f"  {problem}" for problem in self.problems)])


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was under way when something broke was made again, `times` times in all, with the same idempotency
    key. Nothing is wrong with that, if `service` makes of it what it makes of one."""

    workflow_id: str
    step: str
    service: str
    times: int
    fault: str


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of a workflow, and those that no case entered."""

    workflow_id: str
    steps: list[str]
    never: list[str]


class SimulationReport(msgspec.Struct, kw_only=True):
    """What `simulate` found. `cases` were played; `covered` of `sites` (places of the program × kinds of faults) were
    met. It is `proven` where nothing diverged.

    `status`, `output` and `error` are those of the run without a fault; `input`, `invented` (services and gates) and
    `answered` (waits, by step) say what it was played with. `ignored` are values that were not compared, because they
    differ between two runs without any fault, or as was asked. `unretried` are steps of which one failed call changes
    how the workflow ends, by how it ended then.
    """

    workflow_id: str
    crash: Crash
    store: str
    cases: int = 0
    sites: int = 0
    covered: int = 0
    status: str = ""
    output: Any = None
    error: str | None = None
    input: Mapping[str, Any] = {}
    invented: list[str] = []
    answered: dict[str, str] = {}
    divergences: list[Divergence] = []
    repeats: list[Repeat] = []
    ignored: list[str] = []
    unretried: dict[str, str] = {}
    coverage: list[Coverage] = []

    @property
    def proven(self) -> bool:
        """Whether every case ended as the one without a fault."""
        return not self.divergences

    def raise_for_bad(self) -> None:
        """Raises AssertionError with the first divergence, if there is one."""
        if self.divergences:
            raise AssertionError(f"{self}\n\n{self.divergences[0].trace}")

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        ended = self.status if self.error is None else f"{self.status} ({self.error})"
        bad = len(self.divergences)
        yield f"{self.workflow_id}: {ended}, {self.cases:,} cases, {bad:,} of them differ"
        if self.sites:
            yield f"  faults met at {self.covered:,} of {self.sites:,} places × kinds"
        if self.divergences:
            first, *rest = str(self.divergences[0]).splitlines()
            yield f"  first difference: {first}"
            yield from (f"  {line}" for line in rest)
        for repeat in self.repeats:
            yield f"  {repeat.step}: {repeat.service} was called {repeat.times} times with one key when {repeat.fault}"
        for step, ended in self.unretried.items():
            yield f"  {step}: one failed call of it changes the end: {ended}"
        for path in self.ignored:
            yield f"  not compared: {path}"
        for one in self.coverage:
            if one.never:
                yield f"  never entered in {one.workflow_id}: {', '.join(one.never)}"


def simulate(
    workflow: str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef,
    *,
    services: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    input: Mapping[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    crash: Crash = "everywhere",
    others: Sequence[str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef] = (),
    gates: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    store: str | Callable[[], Store] = MEMORY,
    most: int | None = None,
    ignore: Collection[str] = (),
    progress: Callable[[int, int, int], object] | None = None,
    **options: Any,
) -> SimulationReport:
    """Plays a workflow with and without a fault at every point, and compares how it ends: status, output, variables.

    `crash` is a fault of every kind *everywhere* (deaths, lost answers, cancellations, a network that is gone),
    only *kills*, or *none*. Call it from a plain function: it runs its own event loop, on which waiting takes no time.

    `services` and `gates` are called for real. Give a function that makes them (of no parameters, or of the fake
    clock), and each case has fresh ones. Those that are missing are stood in for: a service answers with a small
    instance of the step's output schema, else with what it was given; gates are open. Without `input` one is made of
    what the workflow declares. Approvals are approved, halts and signals get True. `answers` says otherwise by the id
    of the step: what a service answers (a value, function, exception, `Reply`, `InTurn`), the response, payload or
    verdict, True, False or the arguments of `resume` for an approval; a `Move` (or several) for any wait.

    `others` are workflows that it starts. `store` is a URL (`{folder}` stands for a folder of the case) or a function
    that makes an empty store of nobody else's. `most` ends it after so many divergences. `ignore` are values that need
    not be the same, as `output.total` or `variables.total`. `progress` is called with the cases played, how many there
    are, and how many diverged; `options` are those of `Runtime`.

    Raises ValidationError and InputError, and ConfigError for what is put together wrongly.

    >>> report = simulate({"id": "pay", "name": "Pay", "steps": [
    ...     {"id": "charge", "type": "call", "service": "Bank", "method": "charge", "output": "result"}]}, crash="kills")
    >>> print(report)
    pay: completed, 14 cases, 0 of them differ
      faults met at 8 of 8 places × kinds
      charge: Bank.charge was called 2 times with one key when the process dies after the call of Bank.charge (step charge), before that is recorded
    """  # noqa: E501
    if crash not in MODES:
        raise ConfigError(f"crash is 'everywhere', 'kills' or 'none', not {crash!r}")
    if isinstance(ignore, str):
        raise ConfigError(f"ignore is a list: ignore=[{ignore!r}]")
    if _in_a_loop():
        raise ConfigError("simulate runs event loops of its own: call it from a plain function, not from an async one")
    known = [_loaded(one, options.get("extensions") or ()) for one in (workflow, *others)]
    main = known[0]
    cast = Cast(known, answers or {})
    if missing := sorted(set(cast.needed("workflow")) - {one.id for one in known}):
        steps = ", ".join(cast.users("workflow", missing[0]))
        raise ConfigError(f"step {steps!r} starts workflow {missing[0]!r}, which is not here: give it among others=")
    make_services, no_services = _made(services, cast, "service", cast.service)
    make_gates, no_gates = _made(gates, cast, "gate", cast.gate)
    cast.check(no_services)
    given = dict(invented_input(main) if input is None else input)
    options.setdefault("secrets", _secret)
    scenario = Scenario(
        name=main.id,
        workflow=main,
        others=known[1:],
        input=given,
        services=make_services,
        gates=make_gates,
        otherwise=cast.move,
        patience=DECADE,
        options=options,
    )
    report = SimulationReport(
        workflow_id=main.id,
        crash=crash,
        store=store if isinstance(store, str) else "a store of its own",
        input={name: "***" if name in main.secrets else value for name, value in given.items()},
    )
    report.invented = [*no_services, *(f"gate {name}" for name in no_gates)]
    place: dict[str, Any] = {"url": store} if isinstance(store, str) else {"make": store}
    trial = _Trial(report, ignore, secrets=[str(given[name]) for name in main.secrets if given.get(name)])
    with _quiet(), Explorer(scenario, judge=trial.judge, **place) as explorer:
        trial.begin(explorer)
        plans = list(explorer.plans(MODES[crash]))
        for number, plan in enumerate(plans, 1):
            if most is not None and len(report.divergences) >= most:
                break
            trial.see(explorer, explorer.play(plan))
            if progress is not None:
                progress(number, len(plans), len(report.divergences))
        report.cases = explorer.report.cases + 1
        report.sites = len(explorer.report.sites)
        report.covered = len(explorer.report.sites & explorer.report.covered)
    report.answered = dict(cast.answered)
    report.coverage = trial.coverage(known)
    return report


def _loaded(
    source: str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef, extensions: Sequence[Extension | str]
) -> WorkflowDef:
    return source if isinstance(source, WorkflowDef) else load(source, extensions=extensions)


def _made(
    given: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None,
    cast: Cast,
    kind: str,
    stand_in: Callable[[str], Any],
) -> tuple[Callable[[FakeClock], Mapping[str, Any]], list[str]]:
    """What makes the services (or gates) of a case, and the names of those that are stood in for."""
    make: Callable[..., Mapping[str, Any]] = given if callable(given) else lambda: given or {}
    parameters = inspect.signature(make).parameters.values()
    takes_clock = any(parameter.default is parameter.empty for parameter in parameters)
    first = make(FakeClock()) if takes_clock else make()
    if not isinstance(first, Mapping):
        raise ConfigError(f"{kind}s is a mapping, or a function that makes one, not {first!r:.100}")
    invented = [name for name in cast.needed(kind) if name not in first]

    def made(clock: FakeClock) -> Mapping[str, Any]:
        return {**(make(clock) if takes_clock else make()), **{name: stand_in(name) for name in invented}}

    return made, invented


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is logged of faults that were planted."""
    logger = logging.getLogger("durable_flow")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _secret(name: str) -> str:
    return f"the secret {name}"


class _Trial:
    """Compares the cases of one simulation with the one without a fault, and collects what a report says."""

    def __init__(self, report: SimulationReport, ignore: Collection[str], *, secrets: Collection[str]) -> None:
        self.report = report
        self.secrets = secrets
        self.ignore = tuple(ignore)
        self._loose: set[str] = set()
        self._entered: set[tuple[str, str]] = set()
        self._repeats: dict[tuple[str, str, str], Repeat] = {}

    def begin(self, explorer: Explorer) -> None:
        """Looks at the run without a fault, and at another one a week later."""
        first, second = explorer.reference, explorer.tell(Plan(), start=START + LATER)
        result = first.result
        report = self.report
        if isinstance(first.raised, ValidationError | NotAllowed):
            raise first.raised  # it is the input or an answer that is wrong, not the workflow
        if result is not None:
            report.status, report.output, report.error = str(result.status), result.output, result.error
        self._collect(first)
        if first.problems:
            self._diverges(first, "nothing happens", [_plainly(problem) for problem in first.problems])
        apart = _differences(_ending(second), _ending(first), self.ignore)
        if any(path.startswith(("status", "executions")) for path, _, _ in apart):
            self._diverges(second, "two runs without any fault end differently", [_said(*one) for one in apart])
        else:
            self._loose = {path for path, _, _ in apart}
        report.ignored = [f"{path} (as was asked)" for path in self.ignore]
        report.ignored += [f"{path} (it differs between two runs without any fault)" for path in sorted(self._loose)]

    def judge(self, story: Story, reference: Story, scenario: Scenario) -> list[str]:
        """What is wrong with a case: rules of the engine that are broken, and how it ends."""
        found = list(story.problems)
        if went_elsewhere(story):
            return found + story.ledger.problems(None)
        found += story.ledger.problems(reference.counts, racing=_racing(story, reference, scenario))
        leave = (*self.ignore, *self._loose)
        return found + [_said(*one) for one in _differences(_ending(story), _ending(reference), leave)]

    def see(self, explorer: Explorer, story: Story) -> None:
        """Takes what the report says of a case."""
        self._collect(story)
        fault = "; ".join(fault_in_words(point) for point in story.met) or "nothing happens"
        cases = explorer.report.bad
        if cases and cases[-1].plan is story.plan:
            told = [_plainly(problem) for problem in cases[-1].problems]
            if any("TimeoutError" in problem for problem in told):
                told.append("(after a death 31 seconds pass until its lease has run out: deadlines go on meanwhile)")
            self._diverges(story, fault, told)
        if went_elsewhere(story):
            for point in story.met:
                ended = "it has not ended" if story.result is None else str(story.result.status)
                self.report.unretried.setdefault(step_of({"path": point.where.partition(":")[2]}), ended)
            return
        counts, expected = story.counts, explorer.reference.counts
        for effect in story.ledger.effects:
            times = counts[effect.identity]
            if times > max(1, expected[effect.identity]):
                step = step_of({"path": effect.path})
                key = (story.workflows[effect.execution_id], step, effect.name)
                known = self._repeats.get(key)
                # A death is what people think of first: it makes the better example.
                better = known is not None and DEATH in fault and DEATH not in known.fault
                if known is None or times > known.times or (times == known.times and better):
                    self._repeats[key] = Repeat(
                        workflow_id=key[0], step=step, service=effect.name, times=times, fault=fault
                    )
        self.report.repeats = list(self._repeats.values())

    def _collect(self, story: Story) -> None:
        for name, fold in story.folds.items():
            steps = {entry["step"] for entry in fold.values.values() if entry.get("step")}
            self._entered |= {(story.workflows[name], step) for step in steps}

    def _diverges(self, story: Story, fault: str, problems: list[str]) -> None:
        for secret in self.secrets:
            problems = [problem.replace(secret, "***") for problem in problems]
        self.report.divergences.append(
            Divergence(fault=fault, problems=problems, plan=str(story.plan), trace=story.trace)
        )

    def coverage(self, workflows: Sequence[WorkflowDef]) -> list[Coverage]:
        """The steps of each workflow, and those that were never entered."""
        found = []
        for workflow in workflows:
            steps = [step.id for step in every_step(workflow)]
            never = [step for step in steps if (workflow.id, step) not in self._entered]
            found.append(Coverage(workflow_id=workflow.id, steps=steps, never=never))
        return found


def _ending(story: Story) -> dict[str, Any]:
    """How a case ended, as one tree."""
    result = story.result
    status = {name: fold.status for name, fold in story.folds.items()}
    variables = {name: fold.variables() for name, fold in story.folds.items()}
    top = next(iter(variables), "")
    return {
        "status": None if result is None else str(result.status),
        "error": None if result is None else result.error,
        "output": None if result is None else result.output,
        "variables": {name: value for name, value in variables.pop(top, {}).items() if name != "result"},
        "executions": status,
        "children": variables,
    }


Difference = tuple[str, Any, Any]


def _differences(got: Any, expected: Any, leave: Collection[str], path: str = "") -> list[Difference]:
    """Where two trees differ, as (path, what is there, what was expected), as deep down as it can be said."""
    if path in leave or (got == expected and type(got) is type(expected)):
        return []
    if isinstance(got, Mapping) and isinstance(expected, Mapping):
        found: list[Difference] = []
        for key in sorted(got.keys() | expected.keys()):
            inner = f"{path}.{key}" if path else str(key)
            found += _differences(got.get(key, GONE), expected.get(key, GONE), leave, inner)
        return found
    if isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        found = []
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):
            found += _differences(one, other, leave, f"{path}.{index}")
        return found
    return [(path, got, expected)]


def _said(path: str, got: Any, expected: Any) -> str:
    return f"{path} is {got!r:.200} instead of {expected!r:.200}"


def _plainly(problem: str) -> str:
    """A problem without the number of the rule it breaks."""
    return re.sub(r"^(O\d|P\d+) ", "", problem)


def _racing(story: Story, reference: Story, scenario: Scenario) -> set[str]:
    """The paths below which it depends on who comes first what happens: of steps whose branches race."""
    racing = {
        step.id
        for workflow in (scenario.workflow, *scenario.others)
        for step in every_step(workflow)
        if _is_race(step.config)
    }
    found: set[str] = set()
    for one in (story, reference) if racing else ():
        for effect in one.ledger.effects:
            parts = effect.path.split("/")
            for index, part in enumerate(parts):
                if re.sub(r"[#\[].*", "", part) in racing:
                    found.add("/".join(parts[: index + 1]))
    return found


def _is_race(config: Any) -> bool:
    """Whether the branches of a step do not all end by themselves."""
    wait = getattr(config, "wait", "all")
    return getattr(config, "fail_fast", False) is True or not (wait == "all" or isinstance(wait, bool))


def fault_in_words(point: Point) -> str:
    """What happened at a point.

    >>> fault_in_words(Point(3, "effect", "Bank.charge", "x:charge", Mode.KILL_AFTER))
    'the process dies after the call of Bank.charge (step charge), before that is recorded'
    """
    what = _operation(point)
    mode = point.mode
    assert mode is not None
    match mode.kind:
        case "kill" if mode.before:
            return f"{DEATH} before {what}"
        case "kill" if point.kind == "effect":
            return f"{DEATH} after {what}, before that is recorded"
        case "kill":
            return f"{DEATH} right after {what}"
        case "error" if mode is Mode.ERROR_LATE:
            return f"{what} happens after its answer was lost"
        case "error" if mode.before:
            return f"{what} fails and did not happen"
        case "error":
            return f"{what} happens and its answer is lost"
        case "stall":
            return f"the network is gone from {'before' if mode.before else 'after'} {what} on"
        case "duplicate":
            return f"{what} arrives at the store twice"
        case "delay":
            return f"the answer to {what} is late"
    return f"the caller is cancelled {'before' if mode.before else 'after'} {what}"


OPERATIONS: Mapping[str, str] = {
    "claim": "taking the execution over",
    "append": "handing in an answer, a signal or the end of a child",
    "release": "giving the lease back",
    "renew": "renewing the lease",
}


def _operation(point: Point) -> str:
    where = point.where.partition(":")[2]
    if point.kind == "effect":
        return f"the call of {point.name} (step {where})"
    if point.kind == "secret":
        return f"asking for the secret {point.where}"
    if point.name != "commit":
        return OPERATIONS.get(point.name, f"reading from the store ({point.name})")
    path, _, action = where.removesuffix(" release").rpartition(" ")
    return f"recording that {f'step {path}' if path else 'the workflow'} {_acted(action)}"


def _acted(action: str) -> str:
    return {"started": "starts", "noted": "notes something", "": "goes on"}.get(action, f"is {action}")


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
