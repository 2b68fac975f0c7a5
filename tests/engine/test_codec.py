"""Workflows in an encrypted store: what can be read without the keys, and what becomes of who has not got them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.model.codec import SEALED
from durable_flow.stores.base import Store
from tests.engine.aid import Desk, World, flow, idle

ONE, TWO = bytes(range(32)), bytes(range(32, 64))

RICH = """
- id: reckless
  type: call
  service: desk
  method: fail
  input: {who: $input.who, token: $secrets.TOKEN}
  retry: {max_attempts: 2, initial_interval: 0.001}
  on_error: literal
  next: literal
- {id: literal, type: assign, set: {greeting: canary-literal}, next: each}
- id: each
  type: loop
  over: [canary-item-1, canary-item-2]
  as: item
  output: worked
  next: both
  do:
    - {id: work, type: call, service: desk, method: work, input: $item}
- id: both
  type: parallel
  output: sides
  next: below
  branches:
    - {id: left, type: call, service: desk, method: look, input: 1, output: seen}
    - {id: review, type: approval, prompt: canary-prompt, context: {a: canary-context}, required: 2,
       options: [canary-option, other]}
- {id: below, type: workflow, workflow_id: inner, input: {name: $input.who}, output: told, next: ask}
- {id: ask, type: halt, reason: canary-reason, data: {asked: canary-data}, next: done}
- {id: done, type: end, result: [$told, $response]}
"""

INNER = """
- {id: think, type: assign, set: {thought: canary-thought}, next: say}
- {id: say, type: end, result: "canary-child $input.name"}
"""

INPUTS = {"who": "string", "card": {"type": "string", "secret": True}}

CANARIES = [
    "canary-who", "canary-card", "canary-error", "canary-literal", "canary-item-1", "canary-item-2", "canary-worked",
    "canary-looked", "canary-prompt", "canary-context", "canary-option", "canary-voter-1", "canary-voter-2",
    "canary-comment", "canary-thought", "canary-child", "canary-reason", "canary-data", "canary-response",
    "canary-cancel", "canary-canceller", "canary-note", "canary-writer",
]  # fmt: skip
"""What users gave, and what their services said."""

READABLE = {
    "executions": {
        "n", "id", "workflow_id", "status", "parent_id", "created_at", "updated_at", "finished_at", "wake_at",
        "version", "generation", "nonce", "seq", "result_seq", "owner", "lease_until", "recoveries", "current_step",
        "queue", "priority",
    },
    "facts": {
        "n", "workflow_version", "definition_hash", "root_id", "trigger", "concurrency_key", "labels",
    },
    "info": {"n"},
    "labels": {"n", "key", "value", "workflow_id", "status", "created_at", "id"},
    "entries": {"id", "n", "seq"},
    "frames": {"n", "path", "out"},
    "variables": {"n", "frame", "name", "seq"},
    "inbox": {"id", "n", "key", "wait_id"},
    "waits": {"n", "wait_id", "seq", "remaining", "deadline"},
    "answers": {"n", "wait_id", "key"},
    "definitions": {"hash"},
}  # fmt: skip
"""The columns of a SQLite store that are not encrypted: what docs/encryption.md lists. Every other one is."""

READ = {
    *("e", "f", "e.below", "rich", "inner", "1.0"),  # ids and versions; the child's has the step in it
    *("halted", "completed", "cancelled", "api", "child"),  # states, and what started it
    *("both", "ask", "both/left", "both/review", "e:both/review", "e:ask"),  # steps, frames and waits
    *("greeting", "worked", "seen", "sides", "told", "thought", "result"),  # variables of the workflows …
    *("loop", "response", "approvals.review", "_last_error"),  # … and those that steps set by themselves
    *("team", "readable-label", '{"team":"readable-label"}', "{}", ""),  # labels; the outermost frame has no path
}
"""Every text that can be read in the columns above, apart from tokens and hashes."""


def codec(active: str = "one", *, accept_plain: bool = False, **keys: bytes) -> df.AesGcm:
    return df.AesGcm(keys=keys or {"one": ONE}, active=active, accept_plain=accept_plain)


def content(folder: Path) -> bytes:
    """Every byte of every file of a store."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def columns(path: Path) -> dict[tuple[str, str], list[Any]]:
    """All values of a SQLite file, by table and column."""
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[tuple[str, str], list[Any]] = {}
        for table in tables:
            for row in database.execute(f"SELECT * FROM {table}"):
                for name in row.keys():  # noqa: SIM118 - iterating a Row gives values
                    found.setdefault((table, name), []).append(row[name])
    database.close()
    return found


