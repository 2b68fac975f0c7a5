"""The subject that is LangGraph with its SQLite checkpointer. Usage: `.venv/bin/python langgraph_sqlite.py <folder>`.

`durability="sync"`: every step is written before the next one begins, as with ours.
"""

import itertools
import operator
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from benchmarks.subject import Handlers, drive, serve

STEPS = 10


class Chain(TypedDict):
    last: int


class Fan(TypedDict):
    branches: int
    done: Annotated[list[int], operator.add]


class Peer:
    def __init__(self, saver: AsyncSqliteSaver) -> None:
        self._threads = itertools.count()
        self._chain = _chain(saver)
        self._fan = _fan(saver)

    async def _run(self, graph: Any, state: dict[str, Any]) -> None:
        thread = {"configurable": {"thread_id": str(next(self._threads))}, "recursion_limit": 100}
        await graph.ainvoke(state, thread, durability="sync")

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        async def one(number: int) -> None:
            await self._run(self._chain, {"last": 0})

        return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        begun = time.perf_counter()
        await self._run(self._fan, {"branches": branches, "done": []})
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "per_second": branches / seconds}


def _chain(saver: AsyncSqliteSaver) -> Any:
    graph, before = StateGraph(Chain), START
    for number in range(STEPS):

        async def node(state: Chain, number: int = number) -> dict[str, int]:
            return {"last": number}

        graph.add_node(f"s{number}", node)
        graph.add_edge(before, f"s{number}")
        before = f"s{number}"
    graph.add_edge(before, END)
    return graph.compile(checkpointer=saver)


def _fan(saver: AsyncSqliteSaver) -> Any:
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


@asynccontextmanager
async def open_langgraph(folder: Path) -> AsyncIterator[Handlers]:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.db")) as saver:
        await saver.setup()
        peer = Peer(saver)
        yield {"sequential": peer.sequential, "fan_out": peer.fan_out}


if __name__ == "__main__":
    serve(open_langgraph, sys.argv[1])
