"""The network breaks while workflows run: nothing happens twice, nothing is lost, and nothing is called failed that is
not. Between the store and a real server stands a proxy that loses answers, requests and connections."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from tests.servers.binaries import NotInstalled
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server
from tests.servers.proxy import Counter as Counting
from tests.servers.proxy import Proxy, containing, executing
from tests.servers.redis import RedisServer

WORKFLOW = df.load("""
id: errands
name: Errands
steps:
  - {id: first, type: call, service: Desk, method: do, input: {what: first}, output: a, next: each}
  - {id: each, type: loop, over: [x, y], as: one, output: outs, next: both, do: [
      {id: item, type: call, service: Desk, method: do, input: {what: "item $one"}, output: o}]}
  - {id: both, type: parallel, output: pair, next: ask, branches: [
      {id: left, type: call, service: Desk, method: do, input: {what: left}, output: l},
      {id: right, type: call, service: Desk, method: do, input: {what: right}, output: r}]}
  - {id: ask, type: approval, prompt: "Go on?", next: last}
  - {id: last, type: call, service: Desk, method: do, input: {what: last}, output: b, next: done}
  - {id: done, type: end, result: [$a, $outs, $pair, $b]}
""")
RESULT = ["did first", ["did item x", "did item y"], ["did left", "did right"], "did last"]
CALLS = Counter(["first", "item x", "item y", "left", "right", "last"])
STEPS = {"first", "each", "item", "both", "left", "right", "ask", "last", "done"}


class Desk:
    """A service that counts its calls by execution, and lets a test do something in the middle of each."""

    def __init__(self) -> None:
        self.calls: dict[str, list[str]] = {}
        self.meanwhile: Callable[[str], Awaitable[object]] | None = None

    async def do(self, what: str, context: df.StepContext) -> str:
        self.calls.setdefault(context.execution_id, []).append(what)
        if self.meanwhile is not None:
            await self.meanwhile(what)
        return f"did {what}"


class Place(NamedTuple):
    """Where a store is, and what of its traffic counts as a request."""

    url: str
    options: dict[str, Any]
    counting: Callable[[], Counting]

    def store(self, url: str, **options: Any) -> df.Store:
        return df.open_store(url, **self.options | options)


Trail = Counter[tuple[str, str, str]]


async def trail(store: df.Store, execution_id: str) -> Trail:
    """What happened, each as often as it did; sound in itself."""
    entries = await store.entries(execution_id)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    row = await store.row(execution_id)
    assert row is not None
    assert (row.status, row.seq, row.owner) == ("completed", len(entries), None)
    assert not await store.inbox(execution_id)
    assert not row.waits
    return Counter((entry.action, entry.step_id, entry.path) for entry in entries)


async def drive(runtime: df.Runtime, execution_id: str) -> None:
    """Runs the workflow to its end, with an answer on the way."""
    runner = runtime.runner("errands")
    result = await runner.run(execution_id=execution_id)
    assert result.halted, result.error
    result = await runner.resume(execution_id, approved=True, by="alice")
    assert result.completed, result.error
    assert result.output == RESULT


class Scene(NamedTuple):
    """A runtime behind a proxy; `expected` is the trail of an execution that nothing happened to."""

    proxy: Proxy
    desk: Desk
    runtime: df.Runtime
    near: df.Store
    expected: Trail

    async def check(self, execution_id: str) -> None:
        """Everything happened once."""
        assert Counter(self.desk.calls[execution_id]) == CALLS
        assert await trail(self.near, execution_id) == self.expected


@asynccontextmanager
async def staged(place: Place, *, lease_ttl: float = 30.0, **options: Any) -> AsyncIterator[Scene]:
    desk = Desk()
    async with (
        Proxy.to(place.url, counting=place.counting) as proxy,
        place.store(place.url) as near,
        place.store(proxy.url(place.url), **options) as far,
        df.Runtime(far, workflows=[WORKFLOW], services={"Desk": desk}, lease_ttl=lease_ttl) as runtime,
    ):
        await drive(runtime, "undisturbed")
        scene = Scene(proxy, desk, runtime, near, await trail(near, "undisturbed"))
        assert {step for _, step, _ in scene.expected if step} == STEPS
        yield scene


def in_postgresql(get: Callable[[str], Any]) -> Place:
    schema = get("postgres_schema")
    return Place(get("postgres_url"), {"schema": schema}, executing(schema.encode()))


def in_redis(get: Callable[[str], Any]) -> Place:
    return Place(get("redis_url"), {"prefix": get("redis_prefix")}, containing(b"EVALSHA"))


PLACES = {"postgresql": in_postgresql, "redis": in_redis}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param](request.getfixturevalue)


@pytest.fixture
async def scene(place: Place) -> AsyncIterator[Scene]:
    async with staged(place, timeout=2.0) as made:
        yield made


# -- single requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lose", [Proxy.lose_answer, Proxy.lose_request], ids=["answer", "request"])
async def test_whichever_answer_or_request_is_lost_everything_happens_once(
    scene: Scene, lose: Callable[[Proxy, int], asyncio.Event]
) -> None:
    for number in itertools.count(1):
        lost = lose(scene.proxy, number)
        await drive(scene.runtime, f"e{number}")
        await scene.check(f"e{number}")
        if not lost.is_set():  # there were fewer requests than that
            break
    assert number > len(scene.expected) / 2


async def test_when_every_third_answer_is_lost_everything_happens_once(scene: Scene) -> None:
    for number in range(1, 60, 3):
        scene.proxy.lose_answer(number)
    await drive(scene.runtime, "e")
    await scene.check("e")


# -- transactions that services share with their steps ---------------------------------------------------------------

BOOK = df.load("""
id: book
name: Book
steps:
  - {id: one, type: call, service: Books, method: write, next: both}
  - {id: both, type: parallel, next: two, branches: [
      {id: left, type: call, service: Books, method: write},
      {id: right, type: call, service: Books, method: write}]}
  - {id: two, type: call, service: Books, method: write}
