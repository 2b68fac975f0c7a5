"""What is right passes; what is wrong is told, all at once, each thing with its place."""

from __future__ import annotations

import logging
import textwrap
from typing import Any

import pytest

from durable_flow.definition.document import compose
from durable_flow.definition.loading import check, load
from durable_flow.definition.parser import parse, parse_plain
from durable_flow.definition.validator import validate
from durable_flow.errors import ValidationError
from durable_flow.limits import Limits
from tests.definition.documents import correct, steps, wrong

CORRECT = correct()
WRONG = wrong()


def told(source: Any, **options: Any) -> list[str]:
    """The problems of a document, without the name of the text."""
    with pytest.raises(ValidationError) as caught:
        load(source, **options)
    return [str(problem).removeprefix("<text>:") for problem in caught.value.problems]


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_document_passes(name: str) -> None:
    assert check(CORRECT[name]).problems == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_document_is_told_what_is_wrong_and_where(name: str) -> None:
    document, problems = WRONG[name]
    assert told(document) == problems


def test_there_are_enough_wrong_documents() -> None:
    assert len(WRONG) >= 100
    assert all(problems for _, problems in WRONG.values())


def as_mapping(text: str) -> dict[str, Any] | None:
    try:
        return compose(text, name="f", limits=Limits()).plain()
    except ValidationError:
        return None


@pytest.mark.parametrize("name", [name for name, (text, _) in WRONG.items() if as_mapping(text) is not None])
def test_the_same_is_told_of_a_mapping_without_places(name: str) -> None:
    document, problems = WRONG[name]
    without_place = [problem.split(": ", 1)[1].split(", first at")[0] for problem in problems]
    assert sorted(told(as_mapping(document))) == sorted(f"<mapping>: {problem}" for problem in without_place)


def test_parsing_alone_asks_nothing_of_the_whole() -> None:
    text = steps("{id: a, type: assign, set: {x: $nobody}, next: nowhere}", "{id: b, type: end}")
    assert parse(text).steps[0].next == "nowhere"


def test_what_was_parsed_can_be_validated_later() -> None:
    problems = validate(parse(steps("{id: a, type: assign, set: {x: $nobody}}")))
    assert [str(problem) for problem in problems] == ["<text>:4:3: step 'a': nothing sets $nobody"]


def test_the_pinned_form_passes_too() -> None:
    for document in CORRECT.values():
        workflow = load(document)
        assert validate(parse_plain(workflow.document)) == []


def test_a_problem_inside_of_a_long_step_has_its_own_line() -> None:
    text = textwrap.dedent("""\
        id: w
        name: W
        steps:
          - id: a
            type: call
            service: s
            method: m
            input:
              deep:
                - one
                - two: "$missing"
        """)
    assert told(text) == ["11:16: step 'a': input.deep[1].two: nothing sets $missing"]


def test_a_reference_in_a_body_is_told_of_the_body_step() -> None:
    text = steps("{id: a, type: loop, over: $input.x, do: [{id: b, type: assign, set: {x: $y}}]}")
    assert told(text) == ["4:75: step 'b': set.x: nothing sets $y"]


def test_problems_come_in_the_order_of_the_document() -> None:
    text = steps("{id: a, type: end, result: $x}", "{id: b, type: assign, set: {y: 1}, nxt: c}", more="versoin: 1\n")
    places = [problem.split(": ", 1)[0] for problem in told(text)]
    assert places == ["4:30", "5:38", "6:1"]


def test_a_file_is_named_in_its_problems(tmp_path: Any) -> None:
    path = tmp_path / "flow.yml"
    path.write_text(steps("{id: a, type: nothing}"))
    assert told(path)[0].startswith(f"{path}:4:17: step 'a': unknown step type 'nothing'")


def test_more_branches_than_the_limit_are_refused() -> None:
    branches = ", ".join(f"{{id: b{number}, type: start}}" for number in range(3))
    text = steps(f"{{id: a, type: parallel, branches: [{branches}]}}")
    assert load(text)
    assert told(text, limits=Limits(branches=2)) == [
        "4:27: step 'a': branches: 3 are more than 2 (raise it with Limits(branches=…))"
    ]


def test_endless_problems_are_cut_off() -> None:
    problems = told({"id": "w", "name": "W", "steps": [{"id": f"s{n}", "type": "end", "x": 1} for n in range(3_000)]})
    assert len(problems) == 1_001
    assert problems[-1] == "<mapping>: and 4,999 more problems"


# --- a step that cannot be read says nothing about where it leads -----------------------------------------------------


def test_a_step_of_unknown_type_may_lead_anywhere_and_set_anything() -> None:
    text = steps("{id: a, type: signl, output: o}", "{id: b, type: end, result: $o}")
    assert len(told(text)) == 1


def test_a_misspelt_output_is_one_problem() -> None:
    text = steps("{id: a, type: call, service: s, method: m, ouput: o, next: b}", "{id: b, type: end, result: $o}")
    assert told(text) == ["4:46: step 'a': unknown key 'ouput' (did you mean 'output'?)"]


def test_a_misspelt_target_is_one_problem() -> None:
    text = steps("{id: a, type: start, next: endd}", "{id: end, type: end}")
    assert told(text) == ["4:30: step 'a': next: there is no step 'endd' (did you mean 'end'?)"]


def test_a_bad_timeout_hides_nothing() -> None:
    text = steps("{id: a, type: call, service: s, method: m, timeout: x}", "{id: b, type: end, result: $o}")
    assert [problem.split(":")[0] for problem in told(text)] == ["4", "5", "5"]


# --- warnings ---------------------------------------------------------------------------------------------------------

OVERLAP = steps(
    "{id: p, type: parallel, branches: [{id: a, type: assign, set: {x: 1}}, "
    "{id: b, do: [{id: c, type: loop, over: [1], do: [{id: d, type: assign, set: {x: 2}}]}]}]}"
)


def test_two_branches_that_set_one_variable_are_a_warning() -> None:
    checked = check(OVERLAP)
    assert checked.workflow is not None
    assert [str(warning) for warning in checked.warnings] == [
        "<text>:4:3: step 'p': branches[0] ('a') and branches[1] ('c') both set $x; the later branch wins"
    ]


def test_loading_logs_warnings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "durable_flow"):
        load(OVERLAP)
    assert "both set $x" in caplog.text


def test_names_that_nobody_chose_are_no_warning() -> None:
    loop = "{id: %s, type: loop, over: [1], do: [{id: %s1, type: halt}]}"
    text = steps(f"{{id: p, type: parallel, branches: [{loop % ('a', 'a')}, {loop % ('b', 'b')}]}}")
    assert check(text).warnings == []
