"""Keys of the document that extensions add, and the hooks by which they change and check definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest

import durable_flow as df
from durable_flow.testing import wait_until


class AgentDef(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    tools: list[str] = []
    mode: Literal["fast", "slow"] = "fast"
    turns: Annotated[int, msgspec.Meta(ge=1)] = 10


class ToolDef(msgspec.Struct, frozen=True, kw_only=True):
    service: str
    method: str


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: str
    output: df.VariableName | None = None


class AgentStep(df.StepType[AgentConfig]):
    name = "agent"
    summary = "Asks an agent."
    Config = AgentConfig
    performs = True

    async def run(self, visit: df.Visit, config: AgentConfig) -> df.Outcome:
        agent = next(agent for agent in visit.extra("agents") if agent.id == config.agent_id)
        said = [agent.model]
        for name in agent.tools:
            tool = visit.extra("tools")[name]
            said.append(await visit.perform("tool", calling(tool), number=len(said)))
        return df.Done(said, () if config.output is None else (config.output,))


def calling(tool: ToolDef) -> Any:
    async def work(piece: df.Visit) -> Any:
        return await piece.call(tool.service, tool.method, {"query": "$input.q"})

    return work


def check(workflow: df.WorkflowDef) -> Iterator[df.Defect]:
    agents, tools = workflow.extra("agents"), workflow.extra("tools")
    for index, agent in enumerate(agents):
        for number, tool in enumerate(agent.tools):
            if tool not in tools:
                hint = df.suggest(tool, tools)
                yield df.Defect(key=f"agents[{index}].tools[{number}]", message=f"there is no tool {tool!r}", hint=hint)
    names = [agent.id for agent in agents]
    for step in df.every_step(workflow):
        if isinstance(step.config, AgentConfig) and step.config.agent_id not in names:
            message = f"there is no agent {step.config.agent_id!r}"
            hint = df.suggest(step.config.agent_id, names)
            yield df.Defect(step=step.id, key="agent_id", message=message, hint=hint)
    used = {step.config.agent_id for step in df.every_step(workflow) if isinstance(step.config, AgentConfig)}
    for index, agent in enumerate(agents):
        if agent.id not in used:
            yield df.Defect(key=f"agents[{index}]", message=f"agent {agent.id!r} is never asked", warning=True)


def needs(workflow: df.WorkflowDef) -> Iterator[tuple[str, str]]:
    for tool in workflow.extra("tools").values():
        yield "service", tool.service


AI = df.Extension(
    name="ai",
    step_types=(AgentStep,),
    keys={"agents": list[AgentDef], "tools": dict[str, ToolDef]},
    after_parse=check,
    needs=needs,
)

DOCUMENT = """\
id: help
name: Help
inputs: {q: string}
agents:
  - id: support
    model: small
    tools: [look]
tools:
  look: {service: Desk, method: look}
steps:
  - {id: ask, type: agent, agent_id: support, output: result}
