"""Aids for testing workflows: a clock that needs no waiting, scripted services, and a crash at every point.

>>> import durable_flow as df
>>> from durable_flow.testing import FakeClock, Reply, Scripted, run
>>> workflow = df.load('''
... id: nap
... name: Nap
... steps:
...   - {id: snooze, type: call, service: Alarm, method: ring, output: result,
...      retry: {max_attempts: 3, initial_interval: 1h, max_interval: 1d, jitter: 0}}
... ''')
>>> async def main():
...     alarm = Scripted(clock, ring=Reply("awake", fails=2))
...     async with df.Runtime("sqlite://:memory:", services={"Alarm": alarm}, clock=clock) as runtime:
...         return await runtime.runner(workflow).run()
>>> clock = FakeClock(start=0)
>>> run(main, clock).output, clock.now()
('awake', 10800.0)

`Explorer` plays a `Scenario` with a fault at every point where it touches the outside: deaths, lost answers,
cancellations, requests that arrive twice, answers that come late, a network that is gone. It does so on a store in
memory, on a file, or on any other store: ``Explorer(scenario, make=lambda: df.open_store(url, schema="crash_tests"))``.
Such a store must be empty and nobody else's, for everything in it is deleted after each case. The same plan then gives
the same trace, however long the store takes: it does one operation at a time, and time is that of a `FakeClock`.

`Interleaver` plays a `Scenario` with two workers and a client on one store in memory. One does one thing at a time, and
a `Schedule` says who: random ones, or all with a few deviations from one working as long as it can. Leases run out,
processes die, stand still and come back; after every move nobody may have changed what is not theirs any more.
"""

from durable_flow.testing.clock import FakeClock, SkippingLoop, run
from durable_flow.testing.crash import Case, Explorer, Report, explore
from durable_flow.testing.ground import FILE, MEMORY
from durable_flow.testing.ids import CountedIds
from durable_flow.testing.interleaver import Failure, Interleaver, Interleaving, Tally
from durable_flow.testing.ledger import Effect, Ledger
from durable_flow.testing.oracle import judge
from durable_flow.testing.points import CANCELS, ERRORS, KILLS, NETWORK, Gate, Killed, Mode, Plan, Point
from durable_flow.testing.scenario import (
    Answer,
    Cancel,
    Decide,
    Expire,
    Fail,
    Move,
    Pass,
    Pause,
    Retry,
    Scenario,
    Send,
    Unpause,
    answer,
)
from durable_flow.testing.schedule import Schedule, Turn
from durable_flow.testing.services import Door, InTurn, Reply, Scripted
from durable_flow.testing.simulation import Coverage, Divergence, Repeat, SimulationReport, simulate
from durable_flow.testing.stage import Stage, fake_time
from durable_flow.testing.store import Watch, WatchedStore
from durable_flow.testing.story import Story, Teller
from durable_flow.testing.trail import Fold
from durable_flow.testing.waiting import wait_until

__all__ = [
    "CANCELS",
    "ERRORS",
    "FILE",
    "KILLS",
    "MEMORY",
    "NETWORK",
    "Answer",
    "Cancel",
    "Case",
    "CountedIds",
    "Coverage",
    "Decide",
    "Divergence",
    "Door",
    "Effect",
    "Expire",
    "Explorer",
    "Fail",
    "Failure",
    "FakeClock",
    "Fold",
    "Gate",
    "InTurn",
    "Interleaver",
    "Interleaving",
    "Killed",
    "Ledger",
    "Mode",
    "Move",
    "Pass",
    "Pause",
    "Plan",
    "Point",
    "Repeat",
    "Reply",
    "Report",
    "Retry",
    "Scenario",
    "Schedule",
    "Scripted",
    "Send",
    "SimulationReport",
    "SkippingLoop",
    "Stage",
    "Story",
    "Tally",
    "Teller",
    "Turn",
    "Unpause",
    "Watch",
    "WatchedStore",
    "answer",
    "explore",
    "fake_time",
    "judge",
    "run",
    "simulate",
    "wait_until",
]
