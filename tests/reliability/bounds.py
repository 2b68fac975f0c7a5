"""Every limit one below, at, and one above: what is within works, what is beyond fails and leaves the last good state.

And what grows only as fast as what changes: the bytes that a transition writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest

import durable_flow as df
from durable_flow.stores.base import Commit, Committed
from durable_flow.testing import FakeClock
from tests.engine.aid import Wire
from tests.reliability.nesting import linked
from tests.reliability.stage import Stage, document, stage
from tests.reliability.table import Case, Table, fake_time

Steps = list[dict[str, Any]]

EARLIER: Steps = [{"id": "earlier", "type": "assign", "set": {"earlier": "kept"}}]


def call(method: str, **keys: Any) -> dict[str, Any]:
    return {"id": method, "type": "call", "service": "desk", "method": method, **keys}


async def within(play: Stage, result: df.ExecutionResult) -> None:
    assert result.completed, f"it is {result.status}: {result.error}"


async def beyond(play: Stage, result: df.ExecutionResult, limit: str, **more: Any) -> None:
    """It failed of the limit with its last good state intact, and goes on from it where more is allowed."""
    assert result.failed, f"it is {result.status}"
    assert result.error_info is not None
    assert result.error_info.type == "LimitExceeded", result.error
    assert limit in result.error_info.message, result.error
    execution = await play.store.load("e")
    assert execution is not None
    assert execution.ctx == {"earlier": "kept", **more}, execution.ctx
    play.options["limits"] = df.Limits()
    await play.restart()
    await within(play, await play.runner().retry("e"))


# -- values ------------------------------------------------------------------------------------------------------------

BYTES = 200
SHAPES: dict[str, Callable[[str], Any]] = {
    "text": lambda pad: pad,
    "text with escapes": lambda pad: '"\n\\\x01' + pad,
    "text beyond ASCII": lambda pad: "é€😀" + pad,
    "a list": lambda pad: [1, -2.5, None, True, "é\n", [], {}, [pad]],
    "a mapping": lambda pad: {"a": 1, "é\t": {"": pad}, "b": [9_223_372_036_854_775_807, 1e300]},
}


def of_size(shape: str, size: int) -> Any:
    """A value whose JSON form has exactly so many bytes."""
    value = SHAPES[shape]("x" * (size - len(msgspec.json.encode(SHAPES[shape]("")))))
    assert len(msgspec.json.encode(value)) == size
    return value


def of_depth(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


DEPTH = 6


async def returned(clock: FakeClock, limits: df.Limits, value: Any, limit: str, fits: bool) -> None:
    steps = [*EARLIER, call("make", output="made"), {"id": "later", "type": "assign", "set": {"later": "$made"}}]
    async with stage(clock, document("flow", linked(steps)), limits=limits) as play:
        play.desk.answers["make"] = lambda _: value
        result = await play.runner().run({}, execution_id="e")
        await (within(play, result) if fits else beyond(play, result, limit))
        execution = await play.store.load("e")
        assert execution is not None
        assert execution.ctx["later"] == value


async def given(clock: FakeClock, limits: df.Limits, value: Any, limit: str, fits: bool) -> None:
    async with stage(clock, document("flow", EARLIER), limits=limits) as play:
        start = lambda: play.runner().run(value, execution_id="e")  # noqa: E731
        if fits:
            await within(play, await start())
        else:
            await play.untouched(df.LimitExceeded, start)
            assert await play.store.execution_ids() == []


async def answered(clock: FakeClock, limits: df.Limits, value: Any, limit: str, fits: bool) -> None:
    steps = [*EARLIER, {"id": "ask", "type": "halt"}]
    async with stage(clock, document("flow", linked(steps)), limits=limits) as play:
        await play.runner().run({}, execution_id="e")
        answer = lambda: play.runner().resume("e", response=value)  # noqa: E731
        if fits:
            await within(play, await answer())
        else:
            await play.untouched(df.LimitExceeded, answer)


async def built(clock: FakeClock, limits: df.Limits, value: Any, limit: str, fits: bool) -> None:
    """The part is within the limit, the whole may not be."""
    steps = [*EARLIER, call("part", output="part"), {"id": "wrap", "type": "assign", "set": {"whole": {"in": "$part"}}}]
    async with stage(clock, document("flow", linked(steps)), limits=limits) as play:
        play.desk.answers["part"] = lambda _: value["in"]
        result = await play.runner().run({}, execution_id="e")
        await (within(play, result) if fits else beyond(play, result, limit, part=value["in"]))


def values() -> Iterator[Case]:
    def case(name: str, check: Any, limits: df.Limits, value: Any, limit: str, fits: bool) -> Case:
        return Case(name, fake_time(lambda clock: check(clock, limits, value, limit, fits)))

    for more in (-1, 0, 1):
        fits = more <= 0
        limits = df.Limits(value_bytes=BYTES)
        for shape in SHAPES:
            value = of_size(shape, BYTES + more)
            yield case(f"value_bytes {more:+}: {shape}", returned, limits, value, "value_bytes", fits)
        value = of_size("a mapping", BYTES + more)
        yield case(f"value_bytes {more:+}: a response", answered, limits, value, "value_bytes", fits)
        yield case(f"value_bytes {more:+}: an input", given, limits, value, "value_bytes", fits)
        value = {"in": of_size("text", BYTES + more - len(b'{"in":}'))}
        yield case(f"value_bytes {more:+}: put together", built, limits, value, "value_bytes", fits)
        limits = df.Limits(value_depth=DEPTH)
        value: Any = {"": of_depth(DEPTH + more - 1)}
        yield case(f"value_depth {more:+}: an output", returned, limits, value, "value_depth", fits)
        yield case(f"value_depth {more:+}: a response", answered, limits, value, "value_depth", fits)
        yield case(f"value_depth {more:+}: an input", given, limits, value, "value_depth", fits)
        value = {"in": of_depth(DEPTH + more - 1)}
        yield case(f"value_depth {more:+}: put together", built, limits, value, "value_depth", fits)


# -- running -----------------------------------------------------------------------------------------------------------


def run_under(limits: df.Limits, limit: str, steps: Steps, fits: bool, **answers: Any) -> Callable[[], None]:
    async def check(clock: FakeClock) -> None:
        async with stage(clock, document("flow", linked([*EARLIER, *steps])), limits=limits) as play:
            play.desk.answers |= answers
            result = await play.runner().run({}, execution_id="e")
            await (within(play, result) if fits else beyond(play, result, limit))

    return fake_time(check)


def running() -> Iterator[Case]:
    for more in (-1, 0, 1):
        fits, limit = more <= 0, 5
        count = limit + more
        limits = df.Limits(branches=limit)
        branches = [call(f"branch{number}") for number in range(count)]
        steps: Steps = [{"id": "race", "type": "parallel", "branches": branches}]
        yield Case(f"branches {more:+}", run_under(limits, "branches", steps, fits))
        limits = df.Limits(loop_items=limit)
        for name, keys in (("one by one", {}), ("side by side", {"concurrency": 2})):
            steps = [{"id": "each", "type": "loop", "over": list(range(count)), "do": [call("act")], **keys}]
            yield Case(f"loop_items {more:+}, {name}", run_under(limits, "loop_items", steps, fits))
        yield Case(f"loop_items {more:+}, while", rounds(limit, count, fits))
        # the start and each step is a transition
        limits = df.Limits(transitions=limit)
        steps = [{"id": f"step{number}", "type": "assign", "set": {"last": number}} for number in range(count - 2)]
        yield Case(f"transitions {more:+}", transitions(limits, steps, fits))
        yield Case(f"workflow_depth {more:+}", children(limit, count, fits))


def rounds(limit: int, count: int, fits: bool) -> Callable[[], None]:
    condition = {"field": "loop.completed", "op": "lt", "value": count}
    loop = {"id": "rounds", "type": "loop", "while": condition, "do": [call("act")]}
    return run_under(df.Limits(loop_items=limit), "loop_items", [loop], fits)


def transitions(limits: df.Limits, steps: Steps, fits: bool) -> Callable[[], None]:
    async def check(clock: FakeClock) -> None:
        async with stage(clock, document("flow", linked([*EARLIER, *steps])), limits=limits) as play:
            result = await play.runner().run({}, execution_id="e")
            if fits:
                await within(play, result)
                return
            assert result.failed, f"it is {result.status}"
            assert result.error_info is not None
            assert result.error_info.type == "LimitExceeded"
            assert result.error_info.step == steps[-1]["id"]
            execution = await play.store.load("e")
            assert execution is not None
            assert execution.ctx == {"earlier": "kept", "last": len(steps) - 2}
            play.options["limits"] = df.Limits()
            await play.restart()
            await within(play, await play.runner().retry("e"))

    return fake_time(check)


def children(limit: int, depth: int, fits: bool) -> Callable[[], None]:
    """A chain of executions, the last of which has so many above it."""

    async def check(clock: FakeClock) -> None:
        flows = [
            document(
                "flow" if number == 0 else f"level{number}",
                [{"id": "down", "type": "workflow", "workflow_id": f"level{number + 1}"}],
            )
            for number in range(depth)
        ]
        flows.append(document(f"level{depth}", [call("bottom")]))
        async with stage(clock, *flows, limits=df.Limits(workflow_depth=limit)) as play:
            result = await play.runner().run({}, execution_id="e")
            ids = await play.store.execution_ids()
            if fits:
                await within(play, result)
                assert len(ids) == depth + 1
                return
            assert result.failed, f"it is {result.status}"
            assert "workflow_depth" in str(result.error), result.error
            assert len(ids) == limit + 1
            assert play.desk.called == []

    return fake_time(check)


# -- definitions -------------------------------------------------------------------------------------------------------


def definitions() -> Iterator[Case]:
    def case(name: str, text: str, limits: df.Limits, fits: bool, told: str) -> Case:
        def check() -> None:
            if fits:
                df.load(text, limits=limits)
                return
            with pytest.raises(df.ValidationError) as caught:
                df.load(text, limits=limits)
            assert told in str(caught.value), str(caught.value)

        return Case(name, check)

    head = "id: flow\nname: flow\nsteps:\n  - id: only\n    type: assign\n    set:\n      value: "
    for more in (-1, 0, 1):
        fits = more <= 0
        text = head + "é\n#"
        size = 300 + more
        text += "x" * (size - len(text.encode()))
        yield case(f"document_bytes {more:+}", text, df.Limits(document_bytes=300), fits, "document_bytes")
        # the document, its steps, the step and its set are four
        deep = "[" * (6 + more) + "]" * (6 + more)
        yield case(f"document_depth {more:+}", head + deep + "\n", df.Limits(document_depth=10), fits, "document_depth")
        many = "[" + ", ".join("1" for _ in range(20 + more)) + "]\n"
        nodes = df.Limits(document_nodes=NODES + 20)
        yield case(f"document_nodes {more:+}", head + many, nodes, fits, "document_nodes")
        flow = document("flow", [{"id": "p", "type": "parallel", "branches": [call(f"b{n}") for n in range(4 + more)]}])
        text = msgspec.json.encode(flow).decode() + "\n"
        yield case(f"branches {more:+}, validated", text, df.Limits(branches=4), fits, "branches")


NODES = 16
"""Keys, values and containers of the document around the list."""

# -- growth ------------------------------------------------------------------------------------------------------------


class Meter(Wire):
    """Counts the encoded bytes of every commit."""

    def __init__(self, store: df.Store) -> None:
        super().__init__(store)
        self.written: list[int] = []

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        blobs = [commit.root, commit.info or b"", *(body for _, body in commit.entries)]
        blobs += [body or b"" for _, _, body in commit.frames]
        names = [part for path, name, _ in commit.sets for part in (path, name)] + [
            path for path, _, _ in commit.frames
        ]
        sizes = [len(blob) if isinstance(blob, bytes) else len(blob.encode()) for blob in (*blobs, *names)]
        self.written.append(sum(sizes))
        return super().commit(commit)


LOOPS: dict[str, dict[str, Any]] = {
    "one by one": {"over": "$items"},
    "side by side": {"over": "$items", "concurrency": 4},
    "while": {"while": {"field": "loop.completed", "op": "lt", "value": "$items"}},
}


async def measure(clock: FakeClock, kind: str, count: int) -> list[int]:
    """The bytes of each commit of a loop with one call in each round, and of everything before and after it."""
    body = [call("act", input="$loop.total", output="made"), {"id": "note", "type": "assign", "set": {"seen": "$made"}}]
    loop = {"id": "each", "type": "loop", "do": body, "max": 100_000, **LOOPS[kind]}
    flow = df.load(document("flow", linked([call("make", output="items"), loop])))
    async with df.open_store("sqlite://:memory:") as store:
        meter = Meter(store)
        services = {
            "desk": {
                "make": lambda: count if kind == "while" else list(range(count)),
                "act": lambda total: {"ok": True, "note": "x" * 50},
            }
        }
        async with df.Runtime(meter, workflows=[flow], services=services, clock=clock) as runtime:
            result = await runtime.runner("flow").run({}, execution_id="e")
        assert result.completed, result.error
        return meter.written


def growth(full: bool) -> Iterator[Case]:
    def case(kind: str, count: int) -> Case:
        async def check(clock: FakeClock) -> None:
            written = await measure(clock, kind, count)
            ten, more = sum(await measure(clock, kind, 10)), sum(await measure(clock, kind, 110))
            part = len(written) // (count // 1000)
            rounds = written[3:-3]
            first, last = sum(rounds[:part]) / part, sum(rounds[-part:]) / part
            ratio, per_item = last / first, (sum(written) - ten) / (count - 10) / ((more - ten) / 100)
            TABLE.figures.append(
                f"bytes of a transition, loop {kind}, {count:,} rounds: the last thousand {last:,.0f}, the first "
                f"{first:,.0f}, ratio {ratio:.3f}; an item of {count:,} against one of ten: {per_item:.3f}"
            )
            assert ratio <= 1.2, f"{first} bytes at the beginning, {last} at the end"
            assert per_item <= 1.2

        return Case(f"growth, loop {kind}, {count:,}", fake_time(check))

    yield from (case(kind, 10_000 if full else 2_000) for kind in LOOPS)
    if full:
        yield case("one by one", 100_000)


def cases(full: bool) -> Iterable[Case]:
    yield from values()
    yield from running()
    yield from definitions()
    yield from growth(full)


TABLE = Table("limits are exact, and what a transition writes does not grow", cases)
