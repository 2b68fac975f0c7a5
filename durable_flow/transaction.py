"""The transaction of a step, as a service sees it: what is executed in it is committed with the step's transition."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from durable_flow.errors import StepError

if TYPE_CHECKING:
    from durable_flow.stores.base import StepTransaction

T = TypeVar("T")
Ask = Callable[[str, "Callable[[StepTransaction], Coroutine[Any, Any, Any]]"], Coroutine[Any, Any, Any]]

UNSUPPORTED, MISUSED = "TransactionUnsupported", "TransactionError"
"""What errors of transactions are called."""

CONTROL = re.compile(
    r"(?:[\s;\ufeff]|--[^\n]*\n|/\*.*?\*/)*"
    r"(begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:transaction|work)\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)
"""Statements that begin or end a transaction."""


def check_statement(sql: object) -> None:
    """Raises StepError for what would end the transaction of a step before the step is over.

    >>> check_statement("SAVEPOINT before")
    >>> check_statement("ROLLBACK TO before")
    >>> check_statement("/* now */ commit")
    Traceback (most recent call last):
        ...
    durable_flow.errors.StepError: COMMIT: the transaction of a step is ended by the engine; leave the block instead
    """
    if not isinstance(sql, str):
        raise StepError(f"a statement is text, not {sql!r:.100}", kind=MISUSED)
    if (found := CONTROL.match(sql)) is not None:
        word = " ".join(found[1].upper().split())
        raise StepError(
            f"{word}: the transaction of a step is ended by the engine; leave the block instead", kind=MISUSED
        )


class AttemptTransaction:
    """The one transaction of one attempt of a step, however many blocks it has. The engine ends it.

    Where the store lets nobody else write meanwhile, `reserve` is awaited before it begins, and `free` called when it
    was rolled back.
    """

    def __init__(
        self,
        begin: Callable[[], StepTransaction],
        *,
        reserve: Callable[[], Awaitable[None]],
        free: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._begin = begin
        self._reserve = reserve
        self._free = free
        self._reserved = False
        self._open: StepTransaction | None = None
        self._ending: list[asyncio.Task[None]] = []
        self._turn = asyncio.Lock()
        self._over = False
        self.blocks = 0
        self.loop = loop

    async def enter(self) -> StepTransaction:
        """A block begins: it goes on with the transaction of the blocks before it, or begins one."""
        if self._over:
            raise StepError("the attempt of the step is over, and with it its transaction", kind=MISUSED)
        if self._ending:
            await asyncio.wait(self._ending)
        if self._open is None:
            self._open = self._begin()
        self.blocks += 1
        return self._open

    async def leave(self, held: StepTransaction, *, failed: bool) -> None:
        """A block ends. One that failed takes everything back; around a failed one nothing can go well."""
        self.blocks -= 1
        if failed:
            await self.roll_back(held)
        elif held is not self._open and not self._over:
            raise StepError("the transaction was rolled back by an exception in an inner block", kind=MISUSED)

    async def ask(self, held: StepTransaction, work: Callable[[StepTransaction], Coroutine[Any, Any, T]]) -> T:
        """What a statement gives, one statement at a time."""
        async with self._turn:
            if self._over:
                raise StepError("the attempt of the step is over, and with it its transaction", kind=MISUSED)
            if held is not self._open:
                raise StepError("this transaction was rolled back", kind=MISUSED)
            if held.exclusive and not self._reserved:
                await self._reserve()
                if held is not self._open:  # it was rolled back meanwhile, so nobody will free what we have only now
                    self._free()
                    raise StepError("this transaction was rolled back", kind=MISUSED)
                self._reserved = True
            return await work(held)

    @property
    def begun(self) -> bool:
        """Whether anything was executed that is to be committed."""
        return self._open is not None and self._open.begun

    async def ready(self) -> None:
        """The service has returned. Raises what would keep its statements from being committed."""
        if self.blocks:
            raise StepError("the service returned inside the block of its transaction", kind=MISUSED)
        if self._open is not None and self._open.begun:
            await self._open.ready()

    def hand_over(self) -> StepTransaction:
        """From now on it is the engine's: nothing more can be executed."""
        assert self._open is not None
        self._over = True
        if self._reserved:
            self._free()
        return self._open

    async def end(self) -> None:
        """The attempt is over without a commit."""
        self._over = True
        await self.roll_back(self._open)
        if self._ending:
            await asyncio.wait(self._ending)

    async def roll_back(self, held: StepTransaction | None) -> None:
        """Takes back what was executed; done to its end, whoever is cancelled."""
        if held is None or held is not self._open:
            return
        self._open = None
        task = self.loop.create_task(self._roll_back(held))
        self._ending.append(task)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])

    async def _roll_back(self, held: StepTransaction) -> None:
        try:
            await held.rollback()
        finally:
            if self._reserved:
                self._reserved = False
                self._free()


