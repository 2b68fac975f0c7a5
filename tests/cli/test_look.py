import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

import durable_flow as df
from tests.cli.conftest import Cli

NESTED = """
id: nested
name: Nested
inputs: {items: array}
steps:
  - {id: setup, type: assign, set: {items: $input.items}, next: each}
  - id: each
    type: loop
    over: $items
    output: done
    on_item_error: collect
    do:
      - id: pay
        type: call
        service: shop
        method: pay
        input: {n: $item}
        retry: {max_attempts: 2, initial_interval: 0}
    next: both
  - id: both
    type: parallel
    branches:
      - {id: quick, type: assign, set: {x: 1}}
      - id: slow
        do: [{id: ask, type: halt, reason: Well?}]
"""


def prepare(cli: Cli, folder: Path, items: list[int]) -> None:
    (folder / "nested.yml").write_text(NESTED)
    (folder / "shop.py").write_text("async def pay(n):\n    if n == 2:\n        raise OSError('two')\n    return n\n")
    done = cli("run", "nested.yml", "--services", "shop", "--id", "n", "--input", f'{{"items": {items}}}')
    assert done.code == 3, done


def test_show_draws_the_steps_as_a_tree(cli: Cli, folder: Path) -> None:
    prepare(cli, folder, [1, 2])
    shown = cli("show", "n").out
    steps = [" ".join(line.split()[:4]) for line in shown[shown.index("  ✔ setup") :].splitlines()]
    names = [line.replace("│", "").replace("├─", "").replace("└─", "").split()[:2] for line in steps]
    assert names == [
        ["✔", "setup"],
        ["✔", "each"],
        ["✔", "[0]"],
        ["✔", "pay"],
        ["↷", "[1]"],
        ["✖", "pay"],
        ["OSError:", "two"],
        ["⏸", "both"],
        ["✔", "quick"],
        ["⏸", "slow"],
        ["⏸", "ask"],
    ]
    assert "2 attempts" in shown
    assert shown.count("OSError: two") == 1


def test_show_as_json_has_the_tree_and_on_request_the_entries(cli: Cli, folder: Path) -> None:
    prepare(cli, folder, [1, 2])
    shown = cli("show", "n", "--json").document
    assert set(shown) == {"execution", "steps", "children"}
    each = shown["steps"][1]
    assert (each["path"], each["type"], each["state"]) == ("each", "loop", "completed")
    failed = each["steps"][1]["steps"][0]
    assert (failed["path"], failed["state"], failed["attempts"], failed["error"]) == (
        "each[1]/pay",
        "failed",
        2,
        "OSError: two",
    )
    entries = cli("show", "n", "--json", "--entries").document["entries"]
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))


def test_show_folds_long_loops(cli: Cli, folder: Path) -> None:
    prepare(cli, folder, [1] * 30 + [2] + [1] * 30)
    shown = cli("show", "n").out
    assert "… 52 more that completed (--all shows them)" in shown
    assert "↷ [30]" in shown
    assert "[20]" not in shown
    assert "✔ [20]" in cli("show", "n", "--all").out


def test_show_has_the_variables_on_request(cli: Cli, folder: Path) -> None:
    prepare(cli, folder, [1])
    assert "variables" not in cli("show", "n").out
    assert "variables\n  done   [1]\n" in cli("show", "n", "--vars").out


def test_visits_are_told_apart(cli: Cli, folder: Path) -> None:
    (folder / "back.yml").write_text(
        "id: back\nname: Back\nsteps:\n"
        "  - {id: ask, type: halt, reason: again?, next: decide}\n"
        "  - id: decide\n    type: router\n    routes: [{when: {field: response, op: truthy}, then: ask}]\n"
        "    default: __FINISHED__\n"
    )
    cli("run", "back.yml", "--id", "b")
    cli("resume", "b", "--response", "true")
    cli("resume", "b", "--response", "false")
    steps = cli("show", "b", "--json").document["steps"]
    assert [step["path"] for step in steps] == ["ask", "decide", "ask#2", "decide#2"]
    assert {step["state"] for step in steps} == {"completed"}


def test_list_pages_through_with_a_cursor(cli: Cli) -> None:
    for number in range(5):
        cli("run", "hello.yml", "--id", f"h{number}")
    seen: list[str] = []
    cursor: tuple[str, ...] = ()
    for _ in range(3):
        page = cli("list", "--json", "--limit", "2", *cursor).document
        seen += [one["id"] for one in page["executions"]]
        cursor = ("--cursor", page["next_cursor"] or "")
    assert seen == ["h4", "h3", "h2", "h1", "h0"]
    assert "there are more: add --cursor " in cli("list", "--limit", "2").err


