"""`why`: what an execution waits for, since when, and what would make it go on."""

from __future__ import annotations

import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._hints import Hints
from durable_flow.cli._host import read
from durable_flow.cli._options import execution_argument, store_option
from durable_flow.cli._program import command as as_command


@as_command("Look", example="durable-flow why 42")
@execution_argument
@store_option
def command(*, execution_id: str, store: str, as_json: bool) -> int:
    """Say what an execution waits for, since when, and which command makes it go on."""
    hints = Hints.here()

    async def work(opened: df.Store) -> int:
        async with df.Runtime(opened, extensions=extensions_here()) as runtime:
            runner = await runtime.runner_of(execution_id)
            whys = await runner.why(execution_id)
            result = await runner.result(execution_id)
            answers = await hints.answers(result, opened)
        types = {halt.wait_id: halt.type for halt in result.halts}
        otherwise = _otherwise(result.status, whys, execution_id, hints)
        if as_json:
            waits = [
                {
                    **msgspec.to_builtins(why),
                    "type": types.get(why.wait_id or ""),
                    "commands": answers.get(why.wait_id or "", otherwise),
                }
                for why in whys
            ]
            _render.document({"execution_id": execution_id, "status": result.status, "why": waits})
        else:
            _render.reasons(whys, answers, types=types, otherwise=otherwise)
        return 0

    return read(store, work)


def _otherwise(status: df.Status, whys: list[df.Why], execution_id: str, hints: Hints) -> list[str]:
    """What makes an execution go on that waits for nobody's answer."""
    if any(why.unblock == "retry it" for why in whys):
        return [hints.drive("retry", execution_id)]
    if any(why.unblock.startswith("recover it") for why in whys):
        return [hints.drive("recover", execution_id)]
    return []
