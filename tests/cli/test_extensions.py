"""Commands and the extensions that are installed, or named."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.extensions.test_extensions import MODULES

FLOW = "id: w\nname: W\nsteps:\n- {id: s, type: shout, text: hi}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a workflow and a module, in which a package is installed that works and one that does not."""
    (tmp_path / "flow.yml").write_text(FLOW)
    for module in ("shouting_flow", "broken_flow"):
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(MODULES[module]))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        name = module.partition("_")[0]
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-flow\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[durable_flow.extensions]\n{name} = {module}:EXTENSION\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_installed_is_used_and_what_is_broken_is_left_out_with_a_note(here: Path, cli: Cli) -> None:
    ran = cli("run", "flow.yml", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["output"] == "HI"
    assert ran.err.count("extension 'broken' of package broken-flow 1.0 cannot be loaded: RuntimeError: no luck") == 1


@pytest.mark.parametrize("named", ["shouting", "shouting_flow:EXTENSION", " shouting_flow:made , shouting,"])
def test_those_that_are_named_are_used_and_no_others(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("DURABLE_FLOW_EXTENSIONS", named)
    ran = cli("validate", "flow.yml")
    assert (ran.code, ran.err) == (0, "")


def test_set_to_nothing_there_are_none(here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_FLOW_EXTENSIONS", "")
    ran = cli("validate", "flow.yml")
    assert ran.code == 2
    assert "unknown step type 'shout'" in ran.out + ran.err
    assert "installed, but not used: extensions 'broken', 'shouting'" in " ".join((ran.out + ran.err).split())


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("broken", "extension 'broken' of package broken-flow 1.0 cannot be loaded"),
        ("shoutin", "no extension 'shoutin' is installed"),
        ("shouting_flow:Shout", "is type, not an Extension"),
        ("shouting_flow:nothing", "there is no 'nothing'"),
        ("nowhere:x", "there is no module 'nowhere'"),
    ],
)
def test_one_that_is_named_and_cannot_be_used_is_a_mistake(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, named: str, problem: str
) -> None:
    monkeypatch.setenv("DURABLE_FLOW_EXTENSIONS", named)
    ran = cli("validate", "flow.yml")
    assert ran.code == 2
    assert problem in " ".join(ran.err.split())


def test_the_schema_and_a_simulation_have_them(here: Path, cli: Cli) -> None:
    assert "step.shout" in json.loads(cli("schema").out)["$defs"]
    ran = cli("simulate", "flow.yml", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["proven"]
