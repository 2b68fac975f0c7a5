"""`queue`: pauses and limits queues, and lists them."""

from __future__ import annotations

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._host import read
from durable_flow.cli._options import store_option
from durable_flow.cli._program import command as as_command

ACTIONS = ("list", "pause", "unpause", "limit", "reset")


@as_command("Answer and repair", example="durable-flow queue limit mail --concurrency 5 --rate 100/1m")
@click.argument("action", metavar="|".join(ACTIONS), type=click.Choice(ACTIONS))
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--reason", metavar="TEXT", help="pause: why; shown until it is not paused any more.")
@click.option("--by", metavar="NAME", help="pause: who pauses it.")
@click.option("--concurrency", type=int, metavar="N", help="limit: how many may be under way at once.")
@click.option("--rate", metavar="N/TIME", help="limit: how many may begin within such a time, as in 100/1m.")
@click.option("--none", "unlimited", is_flag=True, help="limit: no limits, whatever code declares.")
@store_option
def command(
    *,
    action: str,
    name: str | None,
    reason: str | None,
    by: str | None,
    concurrency: int | None,
    rate: str | None,
    unlimited: bool,
    store: str,
    as_json: bool,
) -> int:
    """Pause a queue and let it go on, limit it, or list the queues.

    Workers begin nothing that waits in a paused queue, and no more of one with limits than these say; what began goes
    on. Limits count whatever code declares, until they are reset. NAME is a queue, or - for executions without one.
    """
    if (action == "list") is not (name is None):
        raise click.UsageError("'queue list' takes no name" if action == "list" else f"'queue {action}' needs a name")
    if action != "pause" and (reason is not None or by is not None):
        raise click.UsageError("--reason and --by are for 'queue pause'")
    limited = concurrency is not None or rate is not None
    if action != "limit" and (limited or unlimited):
        raise click.UsageError("--concurrency, --rate and --none are for 'queue limit'")
    if action == "limit" and limited is unlimited:
        raise click.UsageError("'queue limit' needs --concurrency or --rate, or else --none")
    queue = None if name == "-" else name
    begins, per = _rate(rate)

    async def work(opened: df.Store) -> int:
        changed = False
        async with df.Runtime(opened) as runtime:
            match action, queue:
                case "pause", _:
                    changed = await runtime.pause_queue(queue, by=by, reason=reason)
                case "unpause", _:
                    changed = await runtime.unpause_queue(queue)
                case "limit" | "reset", None:
                    raise click.UsageError("limits are for a queue with a name")
                case "limit", str():
                    changed = await runtime.limit_queue(queue, concurrency=concurrency, rate=begins, per=per)
                case "reset", str():
                    changed = await runtime.reset_queue(queue)
            queues = await runtime.queues()
        if as_json:
            told = {} if action == "list" else {"changed": changed}
            _render.document({**told, "queues": msgspec.to_builtins(queues)})
            return 0
        if action != "list" and not changed:
            what = "executions without a queue" if queue is None else f"queue {queue!r}"
            _render.note(f"{what}: {NOTHING[action]}")
        _render.queues(queues)
        return 0

    return read(store, work)


NOTHING = {
    "pause": "paused already",
    "unpause": "not paused",
    "limit": "limited so already",
    "reset": "nothing was decided about it",
}
"""What is said where an action changes nothing."""


def _rate(text: str | None) -> tuple[int | None, str | None]:
    """What ``100/1m`` says."""
    if text is None:
        return None, None
    count, slash, per = text.partition("/")
    if not (slash and count.strip().isdecimal() and per.strip()):
        raise click.BadParameter(
            f"{text!r} is no rate: write how many in which time, as in 100/1m", param_hint="--rate"
        )
    return int(count), per.strip()
