"""The reference workflows: between them every step type, every nesting, every operation of a store.

`SCENARIOS` lists them with the services they call and the people who answer them. The crash harness plays each with a
fault at every point.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import durable_flow as df
from durable_flow.testing import (
    Cancel,
    Expire,
    FakeClock,
    Pass,
    Pause,
    Reply,
    Scenario,
    Scripted,
    Send,
    Unpause,
    answer,
)
from tests.engine.pieces import CREW

HOUR = 3600.0

FOLDER = Path(__file__).parent / "workflows"


def workflow(name: str, *extensions: df.Extension) -> df.WorkflowDef:
    return df.load(FOLDER / f"{name}.yml", extensions=extensions)


def order(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Stock": Scripted(clock, reserve=Reply({"id": "r1"}, fails=1, takes=0.05)),
        "Bank": Scripted(clock, charge=Reply(lambda given: {"charged": given["amount"]}, takes=0.05)),
    }


def parallel(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Users": Scripted(clock, load=Reply({"name": "Ada"}, takes=0.03), rate=Reply(5, fails=1, takes=0.01)),
        "Orders": Scripted(clock, of=Reply([1, 2], takes=0.02)),
        "Mail": Scripted(clock, send=Reply(lambda given: f"sent to {given['name']}")),
    }


def loop(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Stock": Scripted(
            clock,
            pack=lambda given: f"{given['order']}.{given['line']}:{given['item']}",
            ship=lambda given: {"order": given["order"], "parcels": given["parcels"]},
        )
    }


def people(clock: FakeClock) -> Mapping[str, Any]:
    return {"Shop": Scripted(clock, buy=Reply({"box": 7}, takes=0.05), store=lambda given: f"at {given['place']}")}


def children(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Desk": Scripted(
            clock,
            greet=lambda given: f"Hello {given['name']}",
            stamp=lambda given: given["text"].upper(),
            **{"break": Reply(fails=99, error=ValueError("broken"))},
            work=Reply("worked", takes=0.05),
            file=lambda given: given["first"]["said"],
        )
    }


def errors(clock: FakeClock) -> Mapping[str, Any]:
    broken = Reply(fails=99, error=ValueError("exploded"))
    began = clock.now()

    def second(given: Any) -> Any:
        if given["n"] == 2:
            raise ValueError("the second one")
        return given["n"]

    def repair(given: Any) -> Any:
        if clock.now() < began + HOUR:
            raise ValueError("the tools are out until somebody looks")
        return f"rescued from {given['what']}"

    return {
        "Lab": Scripted(
            clock,
            explode=broken,
            mend=lambda given: f"mended {given['what']}",
            second=second,
            calm=Reply("calm", takes=0.05),
            repair=repair,
        )
    }


def crowd(clock: FakeClock) -> Mapping[str, Any]:
    def write(given: Any) -> Any:
        if given["person"] == "nobody":
            raise ValueError("no such person")
        return {"to": given["person"]}

    def place(given: Any) -> Any:
        if given["guest"] is None:
            raise ValueError("an empty chair")
        return f"seat of {given['guest']}"

    return {
        "Post": Scripted(
            clock,
            write=Reply(write, takes=0.02),
            answer=Reply(lambda given: f"{given['to']} comes", takes=0.01),
            place=Reply(place, takes=0.01),
        )
    }


def again(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Job": Scripted(
            clock,
            look=lambda given: given["left"] - 1,
            nudge=lambda given: given["round"],
            ask=lambda given: given["asked"] + 1,
        )
    }


def deep(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Desk": Scripted(
            clock,
            dig=Reply(lambda given: f"gold in {given['region']}", takes=0.02),
            sum=lambda given: given["below"]["right"],
            local=Reply(lambda given: f"local {given['region']}", takes=0.01),
        )
    }


def mixed(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Team": Scripted(
            clock,
            tell=Reply(lambda given: f"told {given['person']}", takes=0.02),
            room=Reply(lambda given: f"room {given['team']}", takes=0.01),
            food=Reply(lambda given: f"food in {given['room']}", takes=0.03),
            meet=lambda given: [given["team"], given["room"], given["food"]],
            fast=Reply("somebody", takes=0.05),
            slow=Reply("somebody", takes=0.5),
        )
    }


def storm(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Site": Scripted(
            clock,
            drive=Reply(lambda given: f"at {given['site']}", takes=0.02),
            enter=Reply(lambda given: f"in {given['site']}", takes=0.01),
            bad=Reply(fails=99, error=ValueError("bad"), takes=0.02),
            long=Reply("long", takes=0.4),
            safe="safe",
        )
    }


def time(clock: FakeClock) -> Mapping[str, Any]:
    class Slow(Scripted):
        """Too slow at first."""

        async def _answer(self, name: str, reply: Reply, given: Any, context: df.StepContext) -> Any:
            if name == "slow" and context.attempt < 3:
                await clock.sleep(5)
            return await super()._answer(name, reply, given, context)

    return {
        "Clock": Slow(
            clock,
            slow=Reply("awake", takes=0.05),
            secret=lambda given: f"opened with {len(given['key'])} and {len(given['pin'])}",
            work=Reply("worked", takes=0.6),
        )
    }


def heart(clock: FakeClock) -> Mapping[str, Any]:
    return {"Slow": Scripted(clock, think=Reply("thought", takes=12))}


def leave(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Map": Scripted(
            clock,
            look=lambda given: given["place"],
            push=Reply(lambda given: given["place"], takes=0.01),
        )
    }


def some(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Jury": Scripted(
            clock,
            first=Reply("yes", takes=0.01),
            never=Reply(fails=99, error=ValueError("no"), takes=0.02),
            think=Reply("hm", takes=0.01),
            speak=Reply("yes", takes=0.01),
            walk=Reply("far", takes=0.4),
            rest="rested",
            hop=Reply("near", takes=0.01),
            stand=Reply("there", takes=0.01),
            close=lambda given: given["votes"],
        )
    }


def mend(clock: FakeClock) -> Mapping[str, Any]:
    began = clock.now()

    def lift(given: Any) -> Any:
        if clock.now() < began + HOUR and "east" in given["found"]:
            raise ValueError("the crane is broken until somebody looks")
        return f"lifted {given['found']}"

    return {
        "Desk": Scripted(
            clock,
            local=Reply(lambda given: f"local {given['region']}", takes=0.01),
            dig=lambda given: f"gold in {given['region']}",
            lift=lift,
        )
    }


def many(clock: FakeClock) -> Mapping[str, Any]:
    return {"Desk": Scripted(clock, tell=lambda given: [given["sum"], given["tagged"]])}


async def clear_up(runtime: df.Runtime, execution_id: str) -> None:
    """Looks the execution up in every way, deletes it, and purges what is old."""
    store = runtime.store
    if await store.load(execution_id) is not None:
        found = await store.find(workflow_id="w12_time", status="completed", limit=1)
        assert [execution.id for execution in found] == [execution_id]
        entries = await store.entries(execution_id)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert "sesame" not in repr(entries), "a secret stands in the trail"
        assert "1234" not in repr(entries), "a secret input is shown"
        await store.delete(execution_id)
    await runtime.pause_queue("mail", by="ann")
    assert [paused.by for paused in await runtime.paused_queues()] == ["ann"]
    await store.purge(older_than=timedelta(days=1))
    assert await store.load(execution_id) is None
    assert await store.entries(execution_id) == []


W12 = workflow("w12_time")
CHANGED = df.load(
    {**W12.document, "name": "In time, another way", "steps": [{"id": "slow", "type": "end", "result": "changed"}]}
)

ORDERS = [{"lines": ["a", "b"]}, {"skip": True}, {"lines": ["c"]}, {"stop": True}, {"lines": ["never"]}]


def desk(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Desk": Scripted(
            clock,
            book=Reply(lambda given: f"{given['paid']} EUR", takes=0.05),
            note=Reply(lambda given: given["what"], takes=0.05),
        )
    }


def paused(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Desk": Scripted(
            clock,
            book=Reply(lambda given: f"booked {given['what']}", takes=0.05),
            dig=Reply(lambda given: f"gold in {given['region']}", takes=0.02),
            local=Reply(lambda given: f"local {given['region']}", takes=0.01),
        )
    }


def opens_later(clock: FakeClock) -> Mapping[str, Any]:
    """A gate that is shut for the first minute after it was asked."""
    asked: list[float] = []

    async def checks(params: Any, context: df.StepContext) -> Any:
        asked.append(clock.now())
        return (df.Gate.APPROVED, params["of"]) if clock.now() >= asked[0] + 60 else df.Gate.PENDING

    return {"checks": checks}


def clocks(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Clock": Scripted(
            clock,
            wind=Reply("wound", fails=2, takes=0.05),
            strike=Reply(lambda given: "ding" * given["times"], takes=0.05),
            ring=Reply("ringing", fails=1),
        )
    }


def agency(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Agency": Scripted(
            clock,
            fly=Reply({"id": "F1"}, takes=0.02),
            room=Reply(lambda given: f"room in {given['city']}", takes=0.01),
            insure=Reply("policy", takes=0.03),
            tour=Reply(lambda given: f"tour with {given['with']}", takes=0.01),
            map="map",
            taxi=Reply(fails=99, error=ValueError("no taxi")),
            visa=Reply(fails=99, error=ValueError("no visa"), takes=0.02),
            tell=Reply(lambda given: given["how"], takes=0.02),
            broken=Reply(fails=99, error=ValueError("broken")),
            thank=Reply(lambda given: given["city"], takes=0.01),
            cancel_flight=Reply("gone", takes=0.02),
            cancel_room=Reply("free", fails=1, takes=0.01),
            uninsure=Reply(fails=99, error=ValueError("too late")),
            cancel_tour="no tour",
            never="never",
        )
    }


def crew(clock: FakeClock) -> Mapping[str, Any]:
    def tool(given: Any) -> Any:
        if given["tool"] == 3:
            raise df.NonRetryableError("broken")
        return given["tool"]

    return {
        "Model": Scripted(
            clock,
            ask=Reply(lambda given: len(given["said"]), takes=0.02),
            tool=Reply(tool, takes=0.05, fails=1),
        )
    }


SCENARIOS = (
    Scenario(
        name="w01", workflow=workflow("w01_order"), services=order, input={"items": [{"price": 60}, {"price": 50}]}
    ),
    Scenario(name="w02", workflow=workflow("w02_parallel"), services=parallel, input={"user": "ada"}),
    Scenario(name="w03", workflow=workflow("w03_loop"), services=loop, input={"orders": ORDERS}),
    Scenario(
        name="w04",
        workflow=workflow("w04_people"),
        services=people,
        input={"amount": 10},
        moves={
            "ask": [answer(approved=True, by="ann"), answer(approved=True, by="cid", comment="fine")],
            "where": answer(response="the cellar"),
            "again": answer(approved=False, comment="too damp"),
        },
    ),
    Scenario(
        name="w05",
        workflow=workflow("w05_children"),
        others=[workflow("w05_child"), workflow("w05_broken"), workflow("w05_apart")],
        services=children,
        input={"name": "Ada"},
        moves={"sign": answer(approved=True, by="ann")},
    ),
    Scenario(name="w06", workflow=workflow("w06_errors"), services=errors, retries=1),
    Scenario(
        name="w07",
        workflow=workflow("w07_crowd"),
        services=crowd,
        input={"people": ["ann", "bob", "nobody", "cid", "dan"]},
    ),
    Scenario(name="w08", workflow=workflow("w08_again"), services=again, moves={"pause": answer(response="yes")}),
    Scenario(
        name="w09",
        workflow=workflow("w09_deep"),
        others=[workflow("w09_below")],
        services=deep,
        input={"regions": ["north", "south"]},
        moves={"check": answer(response="right")},
    ),
    Scenario(
        name="w10",
        workflow=workflow("w10_mixed"),
        services=mixed,
        input={"teams": [{"name": "red", "people": ["ann", "bob"]}, {"name": "blue", "people": ["cid"]}]},
        moves={"sure": answer(approved=True, by="ann")},
        racing=["race"],
    ),
    Scenario(
        name="w11",
        workflow=workflow("w11_storm"),
        others=[workflow("w11_visit")],
        services=storm,
        input={"sites": ["hill", "lake", "wood"]},
        moves={"allow": answer(approved=True)},
        racing=["all/quick/risky"],
    ),
    Scenario(
        name="w12",
        workflow=W12,
        later=CHANGED,
        services=time,
        input={"pin": "1234"},
        options={"secrets": {"key": "open sesame"}},
        moves={"short": Expire(), "wait": Expire(), "agree": answer(approved=True)},
        epilogue=clear_up,
    ),
    Scenario(
        name="w13",
        workflow=workflow("w13_cancel"),
        others=[workflow("w09_below")],
        services=deep,
        moves={"check": Cancel(by="ann")},
    ),
    Scenario(name="w14", workflow=workflow("w14_heart"), services=heart),
    Scenario(
        name="w15",
        workflow=workflow("w09_deep"),
        others=[workflow("w09_below")],
        services=deep,
        input={"regions": ["north"]},
        moves={"check": answer(response="right")},
        restart="run",
    ),
    Scenario(name="w16", workflow=workflow("w16_leave"), services=leave, racing=["crowd#2"]),
    Scenario(name="w17", workflow=workflow("w17_some"), services=some, racing=["two", "any"]),
    Scenario(
        name="w18",
        workflow=workflow("w18_late"),
        others=[workflow("w09_below")],
        services=deep,
        moves={"check": Pass(31 * 24 * HOUR)},
    ),
    Scenario(name="w19", workflow=workflow("w19_mend"), others=[workflow("w19_below")], services=mend, retries=1),
    Scenario(name="w20", workflow=workflow("w20_many"), services=many),
    Scenario(name="w21", workflow=workflow("w21_time"), services=clocks),
    Scenario(
        name="w22",
        workflow=workflow("w22_outside"),
        services=desk,
        gates=opens_later,
        moves={
            "ask": [Send("paid", 25), answer()],
            "checks": Pass(61),
            "go": Send("go", "up"),
        },
    ),
    Scenario(
        name="w23",
        workflow=workflow("w23_worker"),
        services=desk,
        moves={"late": Pass(21)},
        restart="run",
        worker=True,
    ),
    Scenario(
        name="w24",
        workflow=workflow("w24_paused"),
        others=[workflow("w09_below")],
        services=paused,
        moves={
            "ask": [Pause(by="ann"), answer(response="in")],
            "check": [Pause(), answer(response="right")],
            "hurry": [Pause(by="bob"), Expire()],
            "": [Unpause(by="ann"), Unpause(by="ann")],
        },
    ),
    Scenario(
        name="w40",
        workflow=workflow("w40_turns"),
        others=[workflow("w40_turn")],
        services=children,
        input={"of": "c-7"},
    ),
    Scenario(
        name="w41",
        workflow=workflow("w41_crew", CREW),
        services=crew,
        options={"extensions": [CREW]},
        beside=["tool"],
    ),
    Scenario(name="w30", workflow=workflow("w30_saga"), services=agency, input={"cities": ["Rome", "Oslo"]}),
    Scenario(
        name="w31",
        workflow=workflow("w31_undone"),
        others=[workflow("w31_below")],
        services=agency,
        moves={"agree": Cancel(by="ann"), "sure": Cancel(by="ann")},
    ),
)
