"""Where a workflow can go, and what is set when it gets there: a must-analysis by fixpoint over the graph of its steps.

A step is one point of the graph. A step with bodies is two: one before them, one after. Sets of variables are the bits
of an integer, so joining two paths is one `&`. Points are taken in an order in which, cycles aside, everything before a
point is finished when its turn comes: each is then looked at once, however many paths lead to it.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Iterator
from typing import Final

from durable_flow.model.frame import BREAK, CONTINUE, FINISHED
from durable_flow.model.workflow import Body, StepDef, WorkflowDef
from durable_flow.steps.base import BodyDef

LAST_ERROR = "_last_error"

OUTCOME = "outcome"
"""What the steps of `finally` find set: how the execution will have ended."""

EVERYTHING: Final = -1
"""The set of all variables: what may be taken for granted where nothing is known."""


class Scope:
    """A body and what is known about its ends."""

    __slots__ = ("definition", "end", "exits", "local", "nodes", "owner", "parent")

    def __init__(self, owner: Node | None, definition: BodyDef | None, local: int) -> None:
        self.owner = owner
        self.parent = None if owner is None else owner.scope
        self.definition = definition
        self.local = local
        self.nodes: dict[str, Node] = {}
        self.end: int | None = None
        self.exits: dict[str, int] = {}

    @property
    def isolated(self) -> bool:
        return self.definition is not None and self.definition.isolated

    def ends_with(self, target: str) -> bool:
        """Whether going to a reserved target is the end of this body."""
        if self.definition is None:
            return False
        return self.definition.loops if target in (BREAK, CONTINUE) else target == FINISHED and self.definition.isolated


class Node:
    """A step in its place. `state` is what is set whenever it begins, None while no path to it is known."""

    __slots__ = ("index", "scope", "scopes", "sets", "state", "step", "targets", "vague")

    def __init__(self, step: StepDef, scope: Scope, index: int, *, vague: bool) -> None:
        self.step = step
        self.scope = scope
        self.index = index
        self.vague = vague
        self.scopes: list[Scope] = []
        self.targets: list[tuple[str, str]] = []
        self.sets = 0
        self.state: int | None = None

    @property
    def can_fail(self) -> bool:
        """A step that neither waits, reads nor does anything outside has no way to fail."""
        kind, config = self.step.type, self.step.config
        return self.vague or not kind.instant or kind.can_wait or any(True for _ in kind.references(config))


class Reach:
    """What one target means from where a step stands: a step, the end of bodies, or a problem."""

    __slots__ = ("found", "problem")

    def __init__(self, *, found: Node | None = None, problem: str | None = None) -> None:
        self.found = found
        self.problem = problem


class Flow:
    """The graph of a workflow. `vague` steps (by `id()`) may lead anywhere and set anything."""

    def __init__(self, workflow: WorkflowDef, vague: Container[int] = ()) -> None:
        self.workflow = workflow
        self.nodes: list[Node] = []
        self.bits: dict[str, int] = {}
        self._vague = vague
        self.top = self._scope(workflow.body, None, None)
        self.handler = self.top.nodes.get(workflow.on_error) if workflow.on_error else None
        self._edges = [self._edges_of(point) for point in range(2 * len(self.nodes))]

    # -- building ------------------------------------------------------------------------------------------------------

    def _scope(self, body: Body, owner: Node | None, definition: BodyDef | None) -> Scope:
        scope = Scope(owner, definition, self.mask(() if definition is None else definition.locals))
        for step in body:
            node = Node(step, scope, len(self.nodes), vague=id(step) in self._vague)
            self.nodes.append(node)
            scope.nodes[step.id] = node
            if step.config is not None:
                node.sets = self.mask(step.type.writes(step.config))
                node.targets = [(key, str(target)) for key, target in step.type.targets(step.config)]
                node.scopes = [self._scope(inner.body, node, inner) for inner in step.type.bodies(step.config)]
        return scope

    def bit(self, name: str) -> int:
        """The bit of a variable."""
        return self.bits.setdefault(name, 1 << len(self.bits))

    def mask(self, names: Iterable[str]) -> int:
        """The bits of several variables."""
        found = 0
        for name in names:
            found |= self.bit(name)
        return found

    # -- where targets lead --------------------------------------------------------------------------------------------

    def reach(self, node: Node, target: str) -> Reach:
        """What a target means for a step."""
        scope: Scope | None = node.scope
        crossed: Scope | None = None
        while scope is not None:
            if target in scope.nodes or scope.ends_with(target):
                if crossed is None:
                    return Reach(found=scope.nodes.get(target))
                assert crossed.owner is not None
                owner = crossed.owner.step.id
                return Reach(problem=f"a branch or concurrent body of {owner!r} cannot be left: {target!r} is outside")
            if scope.isolated and crossed is None:
                crossed = scope
            scope = scope.parent
        if target == FINISHED:
            return Reach()
        if target in (BREAK, CONTINUE):
            return Reach(problem=f"{target!r} can only be used in the body of a loop")
        return Reach(problem="")

    def outgoing(self, node: Node) -> Iterator[tuple[str, str]]:
        """Every (key, target) a step is written with."""
        if node.step.next is not None:
            yield "next", node.step.next
        if node.step.on_error is not None:
            yield "on_error", node.step.on_error
        yield from node.targets

    # -- the graph -----------------------------------------------------------------------------------------------------

    def _edges_of(self, point: int) -> list[int]:
        """The points after a point: 2n is step n, 2n + 1 what comes after its bodies."""
        node = self.nodes[point // 2]
        after = bool(point % 2)
        if after and not node.scopes:
            return []
        found: list[int | None] = []
        if not after:
            found += [2 * next(iter(scope.nodes.values())).index for scope in node.scopes]
            if node.step.on_error is not None:
                found.append(self._hop(node.scope, node.step.on_error))
        if after or not node.scopes:
            found += [self._hop(node.scope, target) for _, target in self._goes_on(node)]
            for scope in node.scopes:
                found += [self._hop(node.scope, target) for target in self._leaving(scope)]
        else:
            found.append(point + 1)
        return [other for other in found if other is not None]

    def _goes_on(self, node: Node) -> Iterator[tuple[str | None, str]]:
        """(key, target) of every way a step goes on; the key of its `follow` is None, the end of its body FINISHED."""
        kind = node.step.type
        if kind.reaches_next and not kind.ends:
            yield None, node.step.follow or ""
        yield from node.targets

    def _hop(self, scope: Scope, target: str) -> int | None:
        """The point a target leads to first; None at the end of the workflow."""
        if target in scope.nodes:
            return 2 * scope.nodes[target].index
        return None if scope.owner is None else 2 * scope.owner.index + 1

    def _leaving(self, scope: Scope) -> set[str]:
        """The targets by which steps of a body leave it."""
        found: set[str] = set()
        for node in scope.nodes.values():
            targets = {target for _, target in self.outgoing(node)}
            for inner in node.scopes:
                if not inner.isolated:
                    targets |= self._leaving(inner)
            found |= {target for target in targets if target not in scope.nodes and not scope.ends_with(target)}
        return found

    def _order(self) -> list[int]:
        """The rank of each point: reverse postorder from the entry, then from the handler."""
        edges = self._edges
        rank = [0] * len(edges)
        seen = [False] * len(edges)
        done = [0] * len(edges)  # how many edges of a point were followed; iterators would wake the garbage collector
        count = len(edges)
        starts = [2 * node.index for node in self.nodes[:1]]
        starts += [] if self.handler is None else [2 * self.handler.index]
        for start in reversed(starts):
            if seen[start]:
                continue
            seen[start] = True
            stack = [start]
            while stack:
                point = stack[-1]
                if done[point] < len(edges[point]):
                    other = edges[point][done[point]]
                    done[point] += 1
                    if not seen[other]:
                        seen[other] = True
                        stack.append(other)
                else:
                    stack.pop()
                    count -= 1
                    rank[point] = count
        return rank

    # -- the fixpoint --------------------------------------------------------------------------------------------------

    def solve(self, given: int = 0) -> None:
        """Finds `state` of every step that can be reached, where so much is set at the beginning."""
        self._rank = self._order()
        self._heap: list[tuple[int, int]] = []
        self._queued: set[int] = set()
        self._last_error = self.bit(LAST_ERROR)
        self._enter(self.nodes[0], given)
        self._run()
        if self.handler is not None and self.handler.state is None:
            self._enter(self.handler, self._last_error)
            self._run()

    def assume(self, node: Node) -> None:
        """Takes it that something leads to a step, and that everything is set there."""
        if node.state is None:
            self._enter(node, EVERYTHING)
            self._run()

    def _run(self) -> None:
        while self._heap:
            _, point = heapq.heappop(self._heap)
            self._queued.discard(point)
            node = self.nodes[point // 2]
            if point % 2:
                self._after(node)
            else:
                self._begin(node)

    def _queue(self, point: int) -> None:
        if point not in self._queued:
            self._queued.add(point)
            heapq.heappush(self._heap, (self._rank[point], point))

    def _enter(self, node: Node, state: int) -> None:
        """One path comes to a step with this set."""
        joined = state if node.state is None else node.state & state
        if joined != node.state:
            node.state = joined
            self._queue(2 * node.index)

    def _begin(self, node: Node) -> None:
        state = node.state
        assert state is not None
        if node.step.on_error is not None:
            self._leave(node.scope, node.step.on_error, state | self._last_error)
        elif self.handler is not None and node.scope is self.top and node.can_fail:
            self._enter(self.handler, state | self._last_error)
        if not node.scopes:
            self._go_on(node, EVERYTHING if node.vague else state)
            return
        for scope in node.scopes:
            first = next(iter(scope.nodes.values()))
            self._enter(first, EVERYTHING if node.vague else state | scope.local)
        self._queue(2 * node.index + 1)

    def _after(self, node: Node) -> None:
        state = node.state
        if state is None:
            return
        whole = state
        for scope in node.scopes:
            definition = scope.definition
            assert definition is not None
            if definition.merges and definition.certain:
                whole |= (EVERYTHING if scope.end is None else scope.end) & ~scope.local
        self._go_on(node, EVERYTHING if node.vague else whole)
        for scope in node.scopes:
            for target, left in scope.exits.items():
                self._leave(node.scope, target, (left & ~scope.local) | (state & scope.local) | node.sets)

    def _go_on(self, node: Node, state: int) -> None:
        for key, target in self._goes_on(node):
            sets = 0 if key in node.step.type.bare else node.sets
            self._leave(node.scope, target, state | sets)

    def _leave(self, scope: Scope, target: str, state: int) -> None:
        """One path goes from a step of this body to a target; no target is the end of the body."""
        if target in scope.nodes:
            self._enter(scope.nodes[target], state)
        elif scope.owner is None:
            return
        elif not target or scope.ends_with(target):
            joined = state if scope.end is None else scope.end & state
            if joined != scope.end:
                scope.end = joined
                self._queue(2 * scope.owner.index + 1)
        elif not scope.isolated:
            known = scope.exits.get(target)
            joined = state if known is None else known & state
            if joined != known:
                scope.exits[target] = joined
                self._queue(2 * scope.owner.index + 1)

    # -- cycles --------------------------------------------------------------------------------------------------------

    def endless(self) -> Iterator[list[Node]]:
        """The cycles that nothing leaves or interrupts, each as its steps in document order."""
        component = self._components()
        members: dict[int, list[int]] = {}
        for point, number in enumerate(component):
            members.setdefault(number, []).append(point)
        for points in members.values():
            inside = set(points)
            if len(points) == 1 and points[0] not in self._edges[points[0]]:
                continue
            if any(self._leaves(point, inside) for point in points):
                continue
            nodes = sorted({point // 2 for point in points})
            if self.nodes[nodes[0]].state is not None:
                yield [self.nodes[index] for index in nodes]

    def _leaves(self, point: int, inside: set[int]) -> bool:
        """Whether the cycle ends or is interrupted at this point."""
        node = self.nodes[point // 2]
        if node.vague or node.step.type.can_wait:
            return True
        targets = []
        if not point % 2:
            if node.step.on_error is not None and node.can_fail:
                targets.append(node.step.on_error)
            if any(2 * next(iter(scope.nodes.values())).index not in inside for scope in node.scopes):
                return True
        if point % 2 or not node.scopes:
            targets += [target for _, target in self._goes_on(node)]
            for scope in node.scopes:
                targets += self._leaving(scope)
        return any(self._hop(node.scope, target) not in inside for target in targets)

    def _components(self) -> list[int]:
        """The number of the strongly connected component of each point (Tarjan's algorithm, without recursion)."""
        edges = self._edges
        index = [-1] * len(edges)
        low = [0] * len(edges)
        component = [-1] * len(edges)
        done = [0] * len(edges)
        stack: list[int] = []
        counter = 0
        for root in range(len(edges)):
            if index[root] >= 0:
                continue
            index[root] = low[root] = counter
            counter += 1
            stack.append(root)
            work = [root]
            while work:
                point = work[-1]
                if done[point] < len(edges[point]):
                    other = edges[point][done[point]]
                    done[point] += 1
                    if index[other] < 0:
                        index[other] = low[other] = counter
                        counter += 1
                        stack.append(other)
                        work.append(other)
                    elif component[other] < 0:
                        low[point] = min(low[point], index[other])
                    continue
                work.pop()
                if work:
                    low[work[-1]] = min(low[work[-1]], low[point])
                if low[point] == index[point]:
                    while True:
                        member = stack.pop()
                        component[member] = index[point]
                        if member == point:
                            break
        return component
