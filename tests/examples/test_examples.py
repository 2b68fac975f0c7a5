"""Every example runs as its reader would run it, prints what it promises, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import durable_flow as df
from tests.examples.test_http_step import HTTP

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

PRINTED = {
    "hello/main.py": ["Hello, Ada!", "4. the workflow finished", "InputError: input.name: expected string"],
    "calculator/main.py": ["6 * 7 = 42", "choose → multiply", "6 / 0 = 6 / 0 has no answer", "choose → refuse"],
    "approval/main.py": [
        "halted: Carol asks for $120: a better chair. Pay it?",
        "NotAllowed: 'carol@example.com' may not answer",
        "ValidationError: approved must be exactly True or False, not 'yes'",
        "completed: paid $120, approved by alice@example.com",
        "ConflictError",
        "alice@example.com answered review",
    ],
    "parallel_fetch/main.py": ["'name': 'Ada Lovelace', 'spent': 42, 'forecast': 'Weather: unknown'", "which saves"],
    "http_step/main.py": [
        "A-1 is packed, announced as order-A-1:announce",
        "asked 2 times to take the order, and has 1",
        "announce retried   attempt 1: RetryAfter: HTTP 503 from 127.0.0.1",
        '"authorization": "Bearer ***"',
        "NonRetryableError: '169.254.169.254' is not a public host",
        "NonRetryableError: '2130706433' is not a public host",
    ],
    "item_processor/main.py": [
        "completed: 3 saved, 1 failed",
        "ValueError: 'not an address' is not an e-mail address",
        "each_contact[2]/save   retried    attempt 2",
        "each_contact[2]/save   completed  attempt 3",
    ],
    "reminder/main.py": [
        "sofa: halted, waits for the signal 'paid'",
        "mail about desk: please pay 500 cents",
        "pens: paid with a card, at once",
        "desk: paid with a card, when reminded",
        "sofa: cancelled, nobody paid",
    ],
    "aiohttp_app/main.py": [
        'POST /dashboards: 200 {"id": ',
        "20 at once take",
        "POST /dashboards/start: 202, Location: /dashboards/bo-1",
        "  step.completed       fetch/profile",
        '{"id": "cy-1", "status": "completed", "output": {"name": "Cy", "orders": [30, 12], "weather": "sunny"}}',
        "asked for: {'profile/cy': 1, 'orders/cy': 2, 'weather': 1}",
        '{"id": "di-1", "status": "completed", "output": {"name": "Di", "orders": [30, 12], "weather": "sunny"}}',
        "asked for: {'profile/di': 1, 'orders/di': 2, 'weather': 1}",
        "A mistake: 422 application/problem+json",
    ],
    "fastapi_app/main.py": [
        "POST /orders: 202",
        "and started again:\n  20 events of chairs that were packed, 20 chairs\n  Sell for 12000 cents to bo?",
        "403 'bo' may not answer",
        "404 There is no such execution.",
        "401 say who you are",
        "422 body.approved: Input should be a valid boolean",
        "403 this is for Alice",
        "workflow.completed: bo paid 12000 cents",
    ],
    "trip/main.py": [
        "completed: a visa for Ada",
        "to Bo: Your trip: failed. PermissionError: no visa for Bo",
        "~/compensate/nights[1]/room      retried",
        "~/compensate/nights[1]/room      compensated",
        "~/compensate/flight              compensated",
        "ConflictError: execution 'Bo' was undone when it failed; start a new one",
    ],
    "order_fulfillment/main.py": [
        "an ordinary order        shipped",
        "charge ↻ → charge → ship → shipped",
        "charge → ship → refund → release → refuse",
        "because it was rejected by bob: no, thank you",
        "the stored input shows '***'",
        "240.00 EUR  and refunded",
    ],
    "taskiq_fleet/main.py": [
        "a process of the fleet was killed while it paid",
        "refund-1: completed, 100 cents are on their way",
        "refund-6: completed, 600 cents are on their way",
        "the bank was asked for 6 different payments",
        "those steps ran again, with the same key",
    ],
}

NEEDS = {"taskiq_fleet/main.py": {"REDIS_URL": "redis_url"}}
"""What examples read in their environment, and which fixture has it."""


def run(program: Path, folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)} | given
    return subprocess.run(
        [sys.executable, program], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def files() -> set[Path]:
    return {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_teaches(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    given = {variable: request.getfixturevalue(fixture) for variable, fixture in NEEDS.get(name, {}).items()}
    before = files()
    done = run(EXAMPLES / name, tmp_path, **given)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    missing = [text for text in PRINTED[name] if text not in done.stdout]
    assert not missing, done.stdout
    assert files() == before
    assert not list(tmp_path.iterdir())


def test_every_example_is_run() -> None:
    assert {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/main.py")} == set(PRINTED)
    assert all((path / "main.py").is_file() for path in EXAMPLES.iterdir() if (path / "workflow.yml").is_file())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/workflow.yml")), ids=lambda path: path.parent.name)
def test_definitions_of_examples_are_valid(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    df.load(path, extensions=[HTTP.EXTENSION] if path.parent.name == "http_step" else [])
    assert not caplog.records


def test_side_by_side_is_faster_than_one_after_the_other(tmp_path: Path) -> None:
    lines = run(EXAMPLES / "parallel_fetch/main.py", tmp_path).stdout.splitlines()
    told = {line[:20].strip(): line[20:].split("ms")[0] for line in lines}
    assert float(told["side by side"]) < 0.75 * float(told["one after the other"])
