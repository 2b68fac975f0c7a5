"""`loop`: runs a body for each item of a list, or while a condition holds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from durable_flow.errors import LimitExceeded, StepError
from durable_flow.expr.condition import Condition
from durable_flow.expr.reference import Template
from durable_flow.model.frame import BREAK, CONTINUE, FINISHED, FrameState
from durable_flow.model.value import type_name
from durable_flow.model.workflow import Body
from durable_flow.steps.base import BodyDef, ChildEnd, Done, Failed, Outcome, StepType, TargetName, VariableName, Visit


class LoopConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of `over` and `while`. `max` bounds the items, or the rounds of a while loop."""

    do: Body
    over: Template | None = None
    while_: Condition | None = msgspec.field(name="while", default=None)
    as_: str | None = msgspec.field(name="as", default=None)
    index_as: str | None = None
    output: VariableName | None = None
    max: int = 100
    concurrency: int | None = None
    on_item_error: Literal["fail", "skip", "collect"] | None = None
    on_exhausted: TargetName | None = None


class Loop(StepType[LoopConfig]):
    name = "loop"
    summary = "Runs a body for each item (`over`) or while a condition holds (`while`)."
    Config = LoopConfig

    def check(self, config: LoopConfig) -> Iterable[tuple[str, str]]:
        if (config.over is None) == (config.while_ is None):
            yield "over", "a loop has exactly one of 'over' and 'while'"
        if config.max < 1:
            yield "max", "must be at least 1"
        if config.concurrency is not None and config.concurrency < 1:
            yield "concurrency", "must be at least 1"
        if config.while_ is not None and any(reference.root == "history" for reference in config.while_.references):
            yield "while", "$history is read when the loop begins and cannot be its condition"
        if config.output == "loop":
            yield "output", "'loop' holds the counts of the loop"
        if (config.as_ or "item") == (config.index_as or "index"):
            yield "index_as", "the item and its index need different names"
        for key, name in (("as", config.as_), ("index_as", config.index_as)):
            if name == "loop":
                yield key, "'loop' holds the counts of the loop"
        if config.over is None:
            for key, value in (
                ("as", config.as_),
                ("index_as", config.index_as),
                ("concurrency", config.concurrency),
                ("on_item_error", config.on_item_error),
            ):
                if value is not None:
                    yield key, "belongs to a loop with 'over'"
        elif config.on_exhausted is not None:
            yield "on_exhausted", "belongs to a loop with 'while'"

    def writes(self, config: LoopConfig) -> frozenset[str]:
        return super().writes(config) | {"loop"}

    def bodies(self, config: LoopConfig) -> Iterable[BodyDef]:
        concurrent = (config.concurrency or 1) > 1
        names = {"iteration"} if config.over is None else {config.as_ or "item", config.index_as or "index"}
        yield BodyDef(
            key="do",
            body=config.do,
            locals=frozenset({*names, "loop"}),
            isolated=concurrent,
            merges=not concurrent,
            loops=True,
            collects=config.on_item_error == "collect",
        )

    def at_work(
        self, config: LoopConfig, memo: Mapping[str, Any] | None, ended: Collection[int | str]
    ) -> Iterable[tuple[int | str, Body]]:
        if memo is None or "exit" in memo:
            return []
        if config.over is None:
            return [(memo["next"] + 1, config.do)]
        left = (index for index in range(memo["total"]) if index not in ended)
        return [(index, config.do) for index in itertools.islice(left, config.concurrency or 1)]

    def carries_over(self, old: LoopConfig, new: LoopConfig, *, waits: bool) -> str | None:
        if (old.over is None) != (new.over is None):
            return "it went over a list and now has a condition, or the other way round"
        if ((old.concurrency or 1) > 1) != ((new.concurrency or 1) > 1):
            return "its iterations ran side by side and now run one after the other, or the other way round"
        return super().carries_over(old, new, waits=waits)

    async def run(self, visit: Visit, config: LoopConfig) -> Outcome:
        if config.over is None:
            return await self._while(visit, config)
        if visit.memo is None:
            items = visit.resolve(config.over)
            if not isinstance(items, list):
                raise StepError(f"'over' must be a list, got {type_name(items)}", kind="LoopError")
            if len(items) > config.max:
                raise StepError(f"{len(items):,} items are more than max ({config.max:,})", kind="LoopError")
            if len(items) > visit.limits.loop_items:
                raise LimitExceeded("loop_items", allowed=visit.limits.loop_items, actual=len(items), where=visit.path)
            visit.remember(_counts(len(items)), kept={"items": items})
        if (config.concurrency or 1) > 1:
            return await self._concurrent(visit, config, visit.kept("items"))
        return await self._foreach(visit, config, visit.kept("items"))

    async def _foreach(self, visit: Visit, config: LoopConfig, items: list[Any]) -> Outcome:
        outputs = [_output(end, config) for end in visit.ended()]
        memo: dict[str, Any] = dict(visit.memo or {})
        item_name, index_name = config.as_ or "item", config.index_as or "index"
        while memo["next"] < len(items) and "exit" not in memo:
            index = memo["next"]
            variables = {item_name: items[index], index_name: index, "loop": _public(memo)}
            end = await visit.body(index, config.do, variables)
            if end.error is not None and (config.on_item_error or "fail") == "fail":
                return Failed(end.error)
            outputs.append(self._settle(visit, config, end, memo, merge=True))
        return _done(config, outputs, memo)

    async def _while(self, visit: Visit, config: LoopConfig) -> Outcome:
        assert config.while_ is not None
        memo = visit.memo
        if memo is None:
            memo = _counts(0)
            visit.remember(memo)
        outputs = [end.output for end in visit.ended()]
        memo = dict(memo)
        exhausted = None
        while "exit" not in memo:
            number = memo["next"] + 1
            variables = {"iteration": number, "loop": _public(memo)}
            if not visit.begun(number):
                if not config.while_.evaluate(visit.bind(variables)):
                    break
                if number > config.max:
                    if config.on_exhausted is None:
                        raise StepError(f"the condition still held after {config.max:,} rounds", kind="LoopError")
                    exhausted = config.on_exhausted
                    break
                if number > visit.limits.loop_items:
                    raise LimitExceeded("loop_items", allowed=visit.limits.loop_items, where=visit.path)
            end = await visit.body(number, config.do, variables)
            if end.error is not None:
                return Failed(end.error)
            memo["total"] = number
            outputs.append(self._settle(visit, config, end, memo, merge=True))
        return _done(config, outputs, memo, next=exhausted)

    async def _concurrent(self, visit: Visit, config: LoopConfig, items: list[Any]) -> Outcome:
        memo: dict[str, Any] = dict(visit.memo or {})
        outputs = {end.key: _output(end, config) for end in visit.ended()}
        waiting = [index for index in range(len(items)) if index not in outputs]
        waiting.reverse()
        item_name, index_name = config.as_ or "item", config.index_as or "index"
        shown = _public(_counts(len(items)))
        failure: ChildEnd | None = None
        if waiting and "exit" not in memo:
            async with visit.group() as group:

                def start() -> None:
                    index = waiting.pop()
                    group.start(index, config.do, {item_name: items[index], index_name: index, "loop": shown})

                for _ in range(min(len(waiting), config.concurrency or 1)):
                    start()
                async for end in group:
                    if end.error is not None and (config.on_item_error or "fail") == "fail":
                        failure = failure or end
                        waiting.clear()
                    else:
                        outputs[end.key] = self._settle(visit, config, end, memo, merge=False)
                        if "exit" in memo:
                            group.cancel("break")  # those that had ended by then still come
                            waiting.clear()
                    if waiting:
                        start()
        if failure is not None and failure.error is not None:
            return Failed(failure.error)
        return _done(config, [outputs[index] for index in range(len(items)) if index in outputs], memo)

    def _settle(self, visit: Visit, config: LoopConfig, end: ChildEnd, memo: dict[str, Any], *, merge: bool) -> Any:
        """Counts the iteration and makes its end durable; gives what stands in the output list for it."""
        memo["next"] += 1
        if end.error is not None:
            skip = config.on_item_error == "skip"
            memo["skipped" if skip else "failed"] += 1
            visit.settle(end, memo=dict(memo), state=FrameState.SKIPPED, variables="drop")
            return None if skip else end.error.text
        memo["completed"] += 1
        # An iteration beside others can only end itself, as a branch does; one of a row may end the workflow.
        ordinary = (None, CONTINUE) if merge else (None, CONTINUE, FINISHED)
        if end.breaks or end.exit not in ordinary:
            memo["exit"] = BREAK if end.breaks and end.exit in ordinary else end.exit
        visit.settle(end, memo=dict(memo), variables="merge" if merge else "drop")
        return end.output


def _counts(total: int) -> dict[str, Any]:
    return {"total": total, "completed": 0, "failed": 0, "skipped": 0, "next": 0}


def _public(memo: dict[str, Any]) -> dict[str, int]:
    return {name: memo[name] for name in ("total", "completed", "failed", "skipped")}


def _output(end: ChildEnd, config: LoopConfig) -> Any:
    if end.error is not None:
        return end.error.text if config.on_item_error == "collect" else None
    return end.output


def _done(config: LoopConfig, outputs: list[Any], memo: dict[str, Any], *, next: str | None = None) -> Outcome:
    leaves = memo.get("exit")
    return Done(
        outputs,
        () if config.output is None else (config.output,),
        {"loop": _public(memo)},
        next=next or (None if leaves == BREAK else leaves),
        normal=True,
    )
