"""`call`: where the result goes, what it must look like, what the service sees of it."""

from __future__ import annotations

from tests.engine.aid import World, flow


async def test_the_result_becomes_the_output_variable(world: World) -> None:
    world.desk.answers["price"] = {"total": 12}
    result = await world.run("""
        - {id: ask, type: call, service: desk, method: price, output: price, next: done}
        - {id: done, type: end, result: $price.total}
    """)
    assert result.output == 12


async def test_without_an_output_the_result_sets_nothing(world: World) -> None:
    world.desk.answers["price"] = {"total": 12}
    result = await world.run("""
        - {id: ask, type: call, service: desk, method: price, next: done}
        - {id: done, type: end}
    """)
    assert result.output == {}


async def test_the_result_is_in_the_trail_even_without_an_output(world: World) -> None:
    world.desk.answers["price"] = 12
    await world.run("- {id: ask, type: call, service: desk, method: price}\n", execution_id="e")
    assert [entry.output for entry in await world.entries() if entry.step_id == "ask"] == [12]


async def test_an_output_that_fits_its_schema_is_taken(world: World) -> None:
    world.desk.answers["price"] = {"total": 12}
    result = await world.run(SCHEMA)
    assert result.output == 12


async def test_an_output_that_does_not_fit_its_schema_is_a_step_error(world: World) -> None:
    world.desk.answers["price"] = {"total": "twelve"}
    result = await world.run(SCHEMA)
    assert result.failed
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("OutputError", "ask")
    assert "total" in result.error_info.message


async def test_an_output_that_does_not_fit_its_schema_does_not_repeat_the_effect(world: World) -> None:
    world.desk.answers["price"] = {"total": "twelve"}
    await world.run("""
        - id: ask
          type: call
          service: desk
          method: price
          retry: {max_attempts: 5, initial_interval: 0}
          output: {key: price, schema: {type: object, properties: {total: {type: integer}}}}
    """)
    assert world.desk.called == ["price"]


async def test_a_handler_can_take_an_output_that_does_not_fit(world: World) -> None:
    world.desk.answers["price"] = {"total": "twelve"}
    result = await world.run("""
        - id: ask
          type: call
          service: desk
          method: price
          output: {key: price, schema: {type: object, properties: {total: {type: integer}}}}
          next: done
          on_error: sorry
        - {id: done, type: end, result: $price}
        - {id: sorry, type: end, result: $_last_error.class}
    """)
    assert result.output == "OutputError"


async def test_what_a_service_does_to_its_input_changes_no_variable(world: World) -> None:
    world.desk.answers["empty"] = lambda value: value.clear()
    result = await world.run("""
        - {id: a, type: assign, set: {order: {n: 1}}, next: b}
        - {id: b, type: call, service: desk, method: empty, input: $order, next: c}
        - {id: c, type: end, result: $order}
    """)
    assert result.output == {"n": 1}


async def test_what_a_service_does_to_an_input_that_is_constant_changes_no_other_call(world: World) -> None:
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2]
          do: [{id: b, type: call, service: desk, method: add, input: {list: []}}]
    """)
    seen: list[int] = []
    world.desk.answers["add"] = lambda value: (seen.append(len(value["list"])), value["list"].append(1))[0]
    await world.run(workflow, execution_id="e")
    assert seen == [0, 0]
    assert [entry.input for entry in await world.entries() if entry.step_id == "b"] == [{"list": []}] * 2


async def test_what_a_service_does_later_to_its_result_changes_no_variable(world: World) -> None:
    kept: list[int] = [1]
    world.desk.answers["give"] = lambda _: kept
    world.desk.answers["spoil"] = lambda _: kept.append(2)
    result = await world.run("""
        - {id: a, type: call, service: desk, method: give, output: x, next: b}
        - {id: b, type: call, service: desk, method: spoil, next: c}
        - {id: c, type: end, result: $x}
    """)
    assert result.output == [1]


async def test_everything_before_a_call_is_durable_when_it_begins(world: World) -> None:
    seen: list[str] = []

    async def look(_: object) -> None:
        seen.extend(await world.trail())

    world.desk.answers["look"] = look
    await world.run(
        """
        - {id: a, type: assign, set: {x: 1}, next: b}
        - {id: b, type: assign, set: {y: 1}, next: c}
        - {id: c, type: call, service: desk, method: look}
        """,
        execution_id="e",
    )
    assert seen == ["started", "a completed", "b completed"]


async def test_the_same_service_can_be_called_again_with_the_result_of_the_first_call(world: World) -> None:
    world.desk.answers["add"] = lambda value: value + 1
    result = await world.run("""
        - {id: a, type: call, service: desk, method: add, input: 1, output: x, next: b}
        - {id: b, type: call, service: desk, method: add, input: $x, output: x, next: c}
        - {id: c, type: end, result: $x}
    """)
    assert result.output == 3


async def test_the_input_as_it_was_resolved_is_in_the_trail(world: World) -> None:
    await world.run(
        "- {id: a, type: call, service: desk, method: note, input: {who: $input.name}}\n",
        {"name": "Ada"},
        execution_id="e",
    )
    assert [entry.input for entry in await world.entries() if entry.step_id == "a"] == [{"who": "Ada"}]


async def test_a_large_input_is_in_the_trail_by_its_size(world: World) -> None:
    await world.run(
        "- {id: a, type: call, service: desk, method: note, input: $input.text}\n",
        {"text": "x" * 10_000},
        execution_id="e",
    )
    assert [entry.input for entry in await world.entries() if entry.step_id == "a"] == [
        {"truncated": True, "bytes": 10_002}
    ]
    assert world.desk.calls == [("note", "x" * 10_000)]


SCHEMA = flow("""
    - id: ask
      type: call
      service: desk
      method: price
      output: {key: price, schema: {type: object, properties: {total: {type: integer}}}}
      next: done
    - {id: done, type: end, result: $price.total}
""")
