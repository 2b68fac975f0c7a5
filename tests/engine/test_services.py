"""How services are called: what is registered, with which parameters, where."""

from __future__ import annotations

import asyncio
import math
import textwrap
import threading
from collections.abc import Mapping
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World

CALL = "- {{id: a, type: call, service: s, method: {method}, input: {input}, output: result}}\n"


async def call(world: World, service: Any, method: str = "do", input: str = "null") -> df.ExecutionResult:
    """Runs a workflow that calls a method of the service registered as `s`."""
    await world.restart(services={"s": service})
    return await world.run(CALL.format(method=method, input=input))


class Shop:
    """A service of every kind of method."""

    rate = 2

    def __init__(self) -> None:
        self.names = {"a": "Ada"}

    async def greet(self, name: str, greeting: str = "Hello") -> str:
        return f"{greeting}, {name}!"

    def plain(self, name: str) -> str:
        return f"plain {name}"

    async def nothing(self) -> str:
        return "nothing"

    async def one(self, order: Any) -> Any:
        return ["one", order]

    async def everything(self, **fields: Any) -> dict[str, Any]:
        return fields

    async def positional(self, value: Any, /) -> Any:
        return ["positional", value]

    async def with_context(self, name: str, context: df.StepContext) -> list[str]:
        return [name, context.step_id]

    @classmethod
    def of_class(cls, n: int) -> int:
        return n * cls.rate

    @staticmethod
    def static(n: int) -> int:
        return n + 1

    def _private(self) -> str:
        return "private"


async def test_a_mapping_becomes_keyword_arguments(world: World) -> None:
    assert (await call(world, Shop(), "greet", "{name: Ada, greeting: Hi}")).output == "Hi, Ada!"


async def test_parameters_with_defaults_can_be_left_out(world: World) -> None:
    assert (await call(world, Shop(), "greet", "{name: Ada}")).output == "Hello, Ada!"


async def test_another_value_becomes_the_single_argument(world: World) -> None:
    assert (await call(world, Shop(), "greet", "Ada")).output == "Hello, Ada!"


async def test_a_mapping_that_does_not_fit_becomes_the_single_argument(world: World) -> None:
    assert (await call(world, Shop(), "one", "{id: 7}")).output == ["one", {"id": 7}]


async def test_a_mapping_goes_whole_to_a_positional_parameter(world: World) -> None:
    assert (await call(world, Shop(), "positional", "{value: 7}")).output == ["positional", {"value": 7}]


async def test_a_callable_without_parameters_is_passed_none(world: World) -> None:
    assert (await call(world, Shop(), "nothing")).output == "nothing"


async def test_an_input_for_a_callable_without_parameters_is_a_step_error(world: World) -> None:
    result = await call(world, Shop(), "nothing", "{name: Ada}")
    assert result.error is not None
    assert "takes no parameters" in result.error


async def test_a_callable_of_any_keywords_takes_the_whole_mapping(world: World) -> None:
    assert (await call(world, Shop(), "everything", "{a: 1, b: 2}")).output == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "kind", [str, int, float, bool, list, list[int], str | None, int | str, tuple[int, ...]], ids=str
)
async def test_a_mapping_with_a_wrong_key_is_no_text_number_or_list(world: World, kind: Any) -> None:
    async def charge(total: Any) -> None:
        raise AssertionError("it was called")

    charge.__annotations__["total"] = kind
    result = await call(world, {"charge": charge}, "charge", "{totl: 5}")
    assert result.error == "ServiceError: s.charge takes (total): missing total; unknown totl"


@pytest.mark.parametrize("kind", [dict, dict[str, int], Mapping[str, Any], Any, object, int | dict[str, int]], ids=str)
async def test_a_mapping_with_another_key_may_be_what_the_parameter_takes(world: World, kind: Any) -> None:
    async def charge(total: Any) -> Any:
        return total

    charge.__annotations__["total"] = kind
    assert (await call(world, {"charge": charge}, "charge", "{totl: 5}")).output == {"totl": 5}