"""


def told(text: str, **options: Any) -> str:
    with pytest.raises(df.ValidationError) as raised:
        df.load(text, extensions=[AI], **options)
    return str(raised.value)


def test_what_stands_under_a_key_is_in_the_definition_and_cannot_be_changed() -> None:
    workflow = df.load(DOCUMENT, extensions=[AI])
    assert workflow.extra("agents") == (AgentDef(id="support", model="small", tools=["look"]),)
    assert workflow.extra("tools") == {"look": ToolDef(service="Desk", method="look")}
    assert isinstance(workflow.extra("tools"), MappingProxyType)
    with pytest.raises(TypeError):
        workflow.extras["agents"] = ()  # type: ignore[index]


def test_a_key_that_is_not_there_is_empty() -> None:
    workflow = df.load("id: w\nname: W\nsteps: [{id: a, type: end}]\n", extensions=[AI])
    assert (workflow.extra("agents"), dict(workflow.extra("tools"))) == ((), {})


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("model: small", "modell: small", "<text>:6:5: agents[0]: unknown key 'modell' (did you mean 'model'?)"),
        ("model: small", "model: [small]", "<text>:6:12: agents[0].model: expected text, got list"),
        ("model: small", "model: s\n    mode: fats",
         "<text>:7:11: agents[0].mode: expected fast or slow, got 'fats' (did you mean 'fast'?)"),
        ("model: small", "model: s\n    turns: 0", "<text>:7:12: agents[0].turns: must be at least 1, not 0"),
        ("agents:", "agnets:", "<text>:4:1: unknown key 'agnets' (did you mean 'agents'?)"),
        ("tools: [look]", "tools: [lok]",
         "<text>:7:13: agents[0].tools[0]: there is no tool 'lok' (did you mean 'look'?)"),
        ("agent_id: support", "agent_id: suport",
         "<text>:11:38: step 'ask': agent_id: there is no agent 'suport' (did you mean 'support'?)"),
        ("\ntools:", "\n  - {id: support, model: big}\ntools:",
         "<text>:8:10: agents[1].id: duplicate id 'support', first at line 5, column 9"),
    ],
)  # fmt: skip
def test_what_is_wrong_under_a_key_is_told_with_its_place(before: str, after: str, problem: str) -> None:
    assert problem in told(
        DOCUMENT.replace(before, after, 1) if before != "tools:\n" else DOCUMENT.replace("\ntools:\n", "\n" + after)
    )


def test_a_warning_is_logged_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    df.load(DOCUMENT.replace("tools:\n", "  - {id: other, model: big}\ntools:\n"), extensions=[AI])
    assert [record.message for record in caplog.records] == ["<text>:8:5: agents[1]: agent 'other' is never asked"]


def test_the_keys_are_in_the_json_schema() -> None:
    schema = jsonschema_rs.Draft202012Validator(df.language_schema([AI]))
    document: dict[str, Any] = {
        "id": "w",
        "name": "W",
        "agents": [{"id": "a", "model": "m"}],
        "tools": {"t": {"service": "S", "method": "m"}},
        "steps": [{"id": "s", "type": "agent", "agent_id": "a"}],
    }
    assert schema.is_valid(document)
    assert not schema.is_valid({**document, "agents": [{"id": "a", "modle": "m"}]})
    assert not jsonschema_rs.Draft202012Validator(df.language_schema()).is_valid(document)


async def test_a_step_sees_what_stands_under_the_keys_and_data_is_not_resolved() -> None:
    given: list[Any] = []

    def look(query: str) -> str:
        given.append(query)
        return "found"

    async with df.Runtime(
        "sqlite://:memory:", workflows=[DOCUMENT], extensions=[AI], services={"Desk": {"look": look}}
    ) as runtime:
        assert (await runtime.runner("help").run({"q": "x"})).output == ["small", "found"]
    assert given == ["$input.q"]


async def test_what_stands_under_the_keys_is_pinned(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    document = DOCUMENT.replace("steps:\n", "steps:\n  - {id: hold, type: halt, next: ask}\n")
    options: dict[str, Any] = {"extensions": [AI], "services": {"Desk": {"look": lambda query: "found"}}}
    async with df.Runtime(url, workflows=[document], **options) as runtime:
        await runtime.runner("help").run({"q": "x"}, execution_id="e")
    async with df.Runtime(url, workflows=[document.replace("small", "big")], **options) as runtime:
        assert (await runtime.runner("help").resume("e")).output == ["small", "found"]


async def left_by_a_worker(runtime: df.Runtime) -> None:
    """Returns when a worker has found an execution that it cannot drive."""
    worker = df.Worker(runtime)
    running = asyncio.ensure_future(worker.run())
    await wait_until(lambda: bool(worker._without))
    worker.stop()
    await running


async def test_a_worker_leaves_to_others_what_it_has_no_extension_for(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    options: dict[str, Any] = {"extensions": [AI], "services": {"Desk": {"look": lambda query: "found"}}}
    async with df.Runtime(url, workflows=[DOCUMENT], **options) as runtime:
        await runtime.background("help").run({"q": "x"}, execution_id="e")
    for without in ({}, {"extensions": [AI]}):  # neither the type, nor the service that its tool needs
        async with df.Runtime(url, **without) as runtime:
            await left_by_a_worker(runtime)
            assert (await runtime.store.find(status="pending"))[0].id == "e"
    async with df.Runtime(url, **options) as runtime:
        assert (await (await runtime.runner_of("e")).recover("e")).output == ["small", "found"]


# --- hooks ------------------------------------------------------------------------------------------------------------


def retrying(step: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**step, "retry": {"max_attempts": 7}} if step.get("type") == "call" and "retry" not in step else step


CALLS = """\
id: calls
name: Calls
steps:
  - id: both
    type: parallel
    branches:
      - {id: one, type: call, service: S, method: m}
      - {id: two, do: [{id: inner, type: call, service: S, method: m, retry: {max_attempts: 2}}]}
