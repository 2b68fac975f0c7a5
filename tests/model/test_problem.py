"""A problem reads as one line, with a hint where one is near."""

import pytest

from durable_flow.model.problem import Problem, suggest


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem(file="f.yml", message="m"), "f.yml: m"),
        (Problem(file="f.yml", message="m", line=3, column=5), "f.yml:3:5: m"),
        (Problem(file="f.yml", message="m", line=3, column=5, step="a"), "f.yml:3:5: step 'a': m"),
        (Problem(file="<mapping>", message="m", step="a", hint="h"), "<mapping>: step 'a': m (h)"),
    ],
)
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("aprove", "did you mean 'approve'?"),
        ("APPROVE", "did you mean 'approve'?"),
        ("zzz", None),
        ("", None),
        ("approve" * 10_000, None),
    ],
)
def test_a_hint_is_given_where_one_is_near(word: str, hint: str | None) -> None:
    assert suggest(word, ["approve", "reject"]) == hint
