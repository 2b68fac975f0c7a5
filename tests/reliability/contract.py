"""The same meaning on every store: the tests of the contract, on each of ours, and a matrix of what came of them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from tests.reliability.table import Case, Table
from tests.stores.conftest import STORES

FIGURES: list[str] = []
ROOT = Path(__file__).parents[2]
QUICK = "sqlite-memory"


def areas() -> dict[str, str]:
    """The part of the contract that each test belongs to."""
    from durable_flow.testing.contract import StoreContract

    return {
        name: part.__name__.lower()
        for part in reversed(StoreContract.__mro__)
        for name in vars(part)
        if name.startswith("test_")
    }


def outcomes(stores: Iterable[str]) -> Counter[tuple[str, str, str]]:
    """How many tests of an area ended how on a store: ok, skipped or bad."""
    wanted = " or ".join(stores)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(
            [*command, "-k", wanted, "tests/stores/test_contract.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
        tests = ElementTree.parse(report).getroot().iter("testcase")
        found: Counter[tuple[str, str, str]] = Counter()
        of = areas()
        for test in tests:
            name, store, _ = re.split(r"[\[\]]", test.get("name", "") + "[][")[:3]
            store = next(known for known in sorted(STORES, key=len, reverse=True) if known in store)
            kinds = {child.tag for child in test}
            ended = "bad" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "ok"
            found[of[name], store, ended] += 1
    return found


def verify(stores: tuple[str, ...]) -> int:
    found = outcomes(stores)
    total = Counter({("all", store, ended): 0 for _, store, ended in found})
    for (_, store, ended), count in found.items():
        total["all", store, ended] += count
    both = found + total
    FIGURES.append(f"{'contract: passed / bad':24} " + " ".join(f"{store:>14}" for store in stores))
    for area in [*dict.fromkeys(areas().values()), "all"]:
        cells = [
            f"{both[area, store, 'ok']} / {both[area, store, 'bad']}"
            if any(both[area, store, e] for e in ENDS)
            else "–"
            for store in stores
        ]
        FIGURES.append(f"  {area:22} " + " ".join(f"{cell:>14}" for cell in cells))
    told = [f"{total['all', store, 'skipped']} on {store}" for store in stores if total["all", store, "skipped"]]
    if told:
        FIGURES.append(f"  not asked of a store that cannot (no second process, no version): {', '.join(told)}")
    bad = {store: total["all", store, "bad"] for store in stores if total["all", store, "bad"]}
    assert not bad, f"tests that failed: {bad}"
    for store in stores:
        assert total["all", store, "ok"] >= 60, f"only {total['all', store, 'ok']} tests ran on {store}"
    return sum(found.values())


ENDS = ("ok", "bad", "skipped")


def cases(full: bool) -> Iterable[Case]:
    yield Case("every test of the contract", partial(verify, tuple(STORES) if full else (QUICK,)))


TABLE = Table("all stores mean the same", cases, FIGURES)