def test_list_filters(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h", "--label", "env=prod")
    cli("run", "halt.yml", "--id", "q", "--label", "env=prod", "--label", "team=red")

    def ids(*arguments: str) -> list[str]:
        return [one["id"] for one in cli("list", "--json", *arguments).document["executions"]]

    assert ids("--workflow", "hello") == ["h"]
    assert ids("--status", "halted") == ["q"]
    assert ids("--status", "halted", "--status", "completed") == ["q", "h"]
    assert ids("--label", "env=prod") == ["q", "h"]
    assert ids("--label", "env=prod", "--label", "team=red") == ["q"]
    assert ids("--since", "1h") == ["q", "h"]
    assert ids("--since", "2999-01-01") == []
    assert ids("--before", "1h") == []
    assert ids("--before", "2999-01-01T00:00Z") == ["q", "h"]


def test_list_says_where_each_stands(cli: Cli, folder: Path) -> None:
    cli("run", "halt.yml", "--id", "q")
    cli("run", "pay.yml", "--id", "p", "--services", "shop")
    rows = [line.split() for line in cli("list").out.splitlines()]
    assert rows[0] == ["ID", "STATUS", "STARTED", "WORKFLOW", "AT"]
    assert (rows[1][0], rows[1][1], rows[1][-5:]) == (
        "p",
        "failed",
        ["charge:", "CardDeclined:", "no", "money", "for", "5"][-5:],
    )
    assert (rows[2][0], rows[2][1], rows[2][-1]) == ("q", "halted", "ask")


def test_an_empty_list_says_so(cli: Cli) -> None:
    cli("run", "hello.yml")
    done = cli("list", "--workflow", "none")
    assert (done.code, done.out, done.err) == (0, "", "no executions\n")


def test_a_row_that_cannot_be_read_is_listed_all_the_same(cli: Cli, folder: Path) -> None:
    import sqlite3

    cli("run", "hello.yml", "--id", "good")
    cli("run", "hello.yml", "--id", "bad")
    with sqlite3.connect(folder / "durable_flow.db") as database:
        database.execute("UPDATE info SET body = 'junk' WHERE n = (SELECT n FROM executions WHERE id = 'bad')")
    database.close()
    listed = cli("list")
    assert listed.code == 0
    assert "CorruptState" in listed.out
    assert "good" in listed.out
    shown = cli("show", "bad")
    assert shown.code == 2
    assert "other executions are not affected" in shown.err


def test_why_says_since_when_and_what_helps(cli: Cli) -> None:
    cli("run", "approval.yml", "--id", "e")
    told = cli("why", "e").out
    assert told.startswith("⏸ approval by alice, bob: Pay it?\n  step   review\n  since  ")
    assert "→ durable-flow approve e --by alice\n" in told
    document = cli("why", "e", "--json").document
    assert document["status"] == "halted"
    assert document["why"][0]["commands"][0] == "durable-flow approve e --by alice"


def test_why_of_a_failed_execution_is_its_error(cli: Cli) -> None:
    cli("run", "pay.yml", "--id", "p", "--services", "shop")
    told = cli("why", "p").out
    assert "CardDeclined: no money for 5 at charge" in told
    assert "→ durable-flow retry p\n" in told


def test_why_of_a_completed_one_offers_nothing(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h")
    told = cli("why", "h")
    assert (told.code, "→" in told.out) == (0, False)


def test_purge_deletes_what_ended_long_ago(cli: Cli, folder: Path) -> None:
    async def import_old_ones() -> None:
        async with df.open_store("sqlite:///durable_flow.db") as store:
            for number, status in enumerate((df.Status.COMPLETED, df.Status.COMPLETED, df.Status.FAILED)):
                old = datetime(2020, 1, 1, tzinfo=UTC)
                await store.save(
                    df.Execution(id=f"old{number}", workflow_id="w", status=status, created_at=old, finished_at=old)
                )

    cli("run", "hello.yml", "--id", "new")
    cli("run", "halt.yml", "--id", "waiting")
    asyncio.run(import_old_ones())
    assert cli("purge", "--older-than", "90d", "--status", "failed", "--yes").out == "1 execution deleted\n"
    assert cli("purge", "--older-than", "90d", "--json", "-y").document == {"deleted": 2}
    assert [one["id"] for one in cli("list", "--json").document["executions"]] == ["waiting", "new"]


def test_purge_deletes_nothing_unasked(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h")
    done = cli("purge", "--older-than", "1ms", "--status", "completed")
    assert done.code == 2
    assert "delete every completed execution that ended more than 1 ms ago? Nobody can be asked here" in done.err
    assert cli("show", "h").code == 0


@pytest.mark.parametrize("number", ["1", "90", "0.5"])
def test_purge_wants_to_know_a_unit(cli: Cli, number: str) -> None:
    cli("run", "hello.yml", "--id", "h")
    done = cli("purge", "--older-than", number, "--yes")
    assert done.code == 2
    assert f"'{number}' has no unit: write for example {number}d, or {number}s" in done.err
    assert cli("show", "h").code == 0


ONE_AT_A_TIME = """
id: one
name: One
concurrency: {key: $input.customer}
steps:
  - {id: ask, type: halt, reason: Well?}
"""


def test_show_and_why_say_what_an_execution_waits_for_that_has_not_begun(cli: Cli, folder: Path) -> None:
    (folder / "one.yml").write_text(ONE_AT_A_TIME)
    assert cli("run", "one.yml", "--id", "first", "--input", '{"customer": "c-7"}').code == 3

    async def start() -> None:
        async with df.Runtime(f"sqlite:///{folder}/durable_flow.db", workflows=[folder / "one.yml"]) as runtime:
            await runtime.background("one").run({"customer": "c-7"}, execution_id="second")

    asyncio.run(start())
    reason = "execution 'first', which holds key 'c-7'"
    assert reason in " ".join(cli("show", "second").out.split())
    assert reason in " ".join(cli("why", "second").out.split())
    assert cli("show", "second", "--json").document["waits_for"] == reason
    assert "waits_for" not in cli("show", "first", "--json").document
