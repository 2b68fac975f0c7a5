"""`save`: what was loaded can be put back, changed or not."""

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

STEPS = """
- {id: a, type: assign, set: {x: 1, card: $input.card}, next: ask}
- {id: ask, type: halt, data: {card: $input.card}, next: done}
- {id: done, type: end, result: [$x, $card, $response]}
"""
INPUTS = {"card": {"type": "string", "secret": True}}


async def test_what_was_loaded_can_be_saved_without_losing_a_secret(world: World) -> None:
    runner = world.runtime.runner(flow(STEPS, inputs=INPUTS))
    await runner.run({"card": "4111-1111"}, execution_id="e")
    loaded = await world.load()

    await world.runtime.store.save(loaded)

    assert (await runner.resume("e", response=2)).output == [1, "4111-1111", 2]


async def test_a_variable_can_be_repaired(world: World) -> None:
    runner = world.runtime.runner(flow(STEPS, inputs=INPUTS))
    await runner.run({"card": "4111-1111"}, execution_id="e")
    loaded = await world.load()

    await world.runtime.store.save(
        df.Execution(**{**{f: getattr(loaded, f) for f in loaded.__struct_fields__}, "ctx": {**loaded.ctx, "x": 5}})
    )

    assert (await runner.resume("e", response=2)).output == [5, "4111-1111", 2]


async def test_saving_what_somebody_else_changed_is_a_conflict(world: World) -> None:
    runner = world.runtime.runner(flow(STEPS, inputs=INPUTS))
    await runner.run({"card": "4111-1111"}, execution_id="e")
    loaded = await world.load()
    await world.runtime.store.save(loaded)
    with pytest.raises(df.ConflictError, match="changed since it was read"):
        await world.runtime.store.save(loaded)
