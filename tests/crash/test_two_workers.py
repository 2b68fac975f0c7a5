"""Two workers and a client on one store: what the interleaver does, and the short form of what it plays."""

import logging
import os

import msgspec
import pytest

from durable_flow.testing import Interleaver, Schedule, Turn
from tests.crash.matches import BY_NAME, CANCELLED, MATCHES, Job, once_bad, play


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "durable_flow")


def interleaver(name: str = "chain", **options: bool) -> Interleaver:
    return BY_NAME[name].interleaver(**options)


def moves(trace: list[str]) -> list[str]:
    """A trace without the numbers and the places."""
    return [" ".join(line.split()[1:4]) for line in trace]


@pytest.mark.parametrize("job", list(once_bad()), ids=lambda job: f"{job.match}-{job.kind}-{job.schedule}")
def test_what_was_bad_once_is_good(job: Job) -> None:
    play(job).raise_for_bad()


@pytest.mark.parametrize("name", BY_NAME)
def test_random_schedules_make_no_difference(name: str) -> None:
    play(Job(match=name, first=1_000_000, count=6)).raise_for_bad()


@pytest.mark.parametrize("name", CANCELLED)
def test_a_cancellation_wins_or_loses(name: str) -> None:
    play(Job(match=name, kind="cancelling", first=1_000_000, count=6)).raise_for_bad()


@pytest.mark.parametrize("match", MATCHES, ids=lambda match: match.name)
def test_the_same_schedule_gives_the_same_trace(match: object) -> None:
    with match.interleaver() as played:  # type: ignore[attr-defined]
        sown = played.sown(7)
        again = played.play(Schedule.parse(str(sown.schedule)))
        assert again.trace == sown.trace
        assert again.hash == sown.hash == played.sown(7).hash
        assert again.hash != played.reference.hash


def test_without_deviations_one_process_does_everything() -> None:
    with interleaver() as played:
        assert played.reference is not None
        assert moves(played.reference.trace)[:4] == [
            "A store commit", "A effect Desk.work", "A answer Desk.work", "A store commit",
        ]  # fmt: skip
        assert {step for steps in played.reference.order.values() for step, _ in steps} == {"a", "b", "c"}


def test_a_process_that_stood_still_is_shut_out_and_its_effect_is_licensed() -> None:
    with interleaver() as played:
        story = played.play(Schedule.parse("3 stall A, 4 tick, 40 calm"))
        assert story.problems == []
        assert story.shut_out
        assert story.referee.effects.counts()["x", "a"] == 2


def test_a_dead_process_is_replaced_and_a_lost_wake_up_is_no_loss() -> None:
    with interleaver("approval, by the client") as played:
        story = played.play(Schedule.parse("2 kill A, 5 kill B, 9 drop C, 11 drop B, 20 calm"))
        assert story.problems == []
        assert {"- kill A", "- kill B", "- restart A"} <= {line[5:] for line in story.trace}


def test_moves_that_cannot_be_made_are_none() -> None:
    with interleaver() as played:
        story = played.play(Schedule.parse("2 wake A, 3 restart B, 4 C, 5 kill C, 6 A.9, 7 drop A, 30 calm"))
        assert played.reference is not None
        assert [str(turn) for turn in story.schedule.turns.values()] in ([], ["calm"])
        assert moves(story.trace) == moves(played.reference.trace)


def test_an_execution_that_never_ends_is_told_with_what_everybody_waits_for() -> None:
    with interleaver("approval, by the client") as played:
        played.answering = "B"  # who knows no answer, once there are no moves
        played.scenario = msgspec.structs.replace(played.scenario, moves={})
        problems = played.play(Schedule.parse("5 calm")).problems
    assert problems[0].startswith("O9 not over after 20 ticks; x is halted at ask")
    assert "waits for ['x:ask']" in problems[0]


def test_schedules_are_all_placements_of_a_few_deviations() -> None:
    with interleaver() as played:
        assert sum(1 for _ in played.schedules(3)) == 32_551
        assert sum(1 for _ in played.schedules(2)) == 1_771


def test_an_exhaustive_search_plays_what_makes_a_difference_once() -> None:
    with interleaver() as whole:
        whole.exhaust(2, points=4)
        alone = whole.tally.cases
        traces = {whole.play(schedule).hash for schedule in whole.schedules(2, points=4)}
    cases = 0
    for part in range(3):
        with interleaver() as some:
            some.exhaust(2, points=4, part=part, parts=3)
            some.tally.raise_for_bad()
            cases += some.tally.cases - 1  # the one without deviations, which each begins with
    assert cases == alone - 1
    assert alone - 1 >= len(traces)


def test_a_schedule_is_written_and_read() -> None:
    text = "1 B, 2 A.3, 3 switch, 4 tick, 5 tick/3, 6 kill, 7 kill C, 8 stall A, 9 wake A, 10 drop B, 11 skew A -3600"
    assert str(Schedule.parse(text)) == text
    with pytest.raises(ValueError, match="is not a move"):
        Schedule.parse("1 jump")
    with pytest.raises(ValueError, match="not a numbered move"):
        Schedule.parse("tick")


def test_a_schedule_gets_smaller_one_deviation_at_a_time() -> None:
    schedule = Schedule.parse("2 tick, 3 kill A")
    assert {str(smaller) for smaller in schedule.smaller()} == {
        "2 tick",
        "3 kill A",
        "1 tick, 3 kill A",
        "1 kill A, 2 tick",
    }
    assert schedule.with_turn(2, Turn("calm")) == Schedule.parse("2 calm, 3 kill A")


if "SCHEDULE" in os.environ:  # SCHEDULE="match|kind|schedule", as a failure prints it

    def test_one_schedule() -> None:
        match, kind, schedule = os.environ["SCHEDULE"].split("|")
        play(Job(match=match, kind=kind, schedule=schedule)).raise_for_bad()
