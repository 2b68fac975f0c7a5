"""What a hostile author of a definition can try. The numbers are those of the threat model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from durable_flow.definition.graph import mermaid
from durable_flow.definition.loading import load
from durable_flow.definition.parser import parse
from durable_flow.errors import ValidationError
from tests.definition.documents import steps


def refused(source: Any, **options: Any) -> str:
    """What is said. A definition that took exponential time would never come back."""
    with pytest.raises(ValidationError) as caught:
        load(source, **options)
    return str(caught.value)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!custom", "!!binary"])
def test_threat_1_tags(tag: str) -> None:
    told = refused(steps(f"{{id: a, type: end, result: {tag} [x]}}"))
    assert told.startswith("<text>:4:")
    assert "tags are not supported" in told


def test_threat_2_alias_bombs() -> None:
    lines = ["x0: &x0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 20)]
    assert "nodes" in refused("\n".join(lines) + "\n")
    assert "inside the node" in refused("steps: &a [*a]\n")
    assert "merge keys" in refused("a: &a {x: 1}\nb: {<<: *a}\n")


def test_threat_3_sizes() -> None:
    assert "more than 1,048,576 bytes" in refused("a: " + "x" * 2_000_000 + "\n")
    assert "nested more than 64 levels" in refused("a: " + "[" * 5_000 + "]" * 5_000 + "\n")
    assert "more than 20,000 nodes" in refused("a: [" + "1, " * 100_000 + "]\n")
    assert "does not fit into 64 bits" in refused(f"a: {'9' * 100_000}\n")


def test_threat_4_keys_and_words() -> None:
    assert "duplicate key 'id'" in refused("id: a\nid: b\n")
    assert "did you mean 'description'?" in refused(steps("{id: a, type: end}", more="desription: x\n"))
    found = parse(steps("{id: no, type: assign, set: {on: yes, time: 12:34:56}}")).steps[0]
    assert found.id == "no"
    assert found.config.set["time"].source == "12:34:56"


@pytest.mark.parametrize("service", ["os", "__builtins__", "os.system", "Kernel"])
def test_threat_5_a_service_is_a_name_and_nothing_is_imported(service: str) -> None:
    found = parse(steps(f"{{id: a, type: call, service: {service}, method: system}}")).steps[0]
    assert found.config.service == service


@pytest.mark.parametrize(
    "text", ["{{ 7*7 }}", "%(x)s", "{0.__class__}", "$input.__class__.__mro__", "__import__('os')"]
)
def test_threat_6_there_is_no_expression_language(text: str) -> None:
    template = (
        load({"id": "w", "name": "W", "steps": [{"id": "a", "type": "end", "result": text}]}).steps[0].config.result
    )

    class Nothing:
        def lookup(self, root: str) -> Any:
            return {} if root == "input" else None

    assert template.resolve(Nothing()) in (text, None)


def test_threat_7_patterns_run_in_linear_time() -> None:
    hostile = "^(a+)+$"
    condition = {"field": "input.x", "op": "matches", "value": hostile}
    found = load(
        {"id": "w", "name": "W", "steps": [{"id": "a", "type": "router", "routes": [{"when": condition, "then": "b"}]},
                                           {"id": "b", "type": "end"}]}
    ).steps[0]  # fmt: skip

    class Subject:
        def lookup(self, root: str) -> Any:
            return {"x": "a" * 50_000 + "!"}

    assert found.config.routes[0].when.evaluate(Subject()) is False
    assert "bad pattern" in refused(steps(
        r'{id: a, type: router, routes: [{when: {field: input.x, op: matches, value: "(a)\\1"}, then: b}]}',
        "{id: b, type: end}",
    ))  # fmt: skip


def test_threat_8_graph_bombs() -> None:
    routers: list[dict[str, Any]] = []
    for n in range(1_000):
        routers += [
            {"id": f"r{n}", "type": "router", "routes": [{"when": {"field": "input.x"  , "value": n}, "then": f"a{n}"}],
             "default": f"b{n}"},
            {"id": f"a{n}", "type": "assign", "set": {"x": 1}, "next": f"r{n + 1}"},
            {"id": f"b{n}", "type": "assign", "set": {"x": 1}, "next": f"r{n + 1}"},
        ]  # fmt: skip
    document = {"id": "w", "name": "W", "steps": [*routers, {"id": "r1000", "type": "end"}]}
    load(document)
    assert "never ends" in refused(steps("{id: a, type: start, next: b}", "{id: b, type: start, next: a}"))


def test_threat_9_the_environment_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "hunter2")
    told = refused(steps("{id: a, type: call, service: s, method: m, input: '${AWS_SECRET}'}"))
    assert told.startswith("<text>:4:53: step 'a': input: nothing sets $AWS_SECRET")


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "\\\\server\\share"])
def test_threat_10_paths_stay_below_their_folder(name: str, tmp_path: Path) -> None:
    assert "root:" not in refused(name, base=tmp_path)


@pytest.mark.parametrize(
    "name", ["\u202eevil", "<script>alert(1)</script>", "a:b", "../a", "a/b", "a b", "a\n", "ä", "x" * 129, "", "-a"]
)
def test_threat_11_ids_have_a_grammar(name: str) -> None:
    assert "is not a step id" in refused({"id": "w", "name": "W", "steps": [{"id": name, "type": "end"}]})
    assert "id: " in refused({"id": name, "name": "W", "steps": [{"id": "a", "type": "end"}]})


def test_threat_11_names_are_escaped_where_they_are_drawn() -> None:
    drawn = mermaid(
        parse(
            {
                "id": "w",
                "name": "W",
                "steps": [{"id": "a", "type": "assign", "set": {"x": 1}, "next": '"]; click a "x"'}],
            }
        )
    )
    assert 'click a "' not in drawn
