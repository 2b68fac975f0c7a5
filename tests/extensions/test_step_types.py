"""A step type that the package does not know: one class, and everything else asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

import durable_flow as df


class ShoutConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is what is said, `times` how often."""

    text: df.Template
    times: int = 1
    output: df.VariableName | None = None


class Shout(df.StepType[ShoutConfig]):
    name = "shout"
    summary = "Says it louder."
    Config = ShoutConfig
    works_outside = True

    async def run(self, visit: df.Visit, config: ShoutConfig) -> df.Outcome:
        if visit.attempt == 1:
            raise ConnectionError("hoarse")
        said = " ".join([str(visit.resolve(config.text)).upper()] * config.times)
        return df.Done(said, () if config.output is None else (config.output,))


SHOUTING = df.Extension(name="shouting", step_types=(Shout(),))

DOCUMENT = """
id: crowd
name: Crowd
inputs: {who: string}
steps:
  - id: chant
    type: loop
    over: [1, 2]
    output: chants
    next: done
    do:
      - {id: call_out, type: shout, text: "go $input.who", times: 2, output: heard, retry: {initial_interval: 0.001}}
  - {id: done, type: end, result: $chants}
"""


@pytest.fixture
async def runtime() -> AsyncIterator[df.Runtime]:
    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT], extensions=[SHOUTING]) as runtime:
        yield runtime


async def test_a_step_type_from_outside_runs_retries_and_is_recorded_like_any_other(runtime: df.Runtime) -> None:
    result = await runtime.runner("crowd").run({"who": "ada"})

    assert result.output == ["GO ADA GO ADA", "GO ADA GO ADA"]
    entries = await runtime.store.entries(result.execution_id)
    told = [(entry.path, str(entry.action), entry.attempt) for entry in entries if entry.step_type == "shout"]
    assert told == [
        ("chant[0]/call_out", "retried", 1),
        ("chant[0]/call_out", "completed", 2),
        ("chant[1]/call_out", "retried", 1),
        ("chant[1]/call_out", "completed", 2),
    ]


def test_its_keys_are_checked_with_positions_and_hints() -> None:
    wrong = DOCUMENT.replace("times: 2", "tmies: 2")
    with pytest.raises(df.ValidationError, match=r"step 'call_out': unknown key 'tmies' .*did you mean 'times'"):
        df.load(wrong, extensions=[SHOUTING])


def test_without_the_extension_its_type_is_unknown() -> None:
    with pytest.raises(df.ValidationError, match="unknown step type 'shout'"):
        df.load(DOCUMENT)


def test_what_a_working_type_gives_is_what_it_gives_after_a_restart() -> None:
    class Now(df.StepType[ShoutConfig]):
        name = "now"
        summary = "Gives what JSON does not have."
        Config = ShoutConfig
        works_outside = True

        async def run(self, visit: df.Visit, config: ShoutConfig) -> df.Outcome:
            return df.Done({"at": datetime(2026, 3, 1, tzinfo=UTC), "n": (1, 2)}, (config.output or "",))

    document = {
        "id": "now",
        "name": "Now",
        "steps": [
            {"id": "look", "type": "now", "text": "now", "output": "at", "next": "done"},
            {"id": "done", "type": "end", "result": "$at"},
        ],
    }

    async def main() -> df.ExecutionResult:
        extension = df.Extension(name="now", step_types=(Now,))
        async with df.Runtime("sqlite://:memory:", workflows=[document], extensions=[extension]) as runtime:
            return await runtime.runner("now").run()

    result = asyncio.run(main())
    assert result.output == {"at": "2026-03-01T00:00:00Z", "n": [1, 2]}


async def test_secrets_are_shown_to_a_step_that_reveals_them_and_to_nobody_else() -> None:
    seen: list[str] = []

    class Send(df.StepType[ShoutConfig]):
        name = "send"
        summary = "Uses a secret, and carelessly gives it back."
        Config = ShoutConfig
        reveals = frozenset({"text"})
        works_outside = True

        async def run(self, visit: df.Visit, config: ShoutConfig) -> df.Outcome:
            given = await visit.reveal(text=config.text)
            seen.append(given["text"])
            visit.emit("sender.sent", {"said": given["text"]})
            if visit.attempt == 1:
                raise ValueError(f"not with {given['text']}")
            return df.Done(given["text"], ("sent",), metadata={"sent": given["text"]})

    document = {
        "id": "send",
        "name": "Send",
        "steps": [
            {"id": "s", "type": "send", "text": "key $secrets.token", "output": "sent", "next": "done",
             "retry": {"initial_interval": 0.001}},
            {"id": "done", "type": "end", "result": "$sent"},
        ],
    }  # fmt: skip
    extension = df.Extension(name="sender", step_types=(Send,), events=("sender.sent",))
    told: list[df.Event] = []
    async with df.Runtime(
        "sqlite://:memory:", workflows=[document], extensions=[extension], secrets={"token": "hunter22"}
    ) as runtime:
        runtime.subscribe(told.append)
        result = await runtime.runner("send").run()
        entries = await runtime.store.entries(result.execution_id)
    assert seen == ["key hunter22"] * 2
    assert result.output == "key ***"
    assert [entry.input for entry in entries if entry.step_id == "s"] == [{"text": "key ***"}] * 2
    assert "hunter22" not in repr(entries) + "".join(event.to_json() for event in told)
    assert [event.data["data"] for event in told if event.type == "sender.sent"] == [{"said": "key ***"}] * 2