async def live(folder: Path, key: df.Codec | None) -> tuple[bytes, dict[tuple[str, str], list[Any]]]:
    """Runs workflows with something of everything: all that was ever in the files, and all values that were stored."""
    desk = Desk()
    desk.answers = {
        "fail": ConnectionError("canary-error"),
        "work": lambda item: f"canary-worked {item}",
        "look": {"found": "canary-looked"},
    }
    path = folder / "flow.db"
    seen = b""
    values: dict[tuple[str, str], list[Any]] = {}

    def look() -> None:
        nonlocal seen
        seen += content(folder)
        for place, found in columns(path).items():
            values.setdefault(place, []).extend(found)

    rich, inner = flow(RICH, id="rich", inputs=INPUTS), flow(INNER, id="inner", inputs={"name": "string"})
    async with df.Runtime(
        f"sqlite:///{path}",
        workflows=[rich, inner],
        services={"desk": desk},
        secrets={"TOKEN": "canary-token"},
        codec=key,
    ) as runtime:
        runner, store = runtime.runner("rich"), runtime.store
        given = {"who": "canary-who", "card": "canary-card"}
        assert (await runner.run(given, execution_id="e", labels={"team": "readable-label"})).halted
        await store.record("e", "canary-note", actor="canary-writer")
        vote = {"approved": True, "comment": "canary-comment", "selections": ["canary-option"]}
        assert (await runner.resume("e", by="canary-voter-1", **vote)).halted
        look()
        with pytest.raises(df.ConflictError, match="already answered"):
            await runner.resume("e", by="canary-voter-1", approved=True)
        assert (await runner.resume("e", by="canary-voter-2", **vote)).halted
        look()
        result = await runner.resume("e", response={"said": "canary-response"})
        assert result.output == ["canary-child canary-who", {"said": "canary-response"}]
        assert (await runner.run(given, execution_id="f")).halted
        assert (await runner.cancel("f", reason="canary-cancel", by="canary-canceller")).status == "cancelled"
        entries = await store.entries("e")
        assert any(entry.error == "ConnectionError: canary-error" for entry in entries)
        assert {entry.actor for entry in entries} >= {"canary-writer", "canary-voter-1", "canary-voter-2"}
        look()
    look()
    return seen, values


async def test_nothing_that_users_gave_is_anywhere_in_the_files(tmp_path: Path) -> None:
    seen, _ = await live(tmp_path, codec())
    assert [canary for canary in (*CANARIES, "canary-token") if canary.encode() in seen] == []
    assert seen.count(b"canary") == 0
    assert b"readable-label" in seen


async def test_without_a_codec_all_of_it_can_be_read(tmp_path: Path) -> None:
    """The test above would find it."""
    seen, _ = await live(tmp_path, None)
    assert [canary for canary in CANARIES if canary.encode() not in seen] == []
    assert b"canary-token" not in seen


async def test_a_value_is_as_much_longer_as_documented() -> None:
    one = {"key": 3}
    async with df.open_store("sqlite://:memory:") as inner:
        async with df.Runtime(inner, workflows=[HALTING], codec=codec()) as runtime:
            await runtime.runner("flow").run({"n": one}, execution_id="e")
        row = await inner.row("e")
    assert row is not None
    assert len(row.input) == len('{"n":{"key":3}}') + 36 + len("one")


async def test_what_stays_readable_is_what_is_listed(tmp_path: Path) -> None:
    _, values = await live(tmp_path, codec())
    assert {table for table, _ in values} - {"sqlite_sequence"} == READABLE.keys() - {"inbox"}  # it is always emptied
    for (table, column), found in values.items():
        if table != "sqlite_sequence" and column not in READABLE[table]:
            assert all(isinstance(value, bytes) and value.startswith(SEALED) for value in found), f"{table}.{column}"
    hidden = {("executions", "nonce"), ("executions", "owner"), ("answers", "key")}
    hashes = {("definitions", "hash"), ("facts", "definition_hash")}
    texts = {
        value
        for place, found in values.items()
        if place not in hidden | hashes and place[0] != "sqlite_sequence"
        for value in found
        if isinstance(value, str)
    }
    assert texts == READ
    assert all(len(key) == 64 and int(key, 16) for key in values["answers", "key"])


async def halting(world: World, key: df.Codec | None = None) -> None:
    """An execution "e" that waits for an answer, in a store with this codec."""
    await world.restart(codec=key)
    world.know(HALTING)
    assert (await world.runtime.runner("flow").run({"n": 1}, execution_id="e")).halted


HALTING = flow("- {id: ask, type: halt, next: done}\n- {id: done, type: end, result: $response}", inputs={"n": "any"})

