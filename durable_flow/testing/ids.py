"""`CountedIds`: identifiers that are the same in every run."""

from __future__ import annotations


class CountedIds:
    """Ids for tests: `df.Runtime(…, ids=CountedIds())`. Two runtimes on one store need different prefixes.

    >>> ids = CountedIds("a")
    >>> ids.execution(), ids.execution(), ids.nonce()
    ('a-execution-1', 'a-execution-2', 'a-nonce-1')
    """

    def __init__(self, prefix: str = "test", *, jitter: float = 0.0) -> None:
        self.prefix = prefix
        self._jitter = jitter
        self._counts: dict[str, int] = {}

    def _next(self, kind: str) -> str:
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        return f"{self.prefix}-{kind}-{count}"

    def execution(self) -> str:
        return self._next("execution")

    def owner(self) -> str:
        return self._next("owner")

    def nonce(self) -> str:
        return self._next("nonce")

    def jitter(self) -> float:
        return self._jitter
