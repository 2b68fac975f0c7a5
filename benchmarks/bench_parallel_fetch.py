"""Many workflows at once, each of three branches that fetch a page: what that takes beside one of them, and of that
what is the requests', what the engine's, and what the store's."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.measure import Line, Session, failed, take_turns
from benchmarks.processes import Program, started
from benchmarks.stores import NONE, nowhere, ours
from benchmarks.workloads import BRANCHES

TIMES = 2.0
"""How many times as long as one of them all of them may take, the share of the store left out."""


def run(session: Session) -> Iterator[Line]:
    total, latency = session.size.fetches, session.size.latency
    workload = f"{BRANCHES} branches, each a fetch of {latency * 1000:g} ms"
    command = (sys.executable, "-m", "benchmarks.website")
    website = Program("website", command, lambda folder: nowhere(session.servers, folder))
    programs = [ours(case, session.servers) for case in (NONE, *session.cases)]
    bare = programs[0].name
    with started([website, *programs], session.folder, session.kept) as (playing, failures):
        pages = next((subject for subject in playing if subject.name == website.name), None)
        if pages is None:
            yield from failed(workload, failures)
            return
        playing.remove(pages)
        url = f"{pages.ask('address', within=session.size.limit)['url']}/after/{latency}"
        results = take_turns(
            session, playing, failures, "fetches", warm_up={"total": min(total, 10)}, url=url, total=total
        )
        for program in programs:
            if not results.values(program.name, "together"):
                continue
            fetched, alone, together = (results.median(program.name, key) for key in ("fetched", "alone", "together"))
            details = f"one: {alone * 1000:,.0f} ms; {total * BRANCHES:,} bare requests: {fetched * 1000:,.0f} ms"
            share = 0.0
            if program.name != bare and results.values(bare, "together"):
                share = max(0.0, together - results.median(bare, "together"))
                details += f"; the store's share: {share * 1000:,.0f} ms, {share / together:.0%}"
            times = (together - share) / alone
            yield Line(
                workload=workload,
                who=program.name,
                figure=f"{total:,} at once: {together * 1000:,.0f} ms",
                details=details,
                compared=f"{together / alone:.2f} × one"
                + (f", {times:.2f} × without the store's share" if share else ""),
                asked=f"≤ {TIMES:g} ×",
                met=times <= TIMES if total >= 100 else None,
                others=results.others(program.name),
            )
        yield from failed(workload, failures)
