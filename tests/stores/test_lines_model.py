"""The lines of keys against a model of them: whatever comes in whatever order, in two processes, on each store."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from durable_flow import ConflictError, KeyTaken
from durable_flow.stores.base import NEVER, Busy, Slot, Store, Stored
from durable_flow.testing.contract import Subject
from durable_flow.testing.contract.build import ANY, START, SettableClock, append, creation, following, row_of
from tests.stores.conftest import STORES

STEPS = 120


class Model:
    """Lines as they are described: a list for each key, in which those who hold it are marked."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.holding: set[str] = set()
        self.limits: dict[str, int] = {}
        self.keys: dict[str, str] = {}

    def free(self, key: str, limit: int) -> bool:
        line = self.lines[key]
        return all(name in self.holding for name in line) and len(line) < limit

    def enter(self, name: str, key: str, limit: int) -> None:
        if self.free(key, limit):
            self.holding.add(name)
        self.lines[key].append(name)
        self.limits[name], self.keys[name] = limit, key

    def leave(self, name: str) -> list[str]:
        line = self.lines[self.keys[name]]
        line.remove(name)
        self.holding.discard(name)
        promoted = []
        for other in line:
            if other not in self.holding:
                if sum(one in self.holding for one in line) >= self.limits[other]:
                    break
                self.holding.add(other)
                promoted.append(other)
        return promoted


@pytest.fixture(params=[name for name in STORES if not name.startswith("sealed")])
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


@pytest.fixture
async def stores(subject: Subject) -> AsyncIterator[list[Store]]:
    clock = SettableClock()
    one = subject.make()
    other = subject.make() if subject.shared else one
    one.clock = other.clock = clock
    async with one:
        if other is not one:
            await other.open()
        yield [one, other]
        await other.close()


@pytest.mark.parametrize("seed", range(4))
async def test_lines_are_what_their_description_says(stores: list[Store], seed: int) -> None:
    chance, model, ended = random.Random(seed), Model(), list[str]()
    for number in range(STEPS):
        store = chance.choice(stores)
        key = chance.choice(["w:a", "w:b"])
        living = sorted(model.keys.keys() & {name for line in model.lines.values() for name in line})
        match chance.randrange(8):
            case 0 | 1 | 2:
                name, limit, waits = f"e{number}", chance.choice([1, 1, 2, 3]), chance.random() < 0.8
                known = chance.choice([None, list(model.lines[key]), model.lines[key][:1]])
                slot = Slot(key=key, limit=limit, waits=waits, known=known)
                refused = (not waits and not model.free(key, limit)) or (
                    known is not None and not set(model.lines[key]) <= set(known)
                )
                commit = creation(name, status="pending", lease_ttl=None, slot=slot)
                if refused:
                    with pytest.raises(KeyTaken) as told:
                        await store.commit(commit)
                    assert told.value.holders == [one for one in model.lines[key] if one in model.holding]
                    assert await store.row(name) is None
                else:
                    await store.commit(commit)
                    model.enter(name, key, limit)
            case 3 | 4 if living:
                name = chance.choice(living)
                row = await row_of(store, name)
                over = following(
                    row, status="completed", finished_at=START, wake_at=None, release=True, frees=model.keys[name]
                )
                assert list((await store.commit(over)).promoted) == model.leave(name)
                ended.append(name)
            case 5 if living:
                name = chance.choice(living)
                await store.remove(name)
                model.leave(name)
                del model.keys[name]
            case 6 if ended:
                name = chance.choice(ended)
                row, key, limit = await row_of(store, name), model.keys[name], model.limits[name]
                again = following(
                    row, status="pending", finished_at=None, slot=Slot(key=key, limit=limit), nonce=f"again-{number}"
                )
                if model.free(key, limit):
                    await store.commit(again)
                    model.enter(name, key, limit)
                    ended.remove(name)
                else:
                    with pytest.raises(KeyTaken):
                        await store.commit(again)
            case 7 if living:
                name = chance.choice(living)
                with pytest.raises(ConflictError):
                    await store.commit(creation(name, status="pending", slot=Slot(key=key, waits=True)))
                await append(store, f"k{number}", kind="signal", execution_id=name)
            case _:
                pass
        for key, line in model.lines.items():
            told = [(one.execution_id, one.holds) for one in await stores[number % 2].line(key)]
            assert told == [(name, name in model.holding) for name in line]
    for line in list(model.lines.values()):
        for name in line:
            claimed = await stores[0].claim(name, owner="me", ttl=30, statuses=ANY)
            assert isinstance(claimed, Stored if name in model.holding else Busy)
            assert ((await row_of(stores[1], name)).wake_at == NEVER) is (name not in model.holding)
    while any(model.lines.values()):  # whoever is left gets its turn
        name = next(name for line in model.lines.values() for name in line if name in model.holding)
        row = await row_of(stores[0], name)
        over = following(row, status="completed", finished_at=START, wake_at=None, frees=model.keys[name])
        assert list((await stores[0].commit(over)).promoted) == model.leave(name)
    assert await stores[1].line("w:a") == await stores[1].line("w:b") == []
