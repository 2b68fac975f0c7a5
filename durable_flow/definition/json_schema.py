"""The JSON Schema of the language, for editors: what the step types say about themselves, in another notation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durable_flow.definition.parser import DocumentKeys, common_fields, extra_fields, language
from durable_flow.definition.reader import Definitions, Field, fields_of, fields_schema
from durable_flow.extension import Extension, Language
from durable_flow.steps.base import StepType


def language_schema(extensions: Iterable[Extension | str] | Language = ()) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of documents, with what these extensions add.

    >>> language_schema()["properties"]["steps"]
    {'$ref': '#/$defs/steps'}
    """
    spoken = language(extensions)
    kinds = spoken.types
    definitions: Definitions = {}
    document = fields_schema([*fields_of(DocumentKeys), *extra_fields(spoken)], definitions)
    definitions["steps"] = {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1}
    definitions["step"] = {
        "type": "object",
        "required": ["id", "type"],
        "properties": {"type": {"enum": list(kinds)}},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/step.{name}"},
            }
            for name in kinds
        ],
    }
    for name, kind in kinds.items():
        definitions[f"step.{name}"] = _step(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "durable_flow workflow",
        **document,
        "$defs": dict(sorted(definitions.items())),
    }


def _step(kind: StepType[Any], definitions: Definitions) -> dict[str, Any]:
    fields: list[Field] = [field for field in common_fields(kind) if field.key != "type"]
    fragment = fields_schema([*fields, *fields_of(kind.Config)], definitions)
    fragment["properties"] = {"type": {"const": kind.name}, **fragment["properties"]}
    return {"description": kind.summary, **fragment}
