"""What went wrong, for people: what, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

import durable_flow as df
from durable_flow.cli._url import shown


class Mistake(click.ClickException):
    """Ends the command with one line that says what is wrong, lines of detail, and a hint what to do."""

    exit_code = 2

    def __init__(
        self, message: str, *, details: Sequence[str] = (), hint: str | None = None, kind: str = "UsageError"
    ) -> None:
        super().__init__(message)
        self.details = list(details)
        self.hint = hint
        self.kind = kind

    def document(self) -> dict[str, Any]:
        """What --json shows of it."""
        shown: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.details:
            shown["problems"] = self.details
        if self.hint:
            shown["hint"] = self.hint
        return shown


def mistake_of(error: df.DurableFlowError, context: click.Context) -> Mistake:
    """What an error of the library means to somebody at a terminal."""
    kind = type(error).__name__
    match error:
        case df.ValidationError(problems=[problem]):
            return Mistake(_spoken(problem), hint=_hint(error, context), kind=kind)
        case df.ValidationError():
            what = "the input does not fit the workflow" if isinstance(error, df.InputError) else "not valid"
            return Mistake(
                f"{what}: {len(error.problems)} problems",
                details=[str(problem) for problem in error.problems],
                hint=_hint(error, context),
                kind=kind,
            )
        case _:
            return Mistake(_spoken(error), hint=_hint(error, context), kind=kind)


ARGUMENTS = {
    "approved=True or approved=False": "'approve' or 'reject'",
    "signal()": "'signal'",
    "response=": "'resume --response'",
    "approved=": "'approve'",
    "wait_id=": "--wait-id",
    "selections=": "--select",
    "step=": "--step",
    "by=": "--by",
}
"""What arguments of the library are called here."""


def _spoken(text: object) -> str:
    """What the library says, with the names of options instead of arguments.

    >>> _spoken("say who you are with by=")
    'say who you are with --by'
    """
    said = str(text)
    for argument, option in ARGUMENTS.items():
        said = re.sub(rf"(?<![\w$.]){re.escape(argument)}(?!\w)", option, said)
    return said


def _hint(error: df.DurableFlowError, context: click.Context) -> str | None:
    program = context.find_root().command_path
    store = shown(str(context.params.get("store")))
    asked = f"{program} {{}} {context.params.get('execution_id')}"
    match error:
        case df.ExecutionNotFound():
            return f"looked in {store}; '{program} list' shows what is there"
        case df.InputError():
            return "nothing was started; --input takes the input as JSON, @FILE or -"
        case df.ConflictError() if "execution_id" in context.params and context.info_name != "run":
            return f"nothing was changed; '{asked.format('why')}' says how it stands"
        case df.NotAllowed():
            return "nothing was changed; say who you are with --by"
        case df.StoreUnavailable():
            return f"the store is {store}; try again, or check that it can be reached"
        case df.CorruptState() if "its codec" in error.detail:
            return "name the codec with --codec or $DURABLE_FLOW_CODEC"
        case df.CorruptState():
            return "other executions are not affected"
    return None