class Transaction:
    """What `async with context.transaction()` gives: statements that are committed with the step, or not at all.

    Parameters are positional, in the store's own style (``?`` on SQLite, ``$1`` on PostgreSQL); rows are those of the
    driver, by name and by number: ``row["id"]``, ``row[0]``. Errors of the database are the driver's own.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def execute(self, sql: str, *parameters: Any) -> int:
        """Executes one statement; how many rows it inserted, changed, deleted or found."""
        done: int = await self._ask(sql, lambda held: held.execute(sql, parameters))
        return done

    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Executes one statement for each of many tuples of parameters."""
        given = [tuple(row) for row in rows]
        await self._ask(sql, lambda held: held.executemany(sql, given))

    async def fetch(self, sql: str, *parameters: Any) -> list[Any]:
        """All rows of a query."""
        rows: list[Any] = await self._ask(sql, lambda held: held.fetch(sql, parameters))
        return rows

    async def fetchrow(self, sql: str, *parameters: Any) -> Any:
        """The first row of a query; None if there is none."""
        rows = await self._ask(sql, lambda held: held.fetch(sql, parameters, limit=1))
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row of a query; None if there is none."""
        row = await self.fetchrow(sql, *parameters)
        return None if row is None else row[0]


class BlockingTransaction:
    """The same for a plain service, which runs in a thread: ``with context.transaction() as tx: tx.execute(…)``."""

    def __init__(self, inner: Transaction, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def execute(self, sql: str, *parameters: Any) -> int:
        """See `Transaction.execute`."""
        return _from_thread(self._loop, self._inner.execute(sql, *parameters))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """See `Transaction.executemany`."""
        _from_thread(self._loop, self._inner.executemany(sql, [tuple(row) for row in rows]))

    def fetch(self, sql: str, *parameters: Any) -> list[Any]:
        """See `Transaction.fetch`."""
        return _from_thread(self._loop, self._inner.fetch(sql, *parameters))

    def fetchrow(self, sql: str, *parameters: Any) -> Any:
        """See `Transaction.fetchrow`."""
        return _from_thread(self._loop, self._inner.fetchrow(sql, *parameters))

    def fetchval(self, sql: str, *parameters: Any) -> Any:
        """See `Transaction.fetchval`."""
        return _from_thread(self._loop, self._inner.fetchval(sql, *parameters))


class TransactionBlock:
    """One ``async with context.transaction()``, or in a thread one ``with context.transaction()``."""

    def __init__(self, attempt: AttemptTransaction) -> None:
        self._attempt = attempt
        self._held: StepTransaction | None = None
        self._left = False

    async def __aenter__(self) -> Transaction:
        if self._held is not None:
            raise StepError("call transaction() for each block", kind=MISUSED)
        self._held = await self._attempt.enter()
        return Transaction(self._ask)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._held is not None
        self._left = True
        await self._attempt.leave(self._held, failed=error is not None)

    async def _ask(self, sql: str, work: Callable[[StepTransaction], Coroutine[Any, Any, Any]]) -> Any:
        check_statement(sql)
        if self._left or self._held is None:
            raise StepError("a transaction can be used inside its 'async with' only", kind=MISUSED)
        return await self._attempt.ask(self._held, work)

    def __enter__(self) -> BlockingTransaction:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return BlockingTransaction(_from_thread(self._attempt.loop, self.__aenter__()), self._attempt.loop)
        raise StepError("in an async service write 'async with context.transaction()'", kind=MISUSED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _from_thread(self._attempt.loop, self.__aexit__(kind, error, trace))


def _from_thread(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs in the event loop, for a thread that waits for it."""
    try:
        return asyncio.run_coroutine_threadsafe(work, loop).result()
    except RuntimeError:
        work.close()  # the loop is closed: the attempt is long over
        raise
