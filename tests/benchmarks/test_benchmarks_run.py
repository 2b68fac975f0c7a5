"""The short form of every benchmark runs. What it says about speed means nothing, and nothing is asserted of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="it counts memory and bytes as Linux does")
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_prints_its_lines(name: str, tmp_path: Path) -> None:
    done = run(name, "--short", "--folder", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "durable_flow" in done.stdout
    assert "failed" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    done = run("nothing")

    assert done.returncode == 2
    assert "sequential" in done.stderr


def test_peers_say_that_they_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PEERS", tmp_path)
    (tmp_path / "dbos_sqlite.py").touch()

    found, missing = measure.peers(measure.Session(measure.FULL, tmp_path))

    assert found == []
    assert missing == ["dbos, sqlite file: not installed (benchmarks/peers/setup installs it)"]
