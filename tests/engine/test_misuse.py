"""Wrong use: a typed error that says what, where and what to do; nothing stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores import open_store
from tests.engine.aid import World, flow

DONE = flow("- {id: done, type: end, result: 1}\n")


async def test_a_runtime_must_be_opened_first() -> None:
    runtime = df.Runtime("sqlite://:memory:", workflows=[DONE])
    with pytest.raises(df.ConfigError, match="open the runtime first"):
        runtime.runner("flow")


async def test_a_runtime_is_opened_once() -> None:
    runtime = df.Runtime("sqlite://:memory:")
    async with runtime:
        with pytest.raises(df.ConfigError, match="opened before"):
            await runtime.__aenter__()
    with pytest.raises(df.ConfigError, match="opened before"):
        await runtime.__aenter__()


async def test_a_runtime_may_be_closed_twice() -> None:
    runtime = df.Runtime("sqlite://:memory:")
    await runtime.__aenter__()
    await runtime.close()
    await runtime.close()


async def test_a_workflow_that_is_not_known_is_told_with_those_that_are(world: World) -> None:
    world.know(DONE)
    with pytest.raises(df.ConfigError, match=r"'flwo'.*flow"):
        world.runtime.runner("flwo")


@pytest.mark.parametrize("workflow", [None, 5, {"id": "x"}, ["flow"]])
async def test_a_runner_is_for_a_workflow(world: World, workflow: Any) -> None:
    with pytest.raises(df.ConfigError):
        world.runtime.runner(workflow)


@pytest.mark.parametrize("url", ["nosuch://x", "sqlite:/x", "", "flows.db", "sqlite://relative.db"])
def test_a_store_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(df.ConfigError, match="sqlite"):
        df.Runtime(url)


@pytest.mark.parametrize(
    ("scheme", "meant"),
    [
        ("postgresql+asyncpg", "postgresql"),
        ("sqlite+aiosqlite", "sqlite"),
        ("postgre", "postgresql"),
        ("sqlit", "sqlite"),
    ],
)
def test_the_store_that_was_meant_is_told(scheme: str, meant: str) -> None:
    with pytest.raises(df.ConfigError, match=f"did you mean '{meant}'"):
        df.Runtime(f"{scheme}:///x")


@pytest.mark.parametrize(
    ("service", "what"), [(None, "is None"), (len, "is a function"), (lambda n: n, "is a function")]
)
def test_what_has_no_methods_is_no_service(service: Any, what: str) -> None:
    with pytest.raises(df.ConfigError, match=f"the service 'Bank' {what}.*a mapping such as"):
        df.Runtime("sqlite://:memory:", services={"Bank": service})


@pytest.mark.parametrize("given", ["Bank", ["Bank"], 5, object(), []])
@pytest.mark.parametrize("what", ["services", "gates"])
def test_services_and_gates_have_names(what: str, given: Any) -> None:
    with pytest.raises(df.ConfigError, match=f"{what} are a mapping of names"):
        df.Runtime("sqlite://:memory:", **{what: given})


@pytest.mark.parametrize("labels", ["team", ["team"], 5])
async def test_labels_that_are_looked_for_are_a_mapping(world: World, labels: Any) -> None:
    with pytest.raises(df.ValidationError, match="labels are a mapping of texts to texts"):
        await world.runtime.store.find(labels=labels)
    with pytest.raises(df.ValidationError, match="labels are a mapping of texts to texts"):
        await world.runtime.cancel_all(labels=labels)


async def test_letting_fail_what_nobody_decides_about_is_not_told_of_retries(world: World) -> None:
    runner = world.runner("- {id: ask, type: halt}\n")
    await runner.run(execution_id="e")
    with pytest.raises(df.ConflictError, match=r"is halted and no step of it waits for somebody to decide$"):
        await runner.fail("e")
    with pytest.raises(df.ConflictError, match="only a failed one can be retried"):
        await runner.retry("e")


@pytest.mark.parametrize("store", [None, 5, object()])
def test_what_is_no_store_is_refused(store: Any) -> None:
    with pytest.raises(df.ConfigError):
        df.Runtime(store)


@pytest.mark.parametrize(
    "option",
    [
        {"lease_ttl": 0},
        {"lease_ttl": -1},
        {"max_recoveries": -1},
        {"grace": -1},
        *({name: "30s"} for name in ("lease_ttl", "max_recoveries", "grace")),
    ],
)
def test_options_that_cannot_be_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(df.ConfigError, match=next(iter(option))):
        df.Runtime("sqlite://:memory:", **option)


def test_all_problems_of_all_definitions_are_told_at_once() -> None:
    with pytest.raises(df.ValidationError) as raised:
        df.Runtime("sqlite://:memory:", workflows=[{"id": "a"}, {"id": "b", "name": "b", "steps": []}])
    assert len(raised.value.problems) >= 3


def test_an_empty_list_of_steps_is_refused() -> None:
    with pytest.raises(df.ValidationError, match="at least one step"):
        df.load({"id": "a", "name": "a", "steps": []})


@pytest.mark.parametrize("workflows", ["flows/", {"id": "x"}])
def test_workflows_are_a_list(workflows: Any) -> None:
    with pytest.raises(df.ConfigError, match="list"):
        df.Runtime("sqlite://:memory:", workflows=workflows)


def test_a_folder_without_definitions_is_told(tmp_path: Path) -> None:
    with pytest.raises(df.ConfigError, match="no "):
        df.Runtime("sqlite://:memory:", workflows=[tmp_path])


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(df.DurableFlowError, match="missing"):
        df.Runtime("sqlite://:memory:", workflows=[tmp_path / "missing.yml"])


async def test_workflows_come_from_files_folders_mappings_and_definitions(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.yml").write_text("id: a\nname: a\nsteps: [{id: x, type: end, result: a}]\n")
    (tmp_path / "b.yaml").write_text("id: b\nname: b\nsteps: [{id: x, type: end, result: b}]\n")
    mapping = {"id": "c", "name": "c", "steps": [{"id": "x", "type": "end", "result": "c"}]}
    sources = [tmp_path / "one", str(tmp_path / "b.yaml"), mapping, DONE]
    async with df.Runtime("sqlite://:memory:", workflows=sources) as runtime:
        assert sorted(runtime.workflows) == ["a", "b", "c", "flow"]
        assert (await runtime.runner("a").run()).output == "a"


async def test_bad_input_stores_nothing(world: World) -> None:
    with pytest.raises(df.InputError):
        await world.runner(DONE).run({"x": object()})
    assert await world.store.execution_ids() == []


@pytest.mark.parametrize("call", ["resume", "cancel", "retry", "recover", "result", "why"])
@pytest.mark.parametrize("execution_id", ["", "a b", 5, None, "x" * 256])
async def test_a_bad_id_is_refused_everywhere(world: World, call: str, execution_id: Any) -> None:
    with pytest.raises(df.ValidationError, match="execution id"):
        await getattr(world.runner(DONE), call)(execution_id)


@pytest.mark.parametrize("call", ["resume", "cancel", "retry", "recover", "result", "why"])
async def test_an_execution_that_is_not_there_is_told_everywhere(world: World, call: str) -> None:
    with pytest.raises(df.ExecutionNotFound, match="'nobody'"):
        await getattr(world.runner(DONE), call)("nobody")


@pytest.mark.parametrize("call", ["resume", "cancel", "retry", "recover", "result", "why"])
async def test_an_execution_of_another_workflow_is_told_everywhere(world: World, call: str) -> None:
    await world.run(DONE, execution_id="e")
    other = world.runner(flow("- {id: x, type: end, result: 2}\n", id="other"))
    with pytest.raises(df.ConflictError, match="belongs to workflow 'flow'"):
        await getattr(other, call)("e")


@pytest.mark.parametrize("name", [{"step": 5}, {"wait_id": 5}, {"step": ""}, {"wait_id": ""}])
async def test_a_wait_that_cannot_be_is_refused(world: World, name: dict[str, Any]) -> None:
    await world.run("- {id: ask, type: halt, reason: well}\n", execution_id="e")
    with pytest.raises(df.DurableFlowError):
        await world.runner().resume("e", response=1, **name)
    assert (await world.load()).status == "halted"


async def test_every_error_is_one_of_ours() -> None:
    ours = [getattr(df, name) for name in df.__all__]
    errors = [item for item in ours if isinstance(item, type) and issubclass(item, Exception)]
    assert len(errors) > 12
    assert all(issubclass(error, df.DurableFlowError) for error in errors)


async def test_a_store_that_was_given_open_stays_open(world: World) -> None:
    async with open_store("sqlite://:memory:") as store:
        async with df.Runtime(store, workflows=[DONE]) as runtime:
            result = await runtime.runner("flow").run()
        assert (await store.load(result.execution_id)) is not None


async def test_a_store_that_is_not_open_is_told() -> None:
    async with df.Runtime(open_store("sqlite://:memory:"), workflows=[DONE]) as runtime:
        with pytest.raises(df.DurableFlowError, match="not open"):
            await runtime.runner("flow").run()


@pytest.mark.parametrize("events", ["workflow.completed", ["workflow.complete"], ["completed", "step.failed"]])
async def test_events_that_cannot_come_are_refused(world: World, events: Any) -> None:
    with pytest.raises(df.ConfigError, match="event type"):
        world.runtime.subscribe(print, events=events)


async def test_a_handler_that_cannot_be_called_is_refused(world: World) -> None:
    with pytest.raises(df.ConfigError, match="is a function"):
        world.runtime.subscribe(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [{"limit": "x"}, {"limit": 0}, {"created_after": "2026"}, {"status": "done"}, {"status": ["halted", 5]}],
)
async def test_a_search_that_makes_no_sense_is_refused(world: World, arguments: dict[str, Any]) -> None:
    with pytest.raises(df.ValidationError):
        await world.runtime.store.find(**arguments)


async def test_how_old_is_a_length_of_time(world: World) -> None:
    with pytest.raises(df.ValidationError, match="older_than is a timedelta, not 5"):
        await world.runtime.store.purge(older_than=5)  # type: ignore[arg-type]


async def test_a_note_is_text(world: World) -> None:
    with pytest.raises(df.ValidationError, match="a note is text, not 5"):
        await world.runtime.store.record("e", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["x", None, df.Runtime])
def test_a_worker_of_what_is_no_runtime_is_refused(runtime: Any) -> None:
    with pytest.raises(df.ConfigError, match="a worker works for a Runtime, not for"):
        df.Worker(runtime)