async def test_a_value_for_a_callable_of_keywords_only_is_a_step_error(world: World) -> None:
    result = await call(world, Shop(), "everything", "5")
    assert result.error is not None
    assert "not a mapping" in result.error


async def test_a_mismatch_names_the_parameters(world: World) -> None:
    result = await call(world, Shop(), "greet", "{nam: Ada, greeting: Hi}")
    assert result.failed
    assert result.error is not None
    assert "s.greet takes (greeting, name): missing name; unknown nam" in result.error


async def test_a_mismatch_is_not_tried_again(world: World) -> None:
    await world.restart(services={"s": Shop()})
    result = await world.run("""
        - {id: a, type: call, service: s, method: greet, input: {}, retry: {max_attempts: 5}}
    """)
    assert result.error_info is not None
    assert result.error_info.attempts == 1


async def test_the_context_goes_to_the_parameter_annotated_with_it(world: World) -> None:
    assert (await call(world, Shop(), "with_context", "{name: Ada}")).output == ["Ada", "a"]


async def test_the_context_cannot_be_given_by_the_definition(world: World) -> None:
    result = await call(world, Shop(), "with_context", "{name: Ada, context: forged}")
    assert result.failed


@pytest.mark.parametrize("made", [Shop, Shop()], ids=["class", "object"])
async def test_methods_of_objects_and_classes_can_be_called(world: World, made: Any) -> None:
    assert (await call(world, made, "plain", "Ada")).output == "plain Ada"


@pytest.mark.parametrize("made", [Shop, Shop()], ids=["class", "object"])
async def test_class_methods_and_static_methods_can_be_called(world: World, made: Any) -> None:
    await world.restart(services={"s": made})
    result = await world.run("""
        - {id: a, type: call, service: s, method: of_class, input: 4, output: x, next: b}
        - {id: b, type: call, service: s, method: static, input: 4, output: y, next: c}
        - {id: c, type: end, result: [$x, $y]}
    """)
    assert result.output == [8, 5]


async def test_a_class_method_does_not_shadow_an_instance_method(world: World) -> None:
    class Named:
        def name(self) -> str:
            return "instance"

    assert (await call(world, Named, "name")).output == "instance"


async def test_a_mapping_of_callables_is_a_service(world: World) -> None:
    assert (await call(world, {"double": lambda n: n * 2}, "double", "4")).output == 8


async def test_a_module_is_a_service(world: World) -> None:
    assert (await call(world, textwrap, "dedent", "' 12'")).output == "12"


async def test_what_a_module_imports_is_not_part_of_the_service(world: World) -> None:
    result = await call(world, textwrap, "re", "x")
    assert result.error is not None
    assert result.error.startswith("ServiceNotFound")


async def test_a_builtin_of_unknown_parameters_takes_the_single_argument(world: World) -> None:
    assert (await call(world, {"floor": math.floor}, "floor", "4.7")).output == 4


@pytest.mark.parametrize("method", ["_private", "__init__", "__class__", "rate", "names", "missing"])
async def test_what_is_private_or_no_method_cannot_be_called(world: World, method: str) -> None:
    result = await call(world, Shop(), method)
    assert result.error_info is not None
    assert result.error_info.type in ("ServiceError", "ServiceNotFound")


@pytest.mark.parametrize(
    ("service", "method"), [("Kernel", "system"), ("os", "system"), ("builtins", "eval"), ("File", "read")]
)
async def test_a_service_that_is_not_registered_cannot_be_called(world: World, service: str, method: str) -> None:
    result = await world.run(f"- {{id: a, type: call, service: {service}, method: {method}, input: x}}\n")
    assert result.error_info is not None
    assert result.error_info.type == "ServiceNotFound"
    assert "desk" in result.error_info.message


async def test_the_resolver_is_asked_for_what_is_not_registered(world: World) -> None:
    await world.restart(service_resolver={"late": Shop()}.get)
    result = await world.run("- {id: a, type: call, service: late, method: plain, input: Ada, output: result}\n")
    assert result.output == "plain Ada"


