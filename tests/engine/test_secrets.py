"""Secrets: inputs declared secret, and `$secrets`. Nothing that people look at shows them."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

import durable_flow as df
from tests.engine.aid import World, flow

CARD = "4111-1111-1111-1111"
KEY = "sk-canary-123456"

PAY = flow(
    """
    - {id: note, type: assign, set: {note: "card $input.card", copy: $input.card}, next: pay}
    - id: pay
      type: call
      service: desk
      method: pay
      input: {card: $input.card, text: "pay with $input.card"}
      output: receipt
      next: ask
    - {id: ask, type: halt, reason: "card $input.card ok?", data: {card: $copy}, next: sign}
    - {id: sign, type: approval, prompt: "Charge $input.card?", context: {card: $copy}, next: done}
    - {id: done, type: end, result: {card: $copy}}
    """,
    inputs={"card": {"type": "string", "secret": True}},
)


async def everything_shown(world: World, execution_id: str = "e") -> str:
    """All that people can look at of an execution, as one text."""
    shown: list[Any] = [
        await world.load(execution_id),
        await world.entries(execution_id),
        list(await world.store.find()),
    ]
    shown += await world.runner().why(execution_id)
    return msgspec.json.encode(shown).decode()


@pytest.mark.parametrize("answers", [0, 1, 2])
async def test_a_secret_input_is_shown_nowhere(world: World, answers: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[df.Event] = []
    world.runtime.subscribe(told.append)
    world.desk.answers["pay"] = lambda value: {"echo": value}
    await world.run(PAY, {"card": CARD}, execution_id="e")
    if answers > 0:
        await world.runner().resume("e", response={"again": CARD})
    if answers > 1:
        await world.runner().resume("e", approved=True, comment=f"saw {CARD}")
    assert CARD not in await everything_shown(world)
    assert CARD not in msgspec.json.encode(told).decode()
    assert CARD not in caplog.text
    assert "***" in await everything_shown(world)


async def test_a_secret_input_reaches_the_service(world: World) -> None:
    await world.run(PAY, {"card": CARD}, execution_id="e")
    assert world.desk.calls == [("pay", {"card": CARD, "text": f"pay with {CARD}"})]


async def test_a_secret_input_is_there_after_a_restart(world: World) -> None:
    await world.run(PAY, {"card": CARD}, execution_id="e")
    await world.restart()
    await world.runner().resume("e")
    result = await world.runner().resume("e", approved=True)
    assert result.output == {"card": CARD}


async def test_a_failing_service_does_not_tell_a_secret_input(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.desk.answers["pay"] = ValueError(f"card {CARD} was refused")
    result = await world.run(PAY, {"card": CARD}, execution_id="e")
    assert result.error == "ValueError: card *** was refused"
    assert CARD not in await everything_shown(world) + caplog.text


async def test_a_handler_does_not_see_a_secret_input_in_the_error(world: World) -> None:
    world.desk.answers["pay"] = ValueError(f"card {CARD} was refused")
    workflow = flow(
        """
        - {id: pay, type: call, service: desk, method: pay, input: $input.card, on_error: sorry}
        - {id: sorry, type: end, result: $_last_error.message}
        """,
        inputs={"card": {"type": "string", "secret": True}},
    )
    assert (await world.run(workflow, {"card": CARD})).output == "card *** was refused"


async def test_the_parts_of_a_secret_object_are_secret(world: World) -> None:
    workflow = flow(
        "- {id: a, type: assign, set: {x: $input.card.number}, next: b}\n- {id: b, type: halt, reason: $x}\n",
        inputs={"card": {"type": "object", "secret": True}},
    )
    await world.run(workflow, {"card": {"number": CARD, "pin": 123456}}, execution_id="e")
    shown = await everything_shown(world)
    assert CARD not in shown
    assert "123456" not in shown


async def test_what_cannot_be_told_from_other_text_is_not_masked(world: World) -> None:
    workflow = flow(
        """
        - {id: a, type: halt, data: {pin: $input.pin, sure: $input.sure}, next: b}
        - {id: b, type: end, result: $input}
        """,
        inputs={"pin": {"type": "string", "secret": True}, "sure": {"type": "boolean", "secret": True}},
    )
    result = await world.run(workflow, {"pin": "7", "sure": True}, execution_id="e")
    assert result.halt is not None
    assert (result.halt.data["pin"], result.halt.data["sure"]) == ("7", True)
    assert (await world.runner().resume("e")).output == {"pin": "7", "sure": True}


async def test_the_caller_gets_the_output_as_it_is(world: World) -> None:
    workflow = flow("- {id: a, type: end, result: $input.card}", inputs={"card": {"type": "string", "secret": True}})
    assert (await world.run(workflow, {"card": CARD}, execution_id="e")).output == CARD
    assert (await world.runner().result("e")).output == CARD
    assert (await world.load()).result == "***"


async def test_a_secret_that_does_not_fit_is_not_told(world: World) -> None:
    workflow = flow(
        "- {id: a, type: end, result: 1}\n",
        inputs={"card": {"type": "string", "secret": True, "schema": {"pattern": "^[0-9]+$", "maxLength": 5}}},
    )
    with pytest.raises(df.InputError) as raised:
        await world.run(workflow, {"card": CARD})
    assert CARD not in str(raised.value)


async def test_a_secret_given_to_a_child_stays_secret(world: World) -> None:
    child = flow(
        "- {id: ask, type: halt, reason: $input.card}\n",
        id="child",
        inputs={"card": {"type": "string", "secret": True}},
    )
    world.know(child)
    parent = flow(
        "- {id: sub, type: workflow, workflow_id: child, input: {card: $input.card}}\n",
        inputs={"card": {"type": "string", "secret": True}},
    )
    await world.run(parent, {"card": CARD}, execution_id="e")
    assert CARD not in await everything_shown(world)


# -- secrets of the host -----------------------------------------------------------------------------------------------

CALL = flow("""
    - id: ask
      type: call
      service: desk
      method: ask
      input: {key: $secrets.api, header: "Bearer $secrets.api"}
      output: answer
      next: done
    - {id: done, type: end, result: $answer}
