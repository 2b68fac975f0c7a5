"""References in running workflows: roots, paths, interpolation, and that data is never resolved again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import durable_flow as df
from tests.engine.aid import World, flow


async def value(world: World, text: str, input: Any = None, **keys: Any) -> Any:
    """What a result written as `text` comes to."""
    workflow = df.parse(
        {"id": "flow", "name": "flow", "steps": [{"id": "done", "type": "end", "result": text}], **keys}
    )
    result = await world.run(workflow, input)
    return result.output if result.completed else result.error


ORDER = {"order": {"lines": [{"sku": "A", "n": 2}], "rush": False, "note": None}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$input.order.lines.0.n", 2),
        ("$input.order.rush", False),
        ("$input.order.missing.deeper", None),
        ("$input.order.lines.7", None),
        ("n = $input.order.lines.0.n", "n = 2"),
        ("rush: $input.order.rush", "rush: false"),
        ("<$input.order.note>", "<>"),
        ("$input.order.lines!", '[{"sku":"A","n":2}]!'),
        ("$input.order.rush.", "false."),
        ("$$input", "$input"),
        ("costs $5", "costs $5"),
        ("${input.order.rush}ly", "falsely"),
        ("$undefined", None),
    ],
)
async def test_references_come_to_their_value(world: World, text: str, expected: Any) -> None:
    assert await value(world, text, ORDER) == expected


@pytest.mark.parametrize("path", ["upper", "clear", "__class__", "__len__", "append", "keys"])
async def test_nothing_but_data_is_reached(world: World, path: str) -> None:
    assert await value(world, f"$input.x.{path}", {"x": "text"}) is None
    assert await value(world, f"$input.x.{path}", {"x": [1]}) is None


async def test_input_that_looks_like_a_reference_stays_text(world: World) -> None:
    result = await world.run(
        """
        - {id: a, type: assign, set: {api_key: hush, name: $input.name, both: "$input.name and $api_key"}, next: b}
        - {id: b, type: call, service: desk, method: note, input: $name, output: back, next: c}
        - {id: c, type: end, result: [$name, $both, $back]}
        """,
        {"name": "$api_key"},
    )
    assert result.output == ["$api_key", "$api_key and hush", "$api_key"]


async def test_an_input_is_only_found_under_its_root(world: World) -> None:
    assert await value(world, "<$amount> $input.amount", {"amount": 5}) == "<> 5"


async def test_now_is_the_time_as_text_in_utc(world: World) -> None:
    assert await value(world, "$now") == "2023-11-14T22:13:20Z"


async def test_now_in_a_sentence_is_the_same_text(world: World) -> None:
    assert await value(world, "at $now") == "at 2023-11-14T22:13:20Z"


async def test_the_execution_knows_itself(world: World) -> None:
    workflow = flow(
        """
        - id: each
          type: loop
          over: [1]
          output: out
          do: [{id: look, type: assign, set: {seen: $execution}}]
          next: done
        - {id: done, type: end, result: $out}
        """,
        version="3.1",
    )
    result = await world.run(workflow, execution_id="e")
    assert result.output == [
        {
            "id": "e",
            "workflow_id": "flow",
            "workflow_version": "3.1",
            "parent_id": None,
            "started_at": "2023-11-14T22:13:20Z",
            "step_key": "each[0]/look",
        }
    ]


async def test_history_lists_what_happened_so_far(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {x: 1}, next: b}
        - {id: b, type: assign, set: {y: 1}, next: c}
        - {id: c, type: end, result: $history}
    """)
    assert [(entry["step_id"], entry["path"], entry["action"]) for entry in result.output] == [
        ("", "", "started"),
        ("a", "a", "completed"),
        ("b", "b", "completed"),
    ]
    assert result.output[1]["timestamp"] == "2023-11-14T22:13:20Z"


async def test_history_is_the_last_thousand_entries(world: World) -> None:
    result = await world.run(
        """
        - id: many
          type: loop
          max: 1000
          over: $input.items
          do: [{id: a, type: assign, set: {x: 1}}]
          next: b
        - {id: b, type: transform, input: history, expression: {count: null}, output: result}
    """,
        {"items": list(range(600))},
    )
    assert result.output == 1000


async def test_history_of_a_later_step_is_longer(world: World) -> None:
    result = await world.run("""
        - {id: a, type: transform, input: history, expression: {count: null}, output: x, next: b}
        - {id: b, type: transform, input: history, expression: {count: null}, output: y, next: c}
        - {id: c, type: end, result: [$x, $y]}
    """)
    assert result.output == [1, 2]


@pytest.mark.parametrize("root", ["input", "now", "history", "execution", "approvals", "secrets"])
async def test_reserved_roots_cannot_be_set(root: str) -> None:
    with pytest.raises(df.ValidationError, match=root):
        flow(f"- {{id: a, type: assign, set: {{{root}: 1}}}}\n")


async def test_names_with_no_meaning_to_the_runtime_are_ordinary_variables(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {approved: true, response: 1, status: x, error: y}, next: b}
        - {id: b, type: end, result: [$approved, $response, $status, $error]}
    """)
    assert result.output == [True, 1, "x", "y"]


class Point(msgspec.Struct):
    x: int


async def test_a_time_or_struct_reads_the_same_before_and_after_a_halt(world: World) -> None:
    world.desk.answers["point"] = Point(3)
    workflow = flow("""
        - {id: a, type: assign, set: {t: $now}, next: b}
        - {id: b, type: call, service: desk, method: point, output: p, next: c}
        - {id: c, type: assign, set: {before: [$t, $t.year, $p.x]}, next: ask}
        - {id: ask, type: halt, reason: well, next: d}
        - {id: d, type: end, result: [$before, [$t, $t.year, $p.x]]}
    """)
    await world.run(workflow, execution_id="e")
    await world.restart()
    result = await world.runner().resume("e")
    assert result.output == [["2023-11-14T22:13:20Z", None, 3]] * 2