"""


def test_each_step_is_transformed_at_every_depth() -> None:
    house = df.Extension(name="house", transform_step=retrying)
    steps = df.load(CALLS, extensions=[house]).steps_by_id
    assert [steps[name].retry.max_attempts for name in ("one", "inner")] == [7, 2]  # type: ignore[union-attr]


def test_a_step_that_an_alias_repeats_is_transformed_once() -> None:
    seen: list[str] = []

    def count(step: dict[str, Any]) -> dict[str, Any]:
        seen.append(step["id"])
        return {**step, "description": step.get("description", "") + "x"}

    document = "id: w\nname: W\nsteps: &s\n- {id: a, type: end}\nfinally:\n- {id: b, type: assign, set: {x: 1}}\n"
    workflow = df.parse(document, extensions=[df.Extension(name="count", transform_step=count)])
    assert (seen, workflow.steps[0].description) == (["a", "b"], "x")


def test_what_the_hooks_made_is_what_is_stored_and_is_not_made_again() -> None:
    def dated(document: Mapping[str, Any]) -> dict[str, Any]:
        return {**document, "description": document.get("description", "") + "!"}

    hooks = df.Extension(name="hooks", before_parse=dated, transform_step=retrying)
    workflow = df.load(CALLS, extensions=[hooks])
    assert workflow.document["description"] == "!"
    assert workflow.document["steps"][0]["branches"][0]["retry"] == {"max_attempts": 7}
    assert df.load(dict(workflow.document)).hash == workflow.hash


async def test_an_execution_that_goes_on_does_not_see_that_a_hook_changed(tmp_path: Any) -> None:
    def saying(word: str) -> df.Extension:
        def before_parse(document: dict[str, Any]) -> dict[str, Any]:
            document["steps"][1]["set"]["result"] = word
            return document

        return df.Extension(name="say", before_parse=before_parse)

    url = f"sqlite:///{tmp_path}/flows.db"
    document = "id: w\nname: W\nsteps:\n- {id: h, type: halt, next: s}\n- {id: s, type: assign, set: {result: none}}\n"
    async with df.Runtime(url, workflows=[document], extensions=[saying("old")]) as runtime:
        await runtime.runner("w").run(execution_id="e")
    async with df.Runtime(url, workflows=[document], extensions=[saying("new")]) as runtime:
        assert (await runtime.runner("w").resume("e")).output == "old"
        assert (await runtime.runner("w").run(execution_id="f")).halted
        assert (await runtime.runner("w").resume("f")).output == "new"


def test_positions_survive_what_a_hook_leaves_alone() -> None:
    def first(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "steps": [{"id": "begin", "type": "start", "next": "a"}, *document["steps"]]}

    document = "id: w\nname: W\nsteps:\n  - id: a\n    type: assign\n    sett: {x: 1}\n"
    with pytest.raises(df.ValidationError) as raised:
        df.load(document, extensions=[df.Extension(name="first", before_parse=first)])
    assert "<text>:6:5: step 'a': unknown key 'sett'" in str(raised.value)


def test_what_a_hook_gets_wrong_is_a_problem_of_the_definition_where_it_put_it() -> None:
    def wrong(step: dict[str, Any]) -> dict[str, Any]:
        return {**step, "nxt": "x"}

    document = "id: w\nname: W\nsteps:\n  - {id: a, type: end}\n"
    with pytest.raises(df.ValidationError, match="<text>:4:5: step 'a': unknown key 'nxt'"):
        df.load(document, extensions=[df.Extension(name="wrong", transform_step=wrong)])


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (lambda given: 1 / 0, "of extension 'bad' raised ZeroDivisionError: division by zero"),
        (lambda given: None, "of extension 'bad' gave null, not a mapping"),
    ],
)
@pytest.mark.parametrize("name", ["before_parse", "transform_step"])
def test_a_hook_that_fails_is_told_by_the_name_of_its_extension(name: str, hook: Any, problem: str) -> None:
    with pytest.raises(df.ConfigError, match=f"{name} {problem}"):
        df.load(DOCUMENT, extensions=[df.Extension(name="bad", **{name: hook})])


@pytest.mark.parametrize(
    "made", [{"steps": [{"id": "a", 5: "x"}]}, {"id": float("nan")}, {"id": 2**70}, {"id": "\ud800"}]
)
def test_what_a_hook_makes_that_no_document_can_have_is_a_problem(made: dict[Any, Any]) -> None:
    with pytest.raises(df.ValidationError):
        df.load(DOCUMENT, extensions=[df.Extension(name="bad", before_parse=lambda document: {**document, **made})])


def test_a_check_that_fails_is_told_by_the_name_of_its_extension() -> None:
    ok = "id: w\nname: W\nsteps: [{id: a, type: end}]\n"
    with pytest.raises(df.ConfigError, match="after_parse of extension 'bad' raised KeyError: 'x'"):
        df.load(ok, extensions=[df.Extension(name="bad", after_parse=lambda workflow: [{}["x"]])])
    with pytest.raises(df.ConfigError, match="gave 'wrong', which is no Defect"):
        df.load(ok, extensions=[df.Extension(name="bad", after_parse=lambda workflow: ["wrong"])])  # type: ignore[list-item]
