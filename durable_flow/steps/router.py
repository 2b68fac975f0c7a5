"""`router`: goes to the first step whose condition holds."""

from __future__ import annotations

import msgspec

from durable_flow.errors import StepError
from durable_flow.expr.condition import Condition
from durable_flow.steps.base import Done, Outcome, StepType, TargetName, Visit


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go when a condition holds."""

    when: Condition
    then: TargetName


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`routes` are tried in order."""

    routes: list[Route]
    default: TargetName | None = None


class Router(StepType[RouterConfig]):
    name = "router"
    summary = "Goes where the first matching route says."
    Config = RouterConfig
    instant = True
    reaches_next = False

    def evaluate(self, visit: Visit, config: RouterConfig) -> Outcome:
        for index, route in enumerate(config.routes):
            if route.when.evaluate(visit):
                return Done(next=route.then, metadata={"route": index})
        if config.default is None:
            raise StepError("no route matched and there is no default", kind="RoutingError")
        return Done(next=config.default, metadata={"route": "default"})