async def test_a_resolver_that_knows_nothing_reaches_nothing(world: World) -> None:
    await world.restart(service_resolver=lambda name: None)
    result = await world.run("- {id: a, type: call, service: os, method: system, input: 'true'}\n")
    assert result.error_info is not None
    assert result.error_info.type == "ServiceNotFound"


async def test_a_service_can_be_registered_with_a_decorator(world: World) -> None:
    @world.runtime.service
    class Prices:
        def total(self, n: int) -> int:
            return n * 2

    result = await world.run("- {id: a, type: call, service: Prices, method: total, input: 4, output: result}\n")
    assert (result.output, Prices().total(1)) == (8, 2)


async def test_sync_services_run_outside_the_event_loop(world: World) -> None:
    loop_thread = threading.get_ident()
    result = await call(world, {"do": lambda: threading.get_ident() != loop_thread})
    assert result.output is True


async def test_sync_services_do_not_block_async_ones(world: World) -> None:
    gate = threading.Event()

    async def free() -> None:
        gate.set()

    await world.restart(services={"s": {"wait": lambda: gate.wait(10), "free": free}})
    result = await world.run("""
        - id: both
          type: parallel
          output: result
          branches:
            - {id: blocked, type: call, service: s, method: wait}
            - {id: other, type: call, service: s, method: free}
    """)
    assert result.output == [True, None]


async def test_async_services_run_in_the_event_loop(world: World) -> None:
    async def do() -> bool:
        return asyncio.get_running_loop() is loop

    loop = asyncio.get_running_loop()
    assert (await call(world, {"do": do})).output is True


async def test_a_sync_callable_may_return_an_awaitable(world: World) -> None:
    async def later() -> int:
        return 5

    assert (await call(world, {"do": lambda: later()})).output == 5


async def test_the_exception_of_a_sync_service_is_a_step_error(world: World) -> None:
    def do() -> None:
        raise ValueError("no")

    assert (await call(world, {"do": do})).error == "ValueError: no"


async def test_stop_iteration_of_a_service_is_a_step_error(world: World) -> None:
    def do() -> None:
        next(iter(()))

    result = await call(world, {"do": do})
    assert result.error_info is not None
    assert result.error_info.type == "RuntimeError"


async def test_a_callable_object_is_called_with_its_parameters(world: World) -> None:
    class Doubler:
        async def __call__(self, n: int) -> int:
            return n * 2

    assert (await call(world, {"do": Doubler()}, "do", "{n: 4}")).output == 8


async def test_the_context_says_what_is_called(world: World) -> None:
    seen: list[df.StepContext] = []

    async def do(context: df.StepContext) -> None:
        seen.append(context)

    await world.restart(services={"s": {"do": do}})
    await world.run(
        """
        - id: each
          type: loop
          over: [1]
          do:
            - {id: a, type: call, service: s, method: do, timeout: 5}
        """,
        execution_id="e",
    )
    context = seen[0]
    assert (context.execution_id, context.workflow_id, context.step_id) == ("e", "flow", "a")
    assert (context.path, context.attempt, context.idempotency_key) == ("each[0]/a", 1, "e:each[0]/a")
    assert context.deadline == world.clock.now() + 5


async def test_the_idempotency_key_is_the_same_on_every_attempt(world: World) -> None:
    world.desk.answers["pay"] = [ConnectionError(), ConnectionError(), "paid"]
    await world.run(
        "- {id: a, type: call, service: desk, method: pay, retry: {max_attempts: 3, initial_interval: 0}}\n",
        execution_id="e",
    )
    assert world.desk.keys("pay") == ["e:a"] * 3
    assert [context.attempt for context in world.desk.contexts] == [1, 2, 3]


async def test_two_services_cannot_have_one_name(world: World) -> None:
    with pytest.raises(df.ConfigError, match="two services named 'desk'"):
        world.runtime.engine.services.register("desk", object())


@pytest.mark.parametrize("name", ["_x", "", 5])
async def test_a_service_needs_a_public_name(world: World, name: Any) -> None:
    with pytest.raises(df.ConfigError, match="name for a service"):
        df.Runtime("sqlite://:memory:", services={name: object()})
