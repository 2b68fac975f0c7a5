"""A step type that does its work in pieces, as an agent does: it asks, calls tools side by side, and asks again."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import durable_flow as df


class CrewConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`turns` are how often the model is asked, `tools` how many tools are called after each time."""

    turns: int = 4
    tools: int = 0
    forgiving: bool = False
    output: df.VariableName | None = None


class Crew(df.StepType[CrewConfig]):
    name = "crew"
    summary = "Asks a model, and calls the tools it wants."
    Config = CrewConfig
    performs = True

    async def run(self, visit: df.Visit, config: CrewConfig) -> df.Outcome:
        said: list[Any] = []
        for turn in range(1, config.turns + 1):
            said.append(await visit.perform("turn", Asking(said), number=turn, input={"said": len(said)}))
            tools = [self.use(visit, turn, number, config) for number in range(1, config.tools + 1)]
            said += await asyncio.gather(*tools)
        return df.Done(said, () if config.output is None else (config.output,))

    async def use(self, visit: df.Visit, turn: int, number: int, config: CrewConfig) -> Any:
        async def work(piece: df.Visit) -> Any:
            piece.emit("crew.tool_use", {"tool": number})
            return await piece.call("Model", "tool", {"turn": turn, "tool": number})

        try:
            policy = df.RetryPolicy(initial_interval=0.01, jitter=0)
            return await visit.perform(
                "tool",
                work,
                number=turn * 100 + number,
                may_fail=config.forgiving,
                retry=policy,
            )
        except df.StepError as error:
            if not config.forgiving:
                raise
            return f"{error.kind}: {error}"


class Asking:
    """What a turn does: the model is told what was said so far."""

    def __init__(self, said: list[Any]) -> None:
        self.said = list(said)

    async def __call__(self, piece: df.Visit) -> df.Done:
        answer = await piece.call("Model", "ask", {"said": self.said})
        return df.Done(answer, metadata={"tokens": len(self.said)})


CREW = df.Extension(name="crew", step_types=(Crew(),), events=("crew.tool_use",))
