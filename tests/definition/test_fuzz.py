"""Whatever comes in: a definition or a ValidationError."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_flow.definition.flow import Flow
from durable_flow.definition.graph import mermaid
from durable_flow.definition.loading import check, load
from durable_flow.definition.parser import parse
from durable_flow.errors import ValidationError
from tests.definition.documents import correct, wrong

TEXTS = [text for text, _ in wrong().values()]
WORDS = sorted({word for text in TEXTS for word in text.replace("{", " ").replace("}", " ").replace(",", " ").split()})
KEYS = ["id", "type", "next", "on_error", "do", "over", "while", "branches", "routes", "when", "then", "default", "set",
        "service", "method", "output", "input", "retry", "timeout", "steps", "inputs", "wait", "max", "as"]  # fmt: skip
TYPES = ["start", "end", "assign", "call", "router", "loop", "parallel", "transform", "halt", "approval", "workflow"]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS + TYPES),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)  # fmt: skip

ids = st.sampled_from(["a", "b", "c", "d", "__FINISHED__", "__BREAK__", "__CONTINUE__", "nowhere"])
references = st.sampled_from(
    ["$x", "$y", "$input.x", "$item", "$_last_error", "$response", "$approvals.a", "$secrets.k"]
)


def a_step(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    common = {"next": ids, "on_error": ids}
    return st.one_of(
        st.fixed_dictionaries({"id": ids, "type": st.just("start")}, optional=common),
        st.fixed_dictionaries({"id": ids, "type": st.just("end")}, optional={"result": references}),
        st.fixed_dictionaries(
            {"id": ids, "type": st.just("assign"), "set": st.dictionaries(st.sampled_from("xy"), references)},
            optional=common,
        ),
        st.fixed_dictionaries(
            {"id": ids, "type": st.just("router"), "routes": st.just([]), "default": ids}, optional={"on_error": ids}
        ),
        st.fixed_dictionaries({"id": ids, "type": st.just("halt")}, optional={**common, "on_timeout": ids}),
        st.fixed_dictionaries(
            {"id": ids, "type": st.just("loop"), "over": references, "do": bodies},
            optional={**common, "concurrency": st.integers(0, 2)},
        ),
        st.fixed_dictionaries(
            {
                "id": ids,
                "type": st.just("parallel"),
                "branches": st.lists(st.fixed_dictionaries({"id": ids, "do": bodies})),
            },
            optional=common,
        ),
    )


flows = st.recursive(
    st.lists(a_step(st.just([{"id": "z", "type": "start"}])), min_size=1, max_size=3),
    lambda inner: st.lists(a_step(inner), min_size=1, max_size=4),
    max_leaves=12,
)


def read(source: Any) -> None:
    for reading in (parse, load):
        try:
            workflow = reading(source)
        except ValidationError as error:
            told = error
        else:
            assert parse(workflow.document).hash == workflow.hash
            assert mermaid(workflow)
            continue
        assert told.problems
        assert str(told)


@given(st.text(max_size=200) | st.binary(max_size=50))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str | bytes) -> None:
    read(text if isinstance(text, bytes) else text + "\n")


@given(st.dictionaries(st.sampled_from([*KEYS, "name"]), values, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_mapping(document: dict[str, Any]) -> None:
    read(document)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), values, min_size=2, max_size=6), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_steps(steps: list[dict[str, Any]]) -> None:
    read({"id": "w", "name": "W", "steps": steps})


@given(flows, st.none() | ids)
@settings(max_examples=400, deadline=None)
def test_any_flow(steps: list[dict[str, Any]], on_error: str | None) -> None:
    read({"id": "w", "name": "W", "steps": steps} | ({} if on_error is None else {"on_error": on_error}))


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_correct_documents_with_one_thing_changed(seed: int) -> None:
    chance = random.Random(seed)
    document: Any = chance.choice(list(correct().values()))
    place = document
    while True:
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.85:
            place = place[key]
            continue
        break
    place[key] = chance.choice([None, True, -1, 1.5, "", "x", "$x", "${", [], {}, [1], {"a": 1}, chance.choice(WORDS)])
    read(document)


# --- the fixpoint against walking the paths ---------------------------------------------------------------------------


def reached_by_walking(document: dict[str, Any], chance: random.Random) -> dict[str, set[str]]:
    """For each step, the variables that were set on every one of many random walks to it (top level only)."""
    steps = {step["id"]: step for step in document["steps"]}
    found: dict[str, set[str]] = {}
    for _ in range(300):
        at, known = document["steps"][0]["id"], set()
        for _ in range(40):
            found[at] = found[at] & known if at in found else set(known)
            step = steps[at]
            ways: list[tuple[str, set[str]]] = []
            sets = set(step.get("set", ())) | ({"response"} if step["type"] == "halt" else set())
            ways += [(step[key], known | sets) for key in ("next", "default") if key in step]
            ways += [(route["then"], known | sets) for route in step.get("routes", ())]
            if "on_timeout" in step:
                ways.append((step["on_timeout"], set(known)))
            if "on_error" in step:
                ways.append((step["on_error"], known | {"_last_error"}))
            ways = [way for way in ways if way[0] in steps]
            if not ways:
                break
            at, known = chance.choice(ways)
    return found


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_what_the_fixpoint_says_is_what_walking_finds(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"s{n}" for n in range(5)]

    def target() -> str:
        return chance.choice([*names, "__FINISHED__"])

    steps = []
    for name in names:
        kind = chance.choice(["assign", "router", "halt"])
        step: dict[str, Any] = {"id": name, "type": kind}
        if kind == "assign":
            step |= {"set": {chance.choice("xyz"): 1}, "next": target()}
        elif kind == "router":
            step |= {"routes": [{"when": {"field": "input.x", "value": 1}, "then": target()}], "default": target()}
        else:
            step |= {"timeout": 1, "on_timeout": target(), "next": target()}
        if chance.random() < 0.3:
            step["on_error"] = target()
        steps.append(step)
    document = {"id": "w", "name": "W", "steps": steps}
    flow = Flow(parse(document))
    flow.solve()
    walked = reached_by_walking(document, chance)
    solved = {
        node.step.id: {name for name, bit in flow.bits.items() if node.state & bit}
        for node in flow.nodes
        if node.state is not None
    }
    assert set(walked) <= set(solved)
    for name, known in walked.items():
        assert solved[name] <= known


def test_checking_changes_nothing() -> None:
    for document in correct().values():
        assert check(document).problems == check(document).problems
