"""What a document becomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from durable_flow.definition.parser import parse, parse_plain
from durable_flow.errors import ValidationError
from durable_flow.limits import Limits
from durable_flow.model.workflow import InputDef, Position, RetryPolicy, StepDef, WorkflowDef
from tests.definition.documents import correct, steps


def step(line: str) -> StepDef:
    """The only step of a document."""
    return parse(steps(line)).steps[0]


def branches_of(workflow: WorkflowDef) -> list[Any]:
    return list(workflow.steps[0].type.bodies(workflow.steps[0].config))


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_keys_of_a_document() -> None:
    workflow = parse(
        "id: a.b-c\nname: N\ndescription: D\ntimeout: 15m\non_error: z\nsteps: [{id: z, type: end}]\n",
    )
    assert (workflow.id, workflow.name, workflow.description) == ("a.b-c", "N", "D")
    assert (workflow.timeout, workflow.on_error, workflow.source) == (900.0, "z", "<text>")


@pytest.mark.parametrize(
    ("written", "version"), [("1.0", "1.0"), ("1.10", "1.10"), ("2", "2"), ('"1.10"', "1.10"), ("v3", "v3")]
)
def test_a_version_is_the_text_that_was_written(written: str, version: str) -> None:
    assert parse(steps("{id: a, type: end}", more=f"version: {written}\n")).version == version


def test_a_version_is_1_0_unless_said_otherwise() -> None:
    assert parse(steps("{id: a, type: end}")).version == "1.0"


def test_concurrency_is_parsed() -> None:
    found = parse(steps("{id: a, type: end}", more="concurrency: {key: $input.customer}\n")).concurrency
    assert found is not None
    assert (found.key.source, found.limit, found.on_conflict) == ("$input.customer", 1, "queue")
    more = "concurrency: {key: all, limit: 3, on_conflict: reject}\n"
    found = parse(steps("{id: a, type: end}", more=more)).concurrency
    assert found is not None
    assert (found.limit, found.on_conflict) == (3, "reject")
    assert parse(steps("{id: a, type: end}")).concurrency is None


def test_the_words_of_yaml_1_1_are_text() -> None:
    found = step("{id: on, type: assign, set: {yes: no, x: off}}")
    assert found.id == "on"
    assert {name: template.source for name, template in found.config.set.items()} == {"yes": "no", "x": "off"}


def test_json_is_a_document_too() -> None:
    assert parse('{"id": "w", "name": "W", "steps": [{"id": "a", "type": "end"}]}').steps[0].id == "a"


def test_a_flow_document_may_stand_on_one_line() -> None:
    assert parse("{id: w, name: W, steps: [{id: a, type: end}]}").id == "w"


# --- the pinned form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", correct())
def test_the_stored_document_gives_the_same_definition(name: str) -> None:
    workflow = parse(correct()[name])
    stored = msgspec.json.decode(msgspec.json.encode(workflow.document))
    again = parse_plain(stored)
    assert again.hash == workflow.hash
    assert [each.id for each in again.steps] == [each.id for each in workflow.steps]


def test_a_version_that_looks_like_a_number_survives_being_stored() -> None:
    workflow = parse(steps("{id: a, type: end}", more="version: 1.10\n"))
    assert parse_plain(workflow.document).version == "1.10"


def test_the_hash_tells_definitions_apart_by_the_order_of_keys() -> None:
    """`assign` sets in order, so these two do not do the same."""
    one = parse(steps("{id: a, type: assign, set: {x: 1, y: $x}}"))
    two = parse(steps("{id: a, type: assign, set: {y: $x, x: 1}}"))
    assert one.hash != two.hash


def test_the_hash_does_not_depend_on_how_it_was_written() -> None:
    text = steps("{id: a, type: end, result: [1, x]}")
    assert parse(text).hash == parse(parse(text).document).hash


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_step_knows_its_line_and_column() -> None:
    assert step("{id: a, type: end}").position == Position(line=4, column=3)


def test_a_step_of_a_mapping_has_no_position() -> None:
    document = parse(steps("{id: a, type: end}")).document
    assert parse(document).steps[0].position == Position()


def test_a_top_level_step_without_next_is_followed_by_nothing() -> None:
    workflow = parse(steps("{id: a, type: start}", "{id: b, type: start, next: a}"))
    assert [each.follow for each in workflow.steps] == [None, "a"]


def test_a_body_step_is_followed_by_the_next_of_the_list() -> None:
    workflow = parse(
        steps("{id: l, type: loop, over: [1], do: [{id: a, type: start, next: c}, {id: b, type: start}, "
              "{id: c, type: router, routes: [], default: a}, {id: d, type: start}]}")
    )  # fmt: skip
    assert [each.follow for each in branches_of(workflow)[0].body] == ["c", "c", None, None]


def test_only_steps_that_read_the_history_need_it() -> None:
    workflow = parse(steps("{id: a, type: end, result: $history.0}", "{id: b, type: end, result: $x}"))
    assert [each.needs_history for each in workflow.steps] == [True, False]


def test_the_common_keys() -> None:
    found = step("{id: a, type: call, service: s, method: m, next: a, on_error: b, description: D, timeout: 0.5}")
    assert (found.next, found.on_error, found.description, found.timeout) == ("a", "b", "D", 0.5)


@pytest.mark.parametrize(
    "line",
    [
        "{id: a, type: halt, timeout: 5}",
        "{id: a, type: approval, prompt: p, timeout: 5}",
        "{id: a, type: workflow, workflow_id: w, timeout: 5}",
    ],
)
def test_a_type_may_have_a_timeout_of_its_own(line: str) -> None:
    found = step(line)
    assert (found.timeout, found.config.timeout) == (None, 5.0)


def test_an_output_may_be_written_as_its_name() -> None:
    short = step("{id: a, type: call, service: s, method: m, output: o}").config.output
    long = step("{id: a, type: call, service: s, method: m, output: {key: o, schema: {type: string}}}").config.output
    assert (short.key, short.schema) == ("o", None)
    assert (long.key, long.schema.source) == ("o", {"type": "string"})


def test_null_is_a_value_where_any_value_is_taken() -> None:
    assert step("{id: a, type: end, result: null}").config.result.source is None
    assert step("{id: a, type: end}").config.result is None


# --- retries ----------------------------------------------------------------------------------------------------------


def retry(keys: str) -> RetryPolicy | None:
    return step(f"{{id: a, type: call, service: s, method: m, {keys}}}").retry


def test_a_retry_policy() -> None:
    assert retry(
        "retry: {max_attempts: 5, initial_interval: 0, backoff: 1, max_interval: 1m, max_elapsed: 1h, jitter: 0, "
        "retry_on: [A], no_retry_on: [B, C]}"
    ) == RetryPolicy(
        max_attempts=5,
        initial_interval=0.0,
        backoff=1.0,
        max_interval=60.0,
        max_elapsed=3600.0,
        jitter=0.0,
        retry_on=("A",),
        no_retry_on=("B", "C"),
    )


def test_an_empty_retry_has_the_defaults() -> None:
    assert retry("retry: {}") == RetryPolicy()


def test_without_retry_there_is_none() -> None:
    assert retry("output: o") is None


def test_the_short_form_counts_retries() -> None:
    policy = retry("retries: 2, retry_delay: 1, retry_backoff: 3")
    assert policy is not None
    assert (policy.max_attempts, policy.initial_interval, policy.backoff) == (3, 1.0, 3.0)


# --- branches ---------------------------------------------------------------------------------------------------------


def test_a_branch_is_a_step_or_a_list_of_them() -> None:
    found = branches_of(
        parse(steps("{id: p, type: parallel, branches: [{id: a, type: start}, {id: b, do: [{id: c, type: start}]}]}"))
    )
    assert [(each.body.bare, each.body.first) for each in found] == [(True, "a"), (False, "c")]


def test_a_branch_that_is_a_step_has_its_id() -> None:
    config = step(
        "{id: p, type: parallel, branches: [{id: a, type: start}, {id: b, do: [{id: c, type: start}]}]}"
    ).config
    assert [branch.id for branch in config.branches] == ["a", "b"]


def test_bodies_nest_as_deep_as_the_document_may() -> None:
    inner: dict[str, Any] = {"id": "leaf", "type": "start"}
    for depth in range(29):
        inner = {"id": f"l{depth}", "type": "loop", "over": [1], "do": [inner]}
    assert parse({"id": "w", "name": "W", "steps": [inner]}).steps[0].id == "l28"


def test_what_nests_deeper_than_python_can_go_is_refused() -> None:
    inner: dict[str, Any] = {"id": "leaf", "type": "start"}
    for depth in range(400):
        inner = {"id": f"l{depth}", "type": "loop", "over": [1], "do": [inner]}
    with pytest.raises(ValidationError):
        parse({"id": "w", "name": "W", "steps": [inner]}, limits=Limits(document_depth=100_000))


# --- inputs -----------------------------------------------------------------------------------------------------------


def inputs(written: str) -> tuple[InputDef, ...]:
    return parse(steps("{id: a, type: end}", more=f"inputs: {written}\n")).inputs


def test_an_input_may_be_written_as_its_type() -> None:
    assert inputs("{n: integer}") == (InputDef(name="n", type="integer"),)


def test_an_input_with_a_default_is_not_required() -> None:
    (found,) = inputs("{n: {default: 0}}")
    assert (found.required, found.default) == (False, 0)


def test_a_default_of_null_is_one() -> None:
    (found,) = inputs("{n: {default: null}}")
    assert (found.required, found.default) == (False, None)


def test_all_keys_of_an_input() -> None:
    (found,) = inputs("{n: {type: string, required: false, description: D, schema: {minLength: 1}, secret: true}}")
    assert found == InputDef(
        name="n", type="string", required=False, description="D", schema={"minLength": 1}, secret=True
    )
