"""Lines as a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Line

TITLES = ("workload", "who", "figure", "", "compared", "asked", "others' CPU")


def cells(line: Line) -> tuple[str, ...]:
    mark = {True: " ✓", False: " ✗", None: ""}[line.met]
    share = "" if line.others is None else f"{line.others:.0%}"
    return line.workload, line.who, line.figure, line.details, line.compared, line.asked + mark, share


def table(lines: Sequence[Line]) -> str:
    """Text in columns, the lines of a workload together below a rule.

    >>> us, them = Line(workload="a", who="us", figure="1 s"), Line(workload="a", who="them", figure="10 s")
    >>> print(table([us, Line(workload="b", who="us"), them]))
    workload | who  | figure |  | compared | asked | others' CPU
    ---------+------+--------+--+----------+-------+------------
    a        | us   | 1 s    |  |          |       |
             | them | 10 s   |  |          |       |
    ---------+------+--------+--+----------+-------+------------
    b        | us   |        |  |          |       |
    """
    order = list(dict.fromkeys(line.workload for line in lines))
    together = sorted(lines, key=lambda line: order.index(line.workload))
    rows = [TITLES, *(cells(line) for line in together)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    rule = "-+-".join("-" * width for width in widths)
    shown = [_row(TITLES, widths)]
    last = None
    for row in rows[1:]:
        if row[0] != last:
            shown.append(rule)
        shown.append(_row(row if row[0] != last else ("", *row[1:]), widths))
        last = row[0]
    return "\n".join(shown)


def _row(row: Sequence[str], widths: Sequence[int]) -> str:
    return " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
