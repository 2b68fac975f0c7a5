"""The subject that is LangGraph with its checkpointer for PostgreSQL or SQLite.

`durability="sync"`: every step is written before the next one begins, as with ours.
Usage: `.venv/langgraph/bin/python langgraph_peer.py <url> <folder>`.
"""

import itertools
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from benchmarks.subject import Handlers, clock, drive, resident_bytes, serve

STEPS = 10


class Chain(TypedDict):
    last: int


class Fan(TypedDict):
    branches: int
    done: Annotated[list[int], operator.add]


class Peer:
    def __init__(self, saver: Any) -> None:
        self._threads = itertools.count()
        self._halted: range = range(0)
        self._chain = _chain(saver)
        self._fan = _fan(saver)
        self._approval = _approval(saver)

    async def _run(self, graph: Any, state: Any, thread: str | None = None) -> None:
        config = {"configurable": {"thread_id": thread or f"t{next(self._threads)}"}, "recursion_limit": 100}
        await graph.ainvoke(state, config, durability="sync")

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        async def one(number: int) -> None:
            await self._run(self._chain, {"last": 0})

        return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        return await clock(self._run(self._fan, {"branches": branches, "done": []}), branches)

    async def halt(self, total: int, at_most: float) -> dict[str, Any]:
        first = self._halted.stop

        async def one(number: int) -> None:
            await self._run(self._approval, {"last": 0}, f"halted-{first + number}")

        before = resident_bytes()
        done = await drive(one, total=total, in_flight=100, at_most=at_most)
        self._halted = range(first, first + done["done"])
        return done | {"bytes": (resident_bytes() - before) / done["done"]}

    async def resume(self, at_most: float) -> dict[str, Any]:
        async def one(number: int) -> None:
            await self._run(self._approval, Command(resume=True), f"halted-{self._halted[number]}")

        return await drive(one, total=len(self._halted), in_flight=100, at_most=at_most)


def _chain(saver: Any) -> Any:
    graph, before = StateGraph(Chain), START
    for number in range(STEPS):

        async def node(state: Chain, number: int = number) -> dict[str, int]:
            return {"last": number}

        graph.add_node(f"s{number}", node)
        graph.add_edge(before, f"s{number}")
        before = f"s{number}"
    graph.add_edge(before, END)
    return graph.compile(checkpointer=saver)


def _fan(saver: Any) -> Any:
    async def fork(state: Fan) -> dict[str, Any]:
        return {}

    async def branch(state: dict[str, Any]) -> dict[str, list[int]]:
        return {"done": [1]}

    def spread(state: Fan) -> list[Send]:
        return [Send("branch", {}) for _ in range(state["branches"])]

    graph = StateGraph(Fan)
    graph.add_node("fork", fork)
    graph.add_node("branch", branch)
    graph.add_edge(START, "fork")
    graph.add_conditional_edges("fork", spread, ["branch"])
    graph.add_edge("branch", END)
    return graph.compile(checkpointer=saver)


def _approval(saver: Any) -> Any:
    async def before(state: Chain) -> dict[str, int]:
        return {"last": 1}

    async def ask(state: Chain) -> dict[str, int]:
        return {"last": int(interrupt("Go on?"))}

    async def after(state: Chain) -> dict[str, int]:
        return {"last": 2}

    graph = StateGraph(Chain)
    for name, node in {"before": before, "ask": ask, "after": after}.items():
        graph.add_node(name, node)
    graph.add_edge(START, "before")
    graph.add_edge("before", "ask")
    graph.add_edge("ask", "after")
    graph.add_edge("after", END)
    return graph.compile(checkpointer=saver)


@asynccontextmanager
async def open_saver(url: str) -> AsyncIterator[Any]:
    if url.startswith("sqlite"):
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(url.removeprefix("sqlite:///")) as saver:
            yield saver
    else:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        # a saver that has one connection would do one thing at a time
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(url, min_size=1, max_size=20, kwargs=options) as pool:
            yield AsyncPostgresSaver(pool)


@asynccontextmanager
async def open_langgraph(url: str, folder: Path) -> AsyncIterator[Handlers]:
    async with open_saver(url) as saver:
        await saver.setup()
        peer = Peer(saver)
        yield {"sequential": peer.sequential, "fan_out": peer.fan_out, "halt": peer.halt, "resume": peer.resume}


if __name__ == "__main__":
    serve(open_langgraph)
