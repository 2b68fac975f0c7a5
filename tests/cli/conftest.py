import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable_flow.cli import main

SHOP = '''
import os
from pathlib import Path


class CardDeclined(Exception):
    """Not a service."""


class Shop:
    """Declines every card until the file `money` is there."""

    async def charge(self, total):
        if not Path("money").exists():
            raise CardDeclined(f"no money for {total}")
        return f"paid {total}"

    def chatter(self):
        print("what a service prints")
        return "said"


services = {"Shop": Shop()}
'''

HELLO = """
id: hello
name: Hello
inputs: {name: {type: string, default: you}}
steps:
  - {id: greet, type: assign, set: {result: "Hello, $input.name!"}}
"""

APPROVAL = """
id: expense
name: Expense
steps:
  - {id: review, type: approval, prompt: Pay it?, approvers: [alice, bob], options: [cash, card], next: paid}
  - {id: paid, type: end, result: $approvals.review.votes.0.by}
"""

HALT = """
id: question
name: Question
steps:
  - {id: ask, type: halt, reason: Which address?, data: {known: [Main St]}, next: answer}
  - {id: answer, type: end, result: $response}
"""

PAY = """
id: pay
name: Pay
steps:
  - {id: charge, type: call, service: Shop, method: charge, input: {total: 5}, output: result}
"""

TWO_WAITS = """
id: two
name: Two
steps:
  - id: both
    type: parallel
    branches:
      - {id: left, type: approval, prompt: Left?}
      - {id: right, type: halt, reason: Right?}
    output: result
"""


DOCUMENTS = {"hello": HELLO, "approval": APPROVAL, "halt": HALT, "pay": PAY, "two": TWO_WAITS}


def write_documents(folder: Path) -> None:
    for name, text in DOCUMENTS.items():
        (folder / f"{name}.yml").write_text(text)
    (folder / "shop.py").write_text(SHOP)


class Outcome(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a test, with documents and services in it."""
    for name in list(os.environ):
        if name.startswith("DURABLE_FLOW_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["durable-flow"])
    monkeypatch.chdir(tmp_path)
    write_documents(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(folder: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command in the folder, in this process."""

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    return run
