"""A step type that the package does not know: one class, and everything else asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

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


def test_two_extensions_cannot_define_one_type() -> None:
    with pytest.raises(df.ConfigError, match="two step types named 'shout'"):
        df.load(DOCUMENT, extensions=[SHOUTING, SHOUTING])
