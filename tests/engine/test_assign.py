"""`assign`: sets variables in order."""

from __future__ import annotations

from tests.engine.aid import World


async def test_a_later_variable_sees_an_earlier_one_of_the_same_step(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {x: 1, y: $x, result: [$x, $y]}}
    """)
    assert result.output == [1, 1]


async def test_a_variable_keeps_its_value_until_it_is_set_again(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {x: 1}, next: b}
        - {id: b, type: assign, set: {old: $x, x: 2}, next: c}
        - {id: c, type: end, result: {old: $old, new: $x}}
    """)
    assert result.output == {"old": 1, "new": 2}


async def test_a_variable_can_be_computed_from_its_own_old_value(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {x: [1]}, next: b}
        - {id: b, type: assign, set: {x: [$x, 2]}, next: c}
        - {id: c, type: end, result: $x}
    """)
    assert result.output == [[1], 2]


async def test_a_copied_variable_is_independent_of_the_original(world: World) -> None:
    world.desk.answers["change"] = lambda value: value.append(9)
    result = await world.run("""
        - {id: a, type: assign, set: {x: [1]}, next: b}
        - {id: b, type: assign, set: {y: $x}, next: c}
        - {id: c, type: call, service: desk, method: change, input: $x, next: d}
        - {id: d, type: end, result: [$x, $y]}
    """)
    assert result.output == [[1], [1]]


async def test_setting_null_is_setting(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {x: null}, next: b}
        - {id: b, type: end}
    """)
    assert result.output == {"x": None}