""")


async def with_secrets(world: World, secrets: Any) -> None:
    await world.restart(secrets=secrets)


async def test_a_secret_of_the_host_reaches_the_service(world: World) -> None:
    await with_secrets(world, {"api": KEY})
    await world.run(CALL)
    assert world.desk.calls == [("ask", {"key": KEY, "header": f"Bearer {KEY}"})]


async def test_a_secret_of_the_host_is_shown_and_stored_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await with_secrets(world, {"api": KEY})
    told: list[df.Event] = []
    world.runtime.subscribe(told.append)
    result = await world.run(CALL, execution_id="e")
    stored = await world.store.fetch("e")
    rows = msgspec.json.encode([stored, await world.store.read("e")]).decode()
    assert KEY not in rows + await everything_shown(world) + msgspec.json.encode(told).decode() + caplog.text
    assert result.output == {"key": "***", "header": "Bearer ***"}


async def test_the_trail_shows_that_a_secret_was_used(world: World) -> None:
    await with_secrets(world, {"api": KEY})
    await world.run(CALL, execution_id="e")
    entry = next(entry for entry in await world.entries() if entry.step_id == "ask")
    assert entry.input == {"key": "***", "header": "Bearer ***"}


async def test_a_failing_service_does_not_tell_a_secret_of_the_host(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await with_secrets(world, {"api": KEY})
    world.desk.answers["ask"] = PermissionError(f"key {KEY} is not valid")
    result = await world.run(CALL, execution_id="e")
    assert result.error == "PermissionError: key *** is not valid"
    assert KEY not in await everything_shown(world) + caplog.text


async def test_a_failing_service_does_not_tell_a_secret_by_an_attribute(world: World) -> None:
    class Refused(Exception):
        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__("refused")

        def __str__(self) -> str:
            return f"refused {self.key}"

    await with_secrets(world, {"api": KEY})
    world.desk.answers["ask"] = Refused(KEY)
    assert (await world.run(CALL)).error == "Refused: refused ***"


async def test_a_secret_that_is_no_text_is_masked_too(world: World) -> None:
    await with_secrets(world, {"api": {"user": "root-user", "pin": 987654}})
    world.desk.answers["ask"] = lambda value: value["key"]["pin"]
    workflow = flow("""
        - {id: ask, type: call, service: desk, method: ask, input: {key: $secrets.api}, output: result}
    """)
    result = await world.run(workflow)
    assert result.output == "***"


@pytest.mark.parametrize("how", ["mapping", "function", "async function"])
async def test_secrets_come_from_a_mapping_or_a_function(world: World, how: str) -> None:
    async def later(name: str) -> str | None:
        return {"api": KEY}.get(name)

    await with_secrets(world, {"mapping": {"api": KEY}, "function": {"api": KEY}.get, "async function": later}[how])
    await world.run(CALL)
    assert world.desk.calls[0][1]["key"] == KEY


async def test_a_secret_the_host_does_not_have_is_a_step_error(world: World) -> None:
    await with_secrets(world, {"other": KEY})
    result = await world.run(CALL)
    assert result.error == "SecretNotFound: the host has no secret named 'api'"
    assert world.desk.called == []


async def test_secrets_of_an_application_without_any_are_a_step_error(world: World) -> None:
    result = await world.run(CALL)
    assert result.error_info is not None
    assert result.error_info.type == "SecretNotFound"


async def test_a_secret_outside_of_a_call_reads_as_a_mask(world: World) -> None:
    await with_secrets(world, {"api": KEY})
    workflow = flow("""
        - {id: a, type: assign, set: {x: $secrets.api, y: "key $secrets.api"}, next: b}
        - {id: b, type: call, service: desk, method: ask, input: $x, next: c}
        - {id: c, type: end, result: [$x, $y]}
    """, validate=False)  # fmt: skip
    result = await world.run(workflow)
    assert result.output == ["***", "key ***"]
    assert world.desk.calls == [("ask", "***")]


async def test_all_secrets_at_once_are_not_given_to_anybody(world: World) -> None:
    await with_secrets(world, {"api": KEY})
    workflow = flow("- {id: a, type: call, service: desk, method: ask, input: {all: $secrets}}\n", validate=False)
    await world.run(workflow)
    assert KEY not in str(world.desk.calls)


async def test_a_definition_cannot_reach_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", KEY)
    workflow = flow("- {id: a, type: end, result: ['${CANARY}', '$env.CANARY', $secrets.CANARY]}\n", validate=False)
    assert KEY not in str(await world.run(workflow))