""")


@pytest.mark.parametrize("lose", [Proxy.lose_answer, Proxy.lose_request], ids=["answer", "request"])
@pytest.mark.parametrize("word", [b"COMMIT", b"commits("], ids=["commit", "fence"])
async def test_whichever_end_of_a_transaction_is_lost_its_rows_are_there_once(
    postgres_url: str, postgres_schema: str, lose: Callable[[Proxy, int], asyncio.Event], word: bytes
) -> None:
    table = f'"{postgres_schema}".books'

    class Books:
        async def write(self, context: df.StepContext) -> None:
            async with context.transaction() as tx:
                await tx.execute(f"INSERT INTO {table} VALUES ($1)", context.idempotency_key)

    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(postgres_url)
    async with (
        Proxy.to(postgres_url, counting=executing(word)) as proxy,
        df.open_store(proxy.url(postgres_url), schema=postgres_schema, timeout=2.0) as store,
        df.Runtime(store, workflows=[BOOK], services={"Books": Books()}) as runtime,
    ):
        await connection.execute(f"CREATE TABLE {table} (key text)")
        for number in itertools.count(1):
            lost = lose(proxy, number)
            name = f"e{number}"
            result = await runtime.runner("book").run(execution_id=name)
            assert result.completed, result.error
            keys = sorted(key for (key,) in await connection.fetch(f"DELETE FROM {table} RETURNING key"))
            assert keys == [f"{name}:both/left", f"{name}:both/right", f"{name}:one", f"{name}:two"]
            seen = await trail(store, name)
            assert seen == Counter({place: 1 for place in seen if place[0] != "recovered"}) + Counter(
                {place: count for place, count in seen.items() if place[0] == "recovered"}
            )
            if not lost.is_set():  # there were fewer than that
                break
        assert number > 4
    await connection.close()


async def test_a_transaction_that_did_not_land_leaves_an_at_most_once_step_uncertain(
    postgres_url: str, postgres_schema: str
) -> None:
    table = f'"{postgres_schema}".books'

    class Books:
        async def write(self, context: df.StepContext) -> None:
            async with context.transaction() as tx:
                await tx.execute(f"INSERT INTO {table} VALUES ($1)", context.idempotency_key)

    steps = {"id": "one", "type": "call", "service": "Books", "method": "write", "delivery": "at_most_once"}
    once = df.load({"id": "once", "name": "Once", "steps": [steps]})
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(postgres_url)
    async with (
        Proxy.to(postgres_url, counting=executing(b"COMMIT")) as proxy,
        df.open_store(proxy.url(postgres_url), schema=postgres_schema, timeout=2.0) as store,
        df.Runtime(store, workflows=[once], services={"Books": Books()}) as runtime,
    ):
        await connection.execute(f"CREATE TABLE {table} (key text)")
        uncertain = 0
        for number in itertools.count(1):
            lost = proxy.lose_request(number)
            result = await runtime.runner("once").run(execution_id=f"e{number}")
            if result.halted:
                assert [halt.type for halt in result.halts] == ["uncertain"]
                assert await connection.fetch(f"SELECT key FROM {table}") == []
                result = await runtime.runner("once").retry(f"e{number}")
                uncertain += 1
            assert result.completed, result.error
            assert [key for (key,) in await connection.fetch(f"DELETE FROM {table} RETURNING key")] == [
                f"e{number}:one"
            ]
            if not lost.is_set():  # there were fewer than that
                break
        assert uncertain
    await connection.close()


async def test_the_first_statement_of_a_transaction_waits_for_a_server_that_is_away(
    postgres_url: str, postgres_schema: str
) -> None:
    table = f'"{postgres_schema}".books'
    attempts: list[int] = []
    back: list[asyncio.Future[None]] = []

    class Books:
        async def write(self, context: df.StepContext) -> None:
            attempts.append(context.attempt)
            proxy.refuse()
            proxy.cut()
            asyncio.get_running_loop().call_later(0.3, lambda: back.append(asyncio.ensure_future(proxy.accept())))
            async with context.transaction() as tx:
                await tx.execute(f"INSERT INTO {table} VALUES ($1)", context.idempotency_key)
                assert back

    write = {"id": "write", "type": "call", "service": "Books", "method": "write"}
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(postgres_url)
    async with (
        Proxy.to(postgres_url, counting=executing(b"COMMIT")) as proxy,
        df.open_store(proxy.url(postgres_url), schema=postgres_schema, timeout=2.0) as store,
        df.Runtime(
            store, workflows=[{"id": "w", "name": "W", "steps": [write]}], services={"Books": Books()}
        ) as process,
    ):
        await connection.execute(f"CREATE TABLE {table} (key text)")
        result = await process.runner("w").run(execution_id="e")
        assert result.completed, result.error
        assert [key for (key,) in await connection.fetch(f"SELECT key FROM {table}")] == ["e:write"]
        await asyncio.gather(*back)
    assert attempts == [1]
    await connection.close()


# -- all of the network -----------------------------------------------------------------------------------------------

EVENTS = list(CALLS)


@pytest.mark.parametrize("when", EVENTS)
async def test_cut_connections_hurt_nothing(scene: Scene, when: str) -> None:
    async def cut(what: str) -> None:
        if what == when:
            scene.proxy.cut()

    scene.desk.meanwhile = cut
    await drive(scene.runtime, "e")
    await scene.check("e")


@pytest.mark.parametrize("when", EVENTS)
async def test_a_server_that_is_out_of_reach_for_a_while_hurts_nothing(scene: Scene, when: str) -> None:
    back: list[asyncio.Future[None]] = []

    async def part(what: str) -> None:
        if what == when:
            scene.proxy.refuse()
            scene.proxy.cut()
            asyncio.get_running_loop().call_later(0.3, lambda: back.append(asyncio.ensure_future(scene.proxy.accept())))

    scene.desk.meanwhile = part
    await drive(scene.runtime, "e")
    await asyncio.gather(*back)
    await scene.check("e")


@pytest.mark.parametrize("end", [Proxy.flow, Proxy.cut], ids=["late", "never"])
async def test_what_disappears_on_the_way_is_found_out(place: Place, end: Callable[[Proxy], None]) -> None:
    """The store gives up waiting before the network comes back: what it sent arrives late, or never."""
    async with staged(place, timeout=0.4) as scene:

        async def vanish(what: str) -> None:
            if what in ("first", "right"):
                scene.proxy.black_hole()
                asyncio.get_running_loop().call_later(1.0, come_back)

        def come_back() -> None:
            end(scene.proxy)
            scene.proxy.flow()

        scene.desk.meanwhile = vanish
        await drive(scene.runtime, "e")
        await scene.check("e")


@pytest.mark.parametrize("when", EVENTS)
async def test_a_commit_that_arrives_after_its_outcome_was_looked_for_changes_nothing(place: Place, when: str) -> None:
    """The store gives up, finds nothing, commits again on a new connection; then the first one gets there."""
    async with staged(place, timeout=0.4) as scene:

        async def hold(what: str) -> None:
            if what == when and not held:
                held.append(what)
                scene.proxy.hold()

        held: list[str] = []
        scene.desk.meanwhile = hold
        await drive(scene.runtime, "e")
        before = scene.proxy.requests
        scene.proxy.flow()
        await wait_until(lambda: scene.proxy.requests > before)
        await drive(scene.runtime, "behind")
        await scene.check("e")
        await scene.check("behind")


async def test_a_slow_network_changes_nothing(scene: Scene) -> None:
    scene.proxy.delay = 0.02
    await asyncio.gather(*[drive(scene.runtime, f"e{i}") for i in range(5)])
    for i in range(5):
        await scene.check(f"e{i}")


async def test_many_executions_share_a_network_that_breaks_again_and_again(scene: Scene) -> None:
    called = itertools.count(1)

    async def cut(what: str) -> None:
        number = next(called)
        if number % 4 == 0:
            scene.proxy.cut()
        if number % 7 == 0:
            scene.proxy.lose_answer()

    scene.desk.meanwhile = cut
    names = [f"e{i}" for i in range(12)]
    await asyncio.gather(*[drive(scene.runtime, name) for name in names])
    for name in names:
        await scene.check(name)


@pytest.mark.parametrize("lose", [Proxy.lose_answer, Proxy.lose_request], ids=["answer", "request"])
async def test_two_people_answer_while_answers_are_lost_and_one_wins(
    place: Place, scene: Scene, lose: Callable[[Proxy, int], asyncio.Event]
) -> None:
    async with (
        place.store(place.url) as store,
        df.Runtime(store, workflows=[WORKFLOW], services={"Desk": scene.desk}) as elsewhere,
    ):
        for number in range(1, 8):
            name = f"e{number}"
            assert (await scene.runtime.runner("errands").run(execution_id=name)).halted
            lose(scene.proxy, number)
            outcomes = await asyncio.gather(
                *[
                    runtime.runner("errands").resume(name, approved=True, by="alice")
                    for runtime in (scene.runtime, elsewhere)
                ],
                return_exceptions=True,
            )
            assert all(
                outcome.output == RESULT
                if isinstance(outcome, df.ExecutionResult)
                else type(outcome) is df.ConflictError
                for outcome in outcomes
            ), outcomes
            assert any(isinstance(outcome, df.ExecutionResult) for outcome in outcomes)
            await scene.check(name)


# -- the server -------------------------------------------------------------------------------------------------------


def own_postgresql() -> tuple[Server, Place]:
    server = PostgresServer.start()
    return server, Place(server.url, {}, executing(b"durable_flow"))


def own_redis() -> tuple[Server, Place]:
    server = RedisServer.start(appendonly=True, appendfsync="always")
    return server, Place(server.url, {}, containing(b"EVALSHA"))


OWN = {"postgresql": own_postgresql, "redis": own_redis}


@pytest.fixture(params=OWN)
def own(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Place]]:
    """A server that this test may restart. It keeps what it confirmed."""
    try:
        server, place = OWN[request.param]()
    except NotInstalled as missing:
        pytest.skip(str(missing))
    with server:
        yield server, place


@pytest.mark.parametrize("orderly", [True, False], ids=["stopped", "killed"])
async def test_a_server_that_restarts_in_mid_run_hurts_nothing(own: tuple[Server, Place], orderly: bool) -> None:
    """As long as the lease lasts. After 27 seconds of the usual 30 without a renewal a process must give up what it
    drives, and then the call whose end it could not commit is rightly repeated; a busy machine may well take that long
    to end a server that writes everything to its disk, and to start it again."""
    server, place = own
    async with staged(place, lease_ttl=600.0) as scene:
        one_at_a_time = asyncio.Lock()

        async def restart() -> None:
            async with one_at_a_time:
                if not orderly:
                    await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.restart)

        async def away(what: str) -> None:
            if what in ("first", "left", "last"):
                under_way.append(asyncio.ensure_future(restart()))

        under_way: list[asyncio.Future[None]] = []
        scene.desk.meanwhile = away
        await drive(scene.runtime, "e")
        await asyncio.gather(*under_way)
        await wait_until(lambda: answers(scene.near))
        await scene.check("e")


async def answers(store: df.Store) -> bool:
    try:
        await store.row("e")
    except df.StoreUnavailable:
        return False
    return True