VERBS: Mapping[str, Callable[[df.Runtime, df.Runner], Awaitable[object]]] = {
    "resume": lambda runtime, runner: runner.resume("e", response=1),
    "cancel": lambda runtime, runner: runner.cancel("e"),
    "recover": lambda runtime, runner: runner.recover("e"),
    "result": lambda runtime, runner: runner.result("e"),
    "why": lambda runtime, runner: runner.why("e"),
    "run": lambda runtime, runner: runner.run({"n": 1}, execution_id="e"),
    "load": lambda runtime, runner: runtime.store.load("e"),
    "entries": lambda runtime, runner: runtime.store.entries("e"),
    "record": lambda runtime, runner: runtime.store.record("e", "note"),
    "save": lambda runtime, runner: runtime.store.save(
        df.Execution(id="e", workflow_id="flow", status=df.Status.FAILED, generation=1)
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", [None, codec("two", two=TWO)], ids=["without", "other key"])
async def test_who_has_not_got_the_codec_is_told_and_changes_nothing(
    world: World, verb: str, wrong: df.Codec | None
) -> None:
    await halting(world, codec())
    before = await world.store.fetch("e")
    assert before is not None
    await world.restart(codec=wrong)
    told = r"give the Runtime .or open_store. its codec" if wrong is None else "key 'one', which the codec does not"
    with pytest.raises(df.CorruptState, match=rf"'e' cannot be read: .*{told}") as caught:
        await VERBS[verb](world.runtime, world.runtime.runner("flow"))
    assert caught.value.execution_id == "e"
    after = await world.store.fetch("e")
    assert after is not None
    assert (after.row.version, after.row.nonce, after.row.status) == (before.row.version, before.row.nonce, "halted")
    assert (after.row.owner, after.row.recoveries, after.inbox) == (None, 0, [])
    await world.restart(codec=codec())
    assert (await world.runtime.runner("flow").resume("e", response="yes")).output == "yes"


@pytest.mark.parametrize("wrong", [None, codec("two", two=TWO)], ids=["without", "other key"])
async def test_a_failed_execution_is_not_retried_without_the_codec(world: World, wrong: df.Codec | None) -> None:
    await world.restart(codec=codec())
    world.desk.answers["work"] = ConnectionError("no line")
    await world.run(
        """
        - {id: work, type: call, service: desk, method: work, output: result}
    """,
        execution_id="e",
    )
    await world.restart(codec=wrong)
    with pytest.raises(df.CorruptState):
        await world.runtime.runner("flow").retry("e")
    world.desk.answers["work"] = "done"
    await world.restart(codec=codec())
    assert (await world.runtime.runner("flow").retry("e")).output == "done"


async def test_an_execution_can_be_deleted_without_the_codec(world: World) -> None:
    await halting(world, codec())
    assert await world.store.delete("e")
    assert await world.store.find() == []


async def test_running_executions_of_who_died_are_not_counted_against_them(world: World) -> None:
    """Each try to take one over without the codec leaves the count of recoveries where it was."""
    await world.restart(codec=codec())
    world.desk.answers["work"] = lambda value: world.die()
    await world.start("""
        - {id: work, type: call, service: desk, method: work, output: result}
    """)
    await world.after_the_lease(codec=None)
    for _ in range(15):
        with pytest.raises(df.CorruptState, match="it is encrypted"):
            await world.runtime.runner("flow").recover("e")
    world.desk.answers["work"] = "done"
    await world.restart(codec=codec())
    assert (await world.runtime.runner("flow").recover("e")).output == "done"


async def test_an_encrypted_execution_goes_on_in_another_process(world: World) -> None:
    await world.restart(codec=codec())
    world.desk.answers["b"] = lambda value: world.die()
    await world.start("""
        - {id: a, type: call, service: desk, method: a, input: 1, output: x, next: b}
        - {id: b, type: call, service: desk, method: b, input: $x, output: result}
    """)
    await world.after_the_lease()
    world.desk.answers["b"] = lambda value: value + 1
    assert (await world.runtime.runner("flow").recover("e")).output == 2
    assert world.desk.called == ["a", "b", "b"]


async def test_a_definition_is_read_from_the_encrypted_store(world: World) -> None:
    await halting(world, codec())
    world.workflows.clear()
    await world.restart()
    runner = await world.runtime.runner_of("e")
    assert (await runner.resume("e", response=[True])).output == [True]


async def test_a_definition_that_cannot_be_opened_is_told_as_such(world: World) -> None:
    await halting(world, codec())
    world.workflows.clear()
    await world.restart(codec=None)
    with pytest.raises(df.CorruptState, match=r"its definition \w{12}…: it is encrypted"):
        await world.runtime.runner_of("e")


async def test_after_a_rotation_old_executions_go_on_and_new_data_has_the_new_key(world: World) -> None:
    await halting(world, codec())
    await world.restart(codec=codec("two", one=ONE, two=TWO))
    result = await world.runtime.runner("flow").resume("e", response="yes")
    assert result.output == "yes"
    raw = await world.store.read("e")
    keys = [b"one" if b"\x03one" in blob[:12] else b"two" for _, blob in raw if isinstance(blob, bytes)]
    assert keys == sorted(keys)
    assert set(keys) == {b"one", b"two"}


async def test_without_a_retired_key_old_executions_are_told_and_new_ones_are_not_affected(world: World) -> None:
    await halting(world, codec())
    await world.restart(codec=codec("two", two=TWO))
    runner = world.runtime.runner("flow")
    assert (await runner.run({"n": 2}, execution_id="new")).halted
    page = await world.runtime.store.find()
    assert {one.id: one.error is None for one in page} == {"new": True, "e": False}
    assert (await runner.resume("new", response=1)).output == 1


async def test_encryption_can_be_switched_on_for_a_store_that_is_in_use(world: World) -> None:
    await halting(world)
    await world.restart(codec=codec())
    with pytest.raises(df.CorruptState, match="it is not encrypted"):
        await world.runtime.runner("flow").result("e")
    await world.restart(codec=codec(accept_plain=True))
    world.know(HALTING)
    runner = world.runtime.runner("flow")
    assert (await runner.resume("e", response="yes")).output == "yes"
    assert (await runner.run({"n": 1}, execution_id="new")).halted
    await world.restart(codec=codec())
    assert (await world.runtime.runner_of("new")).workflow.id == "flow"  # though its definition is plain text
    assert (await world.runtime.runner("flow").resume("new", response=2)).output == 2


async def test_a_vote_from_another_process_reaches_the_owner(world: World) -> None:
    await world.restart(codec=codec())
    world.desk.hold("work")
    task = await world.start("""
        - id: both
          type: parallel
          output: result
          branches:
            - {id: work, type: call, service: desk, method: work}
            - {id: review, type: approval, prompt: Go?, approvers: [ada]}
    """)
    second = world.process(world.wire)
    async with second:
        vote = world.spawn(second.runner("flow").resume("e", approved=True, by="ada", comment="why not"))
        await idle()
        world.desk.release()
        await world.clock.advance(10)
        assert (await task).output[1]["votes"][0]["comment"] == "why not"
        assert (await vote).completed


async def test_children_are_told_of_what_their_parents_want_in_an_encrypted_store(world: World) -> None:
    await world.restart(codec=codec())
    world.know(flow("- {id: ask, type: halt}", id="child"))
    parent = flow("- {id: call, type: workflow, workflow_id: child}", id="parent")
    world.know(parent)
    result = await world.runtime.runner("parent").run(execution_id="p")
    assert result.halted
    await world.runtime.runner("parent").cancel("p", reason="over")
    (child,) = await world.runtime.store.find(parent_id="p")
    assert child.status == "cancelled"


def test_without_a_codec_there_is_no_wrapper() -> None:
    store = df.open_store("sqlite://:memory:")
    assert df.Runtime(store).store is store
    assert type(df.Runtime("sqlite://:memory:").store) is type(store)


async def test_a_store_that_was_opened_by_the_caller_is_left_open(world: World) -> None:
    await halting(world, codec())
    await world.runtime.close()
    assert await world.store.row("e") is not None
    sealed = world.runtime.store
    assert isinstance(sealed, Store)
    one = await sealed.load("e")
    assert one is not None
    assert one.input == {"n": 1}
    await world.begin()


def test_a_store_with_a_codec_takes_no_second_one() -> None:
    with pytest.raises(df.ConfigError, match="has a codec already"):
        df.Runtime(df.open_store("sqlite://:memory:", codec=codec()), codec=codec())


def test_wrong_codecs_are_told_when_the_runtime_is_made() -> None:
    wrong: Any = os.urandom(32)
    with pytest.raises(df.ConfigError, match="a codec has encode and decode, which bytes has not"):
        df.Runtime("sqlite://:memory:", codec=wrong)


async def test_a_message_with_a_key_that_the_owner_has_not_got_waits_for_who_has_it(world: World) -> None:
    """A new key was made active before every process knew it."""
    await world.restart(codec=codec())
    world.desk.hold("work")
    task = await world.start("""
        - id: both
          type: parallel
          output: result
          branches:
            - {id: work, type: call, service: desk, method: work}
            - {id: review, type: approval, prompt: Go?}
    """)
    ahead = codec("two", one=ONE, two=TWO)
    async with world.process(world.wire, codec=ahead) as second:
        vote = world.spawn(second.runner("flow").resume("e", approved=True, by="ada"))
        await world.clock.advance(10)
        world.desk.release()
        await world.clock.advance(10)
        with pytest.raises(df.CorruptState, match="a message: it is encrypted with key 'two'"):
            await task
        await world.clock.advance(60)
        result = await vote
    assert result.completed
    assert [entry.action for entry in await second.store.entries("e")].count("failed") == 0
