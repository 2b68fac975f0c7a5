"""What editors are told agrees with what the parser takes."""

from __future__ import annotations

import jsonschema_rs
import msgspec
import pytest

from durable_flow.definition.document import compose
from durable_flow.definition.json_schema import language_schema
from durable_flow.definition.parser import parse
from durable_flow.errors import ValidationError
from durable_flow.limits import Limits
from durable_flow.steps import step_types
from tests.definition.documents import correct, wrong

SCHEMA = jsonschema_rs.Draft202012Validator(language_schema())

BEYOND = {
    "bad duration",
    "bad condition nested",
    "bad reference",
    "both retries",
    "an id twice, once in finally",
    "duplicate branch",
    "duplicate ids",
    "duplicate nested",
    "input default",
    "loop neither",
    "negative retries",
    "reserved as",
    "reserved set",
    "set bad name",
    "step reserved id",
    "transform input",
    "unknown operation",
    "wait 0",
    "approval approvers",
    "no branches",
}
"""What the parser refuses and a schema cannot say, or need not."""


@pytest.mark.parametrize("name", correct())
def test_correct_documents_fit(name: str) -> None:
    assert [error.message for error in SCHEMA.iter_errors(correct()[name])] == []


def unreadable() -> list[str]:
    """The wrong documents that the parser refuses, as long as they are documents at all."""
    found = []
    for name, (text, _) in wrong().items():
        try:
            compose(text, name=name, limits=Limits())
        except ValidationError:
            continue
        try:
            parse(text)
        except ValidationError:
            found.append(name)
    return found


@pytest.mark.parametrize("name", [name for name in unreadable() if name not in BEYOND])
def test_wrong_documents_do_not_fit(name: str) -> None:
    assert not SCHEMA.is_valid(compose(wrong()[name][0], name=name, limits=Limits()).plain())


def test_every_step_type_is_described() -> None:
    definitions = language_schema()["$defs"]
    for name, kind in step_types().items():
        assert definitions[f"step.{name}"]["description"] == kind.summary


def test_it_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(language_schema())) == language_schema()


def test_it_is_a_schema_itself() -> None:
    jsonschema_rs.meta.validate(language_schema())
