"""A web service on PostgreSQL, two processes, each request a workflow of ten steps that write down that they were made:
how fast it answers, and what becomes of the requests when one of the processes is killed and started again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.measure import Line, Session
from benchmarks.peers import ENVIRONMENTS, FOLDER, has
from benchmarks.processes import Failed
from benchmarks.service.clients import measured
from benchmarks.service.ledger import STEPS

OURS = "durable_flow, postgresql"
DBOS = "dbos, postgresql"


class Service(NamedTuple):
    """How a process of it is started, the last argument of each, and how many requests it gets."""

    name: str
    command: Sequence[str]
    lasts: Sequence[str]
    total: int


def run(session: Session) -> Iterator[Line]:
    if "postgresql" not in session.families:
        return
    size = session.size
    lease = f"{size.lease:g}"
    services = [Service(OURS, (sys.executable, "-m", "benchmarks.service.ours"), (lease, lease), size.requests)]
    python = ENVIRONMENTS / "dbos" / "bin" / "python"
    missing = None
    if not size.peers:
        missing = "left out"
    elif not has(python, ("dbos", "fastapi", "uvicorn", "asyncpg")):
        missing = "not installed (benchmarks/peers/setup installs it)"
    else:
        command = (str(python), str(FOLDER / "dbos_service.py"))
        services.append(Service(DBOS, command, ("one", "two"), max(size.waiting, size.requests // 5)))
    workload = f"{size.waiting:,} requests in flight, {STEPS} steps each, two processes"
    told = {}
    for service in services:
        folder = session.folder / service.name.partition(",")[0]
        folder.mkdir(parents=True)
        try:
            with session.servers.postgresql() as url:
                work = measured(
                    service.command, service.lasts, url, folder, in_flight=size.waiting, total=service.total
                )
                told[service.name] = asyncio.run(work)
        except Failed as failure:
            yield Line(workload=workload, who=service.name, figure="failed", details=str(failure)[-160:], failed=True)
    for phase, after in (("calm", ""), ("killed", ", one killed and restarted")):
        for service in services:
            if service.name in told:
                yield _line(told, service, phase, workload + after, lease)
    if missing:
        yield Line(workload=workload, who=DBOS, figure="not measured", details=missing)


def _line(told: dict[str, dict[str, Any]], service: Service, phase: str, workload: str, lease: str) -> Line:
    mine = told[service.name]
    figures, found = mine[phase], mine["verdict"]
    details = f"p50 {figures['p50'] * 1000:,.0f} ms, p99 {figures['p99'] * 1000:,.0f} ms, of {service.total:,}"
    whole = not (found.lost or found.doubled or found.keyless)
    is_ours = service.name == OURS
    compared = asked = ""
    if phase == "killed":
        details += (
            f"; {found.lost} lost, {found.doubled} finished steps made again; {found.repeated} that were under way "
            f"made again, {found.keyless} with another key; {mine['retries']:,} tries were repeated"
        )
        details += f"; lease {lease} s" if is_ours else ""
        asked = "none lost, none doubled" if is_ours else ""
    if not is_ours and OURS in told:
        compared = f"ours is {told[OURS][phase]['per_second'] / figures['per_second']:.1f} × as fast"
    return Line(
        workload=workload,
        who=service.name,
        figure=f"{figures['per_second']:,.0f} requests/s",
        details=details,
        compared=compared,
        asked=asked,
        met=whole if asked else None,
        others=figures["others"],
        failed=is_ours and not whole,
    )
