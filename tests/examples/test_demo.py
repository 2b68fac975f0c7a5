"""The demo is run as `make demo` runs it; and it fails if what it tells is not true."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "order_fulfillment"


def demo(example: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "DURABLE_FLOW_STORE": "sqlite:////nowhere/of.db"}
    command = [sys.executable, str(example / "demo.py")]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_demo_shows_an_approval_and_a_recovery(tmp_path: Path) -> None:
    before = set(EXAMPLE.iterdir())
    done = demo(EXAMPLE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    told = [line.strip() for line in done.stdout.splitlines()]
    assert told.count("{") == 2  # the results of both orders
    claims = [line for line in told if line.startswith("✓")]
    assert len(claims) == 10
    assert claims[-2:] == ["✓ the card was charged exactly once", "✓ one parcel is on its way"]
    assert set(EXAMPLE.iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_the_demo_fails_where_a_card_is_charged_twice(tmp_path: Path) -> None:
    """The bank forgets the idempotency key: the demo must notice."""
    example = tmp_path / "careless"
    shutil.copytree(EXAMPLE, example)
    shop = example / "shop.py"
    careful = shop.read_text()
    careless = careful.replace("write(once, key, order_id, cents)", "write(once, os.urandom(8).hex(), order_id, cents)")
    assert careless != careful
    shop.write_text(careless)
    done = demo(example, tmp_path)
    assert done.returncode == 1
    assert "it is not true that the card was charged exactly once" in done.stderr
