"""Schedules: who moves when, where several processes work on one store, and what goes wrong meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

PROCESSES = "ABC"
"""Two workers, and a client that answers, signals or cancels."""

ALONE = ("switch", "tick", "tick/3", "calm")
"""Moves that are about no process, or about whichever moves at present."""

FAULTS = ("kill", "restart", "leave", "stall", "wake", "drop")
"""Moves that happen to a process."""


FEW = 6
"""How many deviations are moved about when a schedule is made smaller: of more, some are left out first."""


class Turn(msgspec.Struct, frozen=True):
    """One move of a schedule.

    *run* lets a process do the next thing it wants to do (`number` 2: the one after that), *switch* lets another one
    than the present one do so. *tick* lets the time of a lease pass and a second more, *tick/3* a third of it. *kill*:
    the process is dead. *restart*: another one takes its place. *leave*: it ends in order and gives its leases back.
    *stall*: it does nothing until it is woken by *wake*, and then does not know how long that was. *drop*: the oldest
    wake-up on its way to the process is lost. *skew* sets its clock by `seconds`. *calm*: from here on nothing goes
    wrong.

    >>> Turn.parse("A.2"), Turn.parse("skew B -3600")
    (Turn(verb='run', process='A', number=2, seconds=0.0), Turn(verb='skew', process='B', number=1, seconds=-3600.0))
    >>> [str(Turn.parse(text)) for text in ("B", "C.3", "tick/3", "kill", "stall A", "skew A +3600")]
    ['B', 'C.3', 'tick/3', 'kill', 'stall A', 'skew A +3600']
    """

    verb: str
    process: str = ""
    number: int = 1
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Turn:
        """The move that `str` gave. Raises ValueError."""
        if text in ALONE or text == "kill":
            return cls(text)
        if found := re.fullmatch(rf"([{PROCESSES}])(?:\.(\d+))?", text):
            return cls("run", found[1], int(found[2] or 1))
        if found := re.fullmatch(rf"({'|'.join(FAULTS)}) ([{PROCESSES}])", text):
            return cls(found[1], found[2])
        if found := re.fullmatch(rf"skew ([{PROCESSES}]) ([+-]\d+)", text):
            return cls("skew", found[1], seconds=float(found[2]))
        raise ValueError(f"{text!r} is not a move; write for example 'B', 'tick', 'kill A' or 'skew B -3600'")

    def __str__(self) -> str:
        if self.verb == "run":
            return self.process if self.number == 1 else f"{self.process}.{self.number}"
        told = f"{self.verb} {self.process}".strip()
        return f"{told} {self.seconds:+.0f}" if self.verb == "skew" else told


class Schedule(msgspec.Struct, frozen=True):
    """What deviates from the default, which is that whoever moved last moves on as long as there is something to do.

    `turns` are moves by their number, from 1. Every interleaving is that of a schedule, and it is always the same.

    >>> schedule = Schedule.parse("3 switch, 7 tick, 9 kill A, 20 calm")
    >>> str(schedule), len(schedule)
    ('3 switch, 7 tick, 9 kill A, 20 calm', 4)
    >>> str(schedule.with_turn(8, "B"))
    '3 switch, 7 tick, 8 B, 9 kill A, 20 calm'
    """

    turns: Mapping[int, Turn] = {}

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule that `str` gave. Raises ValueError."""
        turns: dict[int, Turn] = {}
        for piece in filter(None, (piece.strip() for piece in text.split(","))):
            found = re.fullmatch(r"(\d+) (.+)", piece)
            if found is None:
                raise ValueError(f"{piece!r} is not a numbered move; write for example '7 tick'")
            turns[int(found[1])] = Turn.parse(found[2])
        return cls(turns)

    def __str__(self) -> str:
        return ", ".join(f"{number} {turn}" for number, turn in sorted(self.turns.items()))

    def __len__(self) -> int:
        return len(self.turns)

    def with_turn(self, number: int, turn: str | Turn) -> Schedule:
        """The same with one more deviation, or another one at this number."""
        return Schedule({**self.turns, number: Turn.parse(turn) if isinstance(turn, str) else turn})

    def smaller(self) -> Iterator[Schedule]:
        """Schedules that are simpler: one deviation less, or one of them earlier."""
        for number in self.turns:
            yield Schedule({other: turn for other, turn in self.turns.items() if other != number})
        for number, turn in self.turns.items() if len(self) <= FEW else ():
            for earlier in range(1, number):
                if earlier not in self.turns:
                    rest = {other: kept for other, kept in self.turns.items() if other != number}
                    yield Schedule({**rest, earlier: turn})
