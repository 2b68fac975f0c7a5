import json
from pathlib import Path

import jsonschema_rs

from tests.cli.conftest import Cli


def test_validate_says_what_is_good(cli: Cli) -> None:
    done = cli("validate", "hello.yml", "approval.yml")
    assert (done.code, done.err) == (0, "")
    assert done.out == "✔ hello.yml  hello 1.0, 1 step\n✔ approval.yml  expense 1.0, 2 steps\n"


def test_validate_tells_every_problem_of_every_file(cli: Cli, folder: Path) -> None:
    (folder / "flows").mkdir()
    (folder / "flows/a.yml").write_text("id: a\nname: A\nsteps:\n  - {id: x, type: asign, set: {}}\n")
    (folder / "flows/b.yaml").write_text("id: b\nnme: B\nsteps: []\n")
    done = cli("validate", "hello.yml", "flows")
    assert done.code == 2
    lines = done.out.splitlines()
    assert lines[0].startswith("✔ hello.yml")
    assert lines[1] == "✖ flows/a.yml:4:19: step 'x': unknown step type 'asign' (did you mean 'assign'?)"
    assert all(line.startswith("✖ flows/b.yaml:") for line in lines[2:])
    assert len(lines) > 3


def test_validate_as_json_has_lines_and_columns(cli: Cli, folder: Path) -> None:
    (folder / "a.yml").write_text("id: a\nname: A\nsteps:\n  - {id: x, type: asign, set: {}}\n")
    document = cli("validate", "a.yml", "hello.yml", "--json").document
    assert document["valid"] is False
    bad, good = document["files"]
    assert good == {"file": "hello.yml", "valid": True, "workflow_id": "hello", "problems": []}
    problem = bad["problems"][0]
    assert (problem["line"], problem["column"], problem["step"]) == (4, 19, "x")
    assert problem["text"].startswith("a.yml:4:19: ")


def test_graph_is_mermaid(cli: Cli) -> None:
    done = cli("graph", "approval.yml")
    assert done.code == 0
    assert done.out.startswith("flowchart ")
    assert "review" in done.out
    assert cli("graph", "approval.yml", "--json").document == {
        "workflow_id": "expense",
        "mermaid": done.out.rstrip("\n"),
    }


def test_schema_accepts_what_the_parser_accepts(cli: Cli) -> None:
    schema = cli("schema").document
    good = {"id": "a", "name": "A", "steps": [{"id": "x", "type": "end"}]}
    assert jsonschema_rs.is_valid(schema, good)
    assert not jsonschema_rs.is_valid(schema, {**good, "stpes": []})
    assert json.loads(cli("schema", "--json").out) == schema
