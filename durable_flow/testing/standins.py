"""Stand-ins: services, gates, inputs and answers that are made from a definition where a test brings none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from durable_flow import ConfigError, Gate, Halt, Schema, StepContext, WorkflowDef, every_step
from durable_flow.testing.scenario import Answer, Decide, Expire, Fail, Move, Retry, Send
from durable_flow.testing.services import InTurn, Reply, Scripted

DEEPEST = 32
"""How deep an instance of a schema goes: one that refers to itself has none."""

QUESTIONS = 100
"""How often a gate that is not open is asked again."""

UNDOING = "~/compensate/"
"""How the paths of calls begin that undo steps: what is answered for a step is not meant for these."""

FORMATS: Mapping[str, str] = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "somebody@example.com",
    "idn-email": "somebody@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance(schema: Any, *, name: str = "text") -> Any:
    """A small value that a JSON Schema describes: what it must have and no more, of one item where items are allowed.

    `name` is what text says. The result is only likely to fit (of a `pattern`, say, nothing can be made): check it.

    >>> instance({"required": ["id", "n"], "properties": {"id": {"type": "string"}, "n": {"minimum": 3}}})
    {'id': 'id', 'n': 3}
    """
    return _instance(schema, schema, name, 0)


def _instance(schema: Any, root: Any, name: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return name
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    if isinstance(schema.get("$ref"), str):
        return _instance(_referred(schema["$ref"], root), root, name, depth + 1)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _instance({**_without(schema, key), **_mapping(schema[key][0])}, root, name, depth + 1)
    if schema.get("allOf"):
        return _instance(_merged([_without(schema, "allOf"), *schema["allOf"]], root), root, name, depth + 1)
    match _kind(schema):
        case "object":
            return _object(schema, root, depth)
        case "array":
            return _array(schema, root, name, depth)
        case "integer" | "number" as kind:
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
    text = FORMATS.get(schema.get("format", ""), name)
    return text.ljust(schema.get("minLength", 0), "-")[: schema.get("maxLength")]


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if isinstance(kind, str):
        return kind
    for key, meant in (("properties", "object"), ("required", "object"), ("items", "array"), ("minItems", "array")):
        if key in schema:
            return meant
    numeric = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    return "number" if any(key in schema for key in numeric) else "string"


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = _mapping(schema.get("properties"))
    found = {key: _instance(properties.get(key, True), root, key, depth + 1) for key in schema.get("required", ())}
    for number in range(max(0, schema.get("minProperties", 0) - len(found))):
        key = next((key for key in properties if key not in found), f"key{number + 1}")
        found[key] = _instance(properties.get(key, schema.get("additionalProperties", True)), root, key, depth + 1)
    return found


def _array(schema: Mapping[str, Any], root: Any, name: str, depth: int) -> list[Any]:
    first = schema.get("prefixItems") or []
    rest = schema.get("items", True)
    count = max(schema.get("minItems", 0), len(first), 0 if rest is False else 1)
    count = min(count, schema.get("maxItems", count))
    singular = name[:-1] if len(name) > 1 and name.endswith("s") else name
    unique = schema.get("uniqueItems") is True
    found: list[Any] = []
    for index in range(count):
        described = first[index] if index < len(first) else rest
        called = f"{singular}{index + 1}" if unique and index else singular
        found.append(_instance(described, root, called, depth + 1))
    return found


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf", 1)
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - step
    found = max(step, low) if low is not None else step
    if high is not None and found > high:
        found = high if low is None else (low + high) / 2
    if "multipleOf" in schema:
        found = -(-found // step) * step
    return int(found) if whole or float(found).is_integer() else found


def _merged(parts: Iterable[Any], root: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        while isinstance(part, Mapping) and isinstance(part.get("$ref"), str):
            part = _referred(part["$ref"], root)
        given = _mapping(part)
        properties = {**_mapping(found.get("properties")), **_mapping(given.get("properties"))}
        required = [*found.get("required", ()), *given.get("required", ())]
        found.update(given)
        if properties:
            found["properties"] = properties
        if required:
            found["required"] = list(dict.fromkeys(required))
    return found


def _referred(reference: str, root: Any) -> Any:
    target = root
    for part in filter(None, reference.removeprefix("#").split("/")):
        key = part.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, Mapping) else None
    return target


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def invented_input(workflow: WorkflowDef) -> dict[str, Any]:
    """An input for a workflow: of what it requires and gives no default for, a small value of its type or schema."""
    found: dict[str, Any] = {}
    for declared in workflow.inputs:
        if declared.default is msgspec.UNSET and declared.required:
            kind = {} if declared.type == "any" else {"type": declared.type}
            found[declared.name] = instance({**kind, **_mapping(declared.schema)}, name=declared.name)
    return found


class Cast:
    """Who plays the services, the gates and the people of some workflows, as `answers` says by the ids of steps."""

    def __init__(self, workflows: Sequence[WorkflowDef], answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.answered: dict[str, str] = {}
        """What was done about waits, by step."""
        self._steps = {(workflow.id, step.id): step for workflow in workflows for step in every_step(workflow)}
        known = {step_id for _, step_id in self._steps}
        if strange := sorted(answers.keys() - known):
            raise ConfigError(f"answers: there is no step {strange[0]!r} (there are: {', '.join(sorted(known))})")
        for step_id, given in answers.items():
            moves = given if isinstance(given, list | tuple) else (given,)
            if any(isinstance(move, Expire) for move in moves) and not self._can_expire(step_id):
                raise ConfigError(f"answers: step {step_id!r} does not wait: no time of it can run out")
        self._scripts = {
            step_id: Scripted(answer=given if isinstance(given, Reply) else Reply(given))
            for step_id, given in answers.items()
        }

    def _can_expire(self, step_id: str) -> bool:
        return any(step.type.can_wait for (_, known), step in self._steps.items() if known == step_id)

    def needed(self, kind: str) -> list[str]:
        """The names of the services, gates or workflows that the steps need."""
        needs = {need for step in self._steps.values() for need in step.type.needs(step.config)}
        return sorted(name for what, name in needs if what == kind)

    def users(self, kind: str, name: str) -> list[str]:
        """The ids of the steps that need it."""
        return [step.id for step in self._steps.values() if (kind, name) in set(step.type.needs(step.config))]

    def check(self, invented: Iterable[str]) -> None:
        """Raises ConfigError where no answer of an invented service can be made, or one is given that nobody asks."""
        services = set(invented)
        for step in self._steps.values():
            calls = [name for what, name in step.type.needs(step.config) if what == "service"]
            if not calls:
                continue
            if calls[0] not in services:
                if step.id in self.answers:
                    raise ConfigError(
                        f"answers: step {step.id!r} calls {calls[0]!r}, which is among the services: "
                        "what it answers is its own business"
                    )
                continue
            schema = _schema_of(step.config)
            if step.id in self.answers or schema is None:
                continue
            if problems := schema.problems(instance(schema.source)):
                raise ConfigError(
                    f"step {step.id!r}: no value was found that fits its output schema ({problems[0]}); "
                    f"give answers={{{step.id!r}: …}}"
                )

    def service(self, name: str) -> Mapping[str, Callable[..., Any]]:
        """A service that has every method: it gives what is answered for the step, else an instance of the output
        schema of the step, else what it was given."""
        return _StandIn(self)

    async def call(self, given: Any, context: StepContext) -> Any:
        """What an invented service answers."""
        if context.path.startswith(UNDOING):
            return given
        if context.step_id in self._scripts:
            return await self._scripts[context.step_id]["answer"](given, context=context)
        schema = _schema_of(self._steps[context.workflow_id, context.step_id].config)
        return given if schema is None else instance(schema.source)

    def gate(self, name: str) -> Callable[..., Any]:
        """A gate that is open, or does what is answered for its step: a verdict, or a pair of one and an output."""
        asked: Counter[str] = Counter()

        def resolve(params: Any, context: StepContext) -> Any:
            given = self.answers.get(context.step_id, True)
            if isinstance(given, InTurn):  # a gate is asked until it has decided; the last answer stays
                asked[context.idempotency_key] += 1
                turn = min(asked[context.idempotency_key], len(given.answers))
                given = given.of(f"{context.idempotency_key} {turn}", context.attempt)
            if callable(given):
                given = given(params)
            if isinstance(given, bool):
                given = Gate.APPROVED if given else Gate.REJECTED
            self.answered.setdefault(context.step_id, str(given[0] if isinstance(given, tuple | list) else given))
            return tuple(given) if isinstance(given, list) else given

        return resolve

    def move(self, halt: Halt, made: int) -> Move | None:
        """What is done about a wait."""
        move = self._move(halt, made)
        if move is not None:
            self.answered.setdefault(halt.step_id, _told(move))
        return move

    def _move(self, halt: Halt, made: int) -> Move | None:
        match halt.type:
            case "error":
                return Retry() if not made else Fail()
            case "uncertain":
                return Decide()
            case "gate":
                return Expire() if made < QUESTIONS else None
        given = self.answers.get(halt.step_id, True)
        if isinstance(given, Move):
            return given
        if isinstance(given, Sequence) and given and all(isinstance(each, Move) for each in given):
            return given[made] if made < len(given) else None
        if halt.type == "signal":
            return Send(str(halt.data["name"]), given)
        if halt.type != "approval":
            return Answer({"response": given})
        arguments = dict(given) if isinstance(given, Mapping) else {"approved": given}
        if "by" not in arguments:
            people = halt.data.get("approvers") or ()
            arguments["by"] = people[made] if made < len(people) else f"person {made + 1}"
        return Answer(arguments)


class _StandIn(Mapping[str, Callable[..., Any]]):
    """A service that has every method."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    def __getitem__(self, method: str) -> Callable[..., Any]:
        async def answer(given: Any, /, *, context: StepContext) -> Any:
            return await self._cast.call(given, context)

        return answer

    def __contains__(self, method: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _schema_of(config: Any) -> Schema | None:
    """What the output of a step must look like, if its config says so."""
    found = getattr(getattr(config, "output", None), "schema", None)
    return found if isinstance(found, Schema) else None


def _told(move: Move) -> str:
    """What was done, in a few words.

    >>> _told(Answer({"approved": True, "by": "ann"})), _told(Send("paid", 5))
    ('approved', 'was sent 5')
    """
    match move:
        case Answer(arguments) if "approved" in arguments:
            return "approved" if arguments["approved"] is True else "rejected"
        case Answer(arguments):
            return f"answered {arguments.get('response')!r:.60}"
        case Send(payload=payload):
            return f"was sent {payload!r:.60}"
        case Expire():
            return "timed out"
    return type(move).__name__.lower()
