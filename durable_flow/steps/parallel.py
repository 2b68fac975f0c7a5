"""`parallel`: runs branches side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from durable_flow.errors import LimitExceeded, StepError
from durable_flow.model.execution import ErrorInfo
from durable_flow.model.workflow import Body
from durable_flow.steps.base import BodyDef, ChildEnd, Done, Failed, Outcome, StepType, VariableName, Visit


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """One branch: a step, or `{id, do}`."""

    id: str
    do: Body


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`wait` is how many branches must succeed: all of them, any one, or a number."""

    branches: list[Branch]
    wait: Literal["all", "any"] | int = "all"
    output: VariableName | None = None
    max_concurrency: int | None = None
    fail_fast: bool = False


class Parallel(StepType[ParallelConfig]):
    name = "parallel"
    summary = "Runs branches concurrently and joins what they changed."
    Config = ParallelConfig

    def check(self, config: ParallelConfig) -> Iterable[tuple[str, str]]:
        if not config.branches:
            yield "branches", "needs at least one branch"
        if isinstance(config.wait, int) and not 1 <= config.wait <= len(config.branches):
            yield "wait", f"must be between 1 and the number of branches ({len(config.branches)})"
        if config.max_concurrency is not None and config.max_concurrency < 1:
            yield "max_concurrency", "must be at least 1"

    def bodies(self, config: ParallelConfig) -> Iterable[BodyDef]:
        for index, branch in enumerate(config.branches):
            yield BodyDef(
                key=f"branches[{index}]",
                body=branch.do,
                name=branch.id,
                isolated=True,
                certain=config.wait in ("all", len(config.branches)),
            )

    def at_work(
        self, config: ParallelConfig, memo: Mapping[str, Any] | None, ended: Collection[int | str]
    ) -> Iterable[tuple[int | str, Body]]:
        left = [branch for branch in config.branches if branch.id not in ended]
        return [(branch.id, branch.do) for branch in left[: config.max_concurrency]]

    async def run(self, visit: Visit, config: ParallelConfig) -> Outcome:
        total = len(config.branches)
        if total > visit.limits.branches:
            raise LimitExceeded("branches", allowed=visit.limits.branches, actual=total, where=visit.path)
        needed = total if config.wait == "all" else 1 if config.wait == "any" else config.wait
        ends: dict[int | str, ChildEnd] = {end.key: end for end in visit.ended()}
        succeeded = sum(end.error is None for end in ends.values())
        waiting = [branch for branch in reversed(config.branches) if branch.id not in ends]

        def decided() -> str | None:
            """Why the branches that still run are not needed any more."""
            if succeeded >= needed:
                return "enough" if needed < total else None
            return "fail_fast" if config.fail_fast and total - (len(ends) - succeeded) < needed else None

        if waiting and decided() is None:
            async with visit.group() as group:
                for _ in range(min(len(waiting), config.max_concurrency or total)):
                    branch = waiting.pop()
                    group.start(branch.id, branch.do, {})
                async for end in group:
                    ends[end.key] = end
                    succeeded += end.error is None
                    visit.settle(end)
                    if (reason := decided()) is not None:
                        group.cancel(reason)  # those that had ended by then still come
                    elif waiting:
                        branch = waiting.pop()
                        group.start(branch.id, branch.do, {})
        done = {branch.id: None for branch in config.branches if branch.id in ends and ends[branch.id].error is None}
        failures = [
            (branch.id, error)
            for branch in config.branches
            if branch.id in ends and (error := ends[branch.id].error) is not None
        ]
        if len(done) < needed:
            return _failure(failures, needed, len(done))
        outputs = [ends[branch.id].output if branch.id in done else None for branch in config.branches]
        return Done(outputs, () if config.output is None else (config.output,), merge=tuple(done), normal=True)


def _failure(failures: list[tuple[str, ErrorInfo]], needed: int, succeeded: int) -> Outcome:
    if len(failures) == 1:
        return Failed(failures[0][1])
    if not failures:
        raise StepError(f"{succeeded} of the {needed} branches needed succeeded", kind="ParallelError")
    told = "; ".join(f"{branch}: {error.text}" for branch, error in failures)
    raise StepError(f"{len(failures)} branches failed: {told}", kind="ParallelError")
