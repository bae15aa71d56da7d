"""cadence: the updates-to-data ratio is exact, for any rational σ and any number of environments."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from rlscale.cadence import Cadence, schedule

ratios = st.fractions(min_value=Fraction(1, 300), max_value=40, max_denominator=300)
envs = st.integers(1, 5000)


@st.composite
def cadences(draw: st.DrawFn) -> Cadence:
    warmup_steps = draw(st.integers(1, 20_000))
    return schedule(draw(ratios), draw(envs), warmup_steps + draw(st.integers(1, 50_000)), warmup_steps)


@given(cadences())
def test_the_ratio_is_exact_at_the_end(c: Cadence) -> None:
    updates = c.updates_after(c.total)
    assert Fraction(updates, c.training * c.num_envs) == c.utd
    assert c.realised(updates, c.total * c.num_envs) == c.utd


@given(cadences(), st.data())
def test_due_adds_up_to_updates_after(c: Cadence, data: st.DataObject) -> None:
    until = data.draw(st.integers(0, min(c.total, c.warmup + 300)))
    start = max(0, min(until, c.warmup) - 3)  # nothing is due in the warm-up, checked on its last steps
    assert c.updates_after(start) == 0
    assert sum(c.due(step) for step in range(start, until)) == c.updates_after(until)


@given(cadences(), st.data())
def test_updates_are_spread_evenly(c: Cadence, data: st.DataObject) -> None:
    first = c.warmup + data.draw(st.integers(0, c.training))
    due = [c.due(step) for step in range(first, first + 50)]
    assert max(due) - min(due) <= 1
    assert max(due) <= c.max_due
    assert min(due) >= c.max_due - 1


@given(cadences())
def test_nothing_is_due_before_the_warm_up_ends(c: Cadence) -> None:
    assert [c.due(step) for step in range(max(0, c.warmup - 20), c.warmup)] == [0] * min(20, c.warmup)
    assert c.updates_after(0) == 0


@given(cadences(), st.integers(0, 1000))
def test_updates_never_run_ahead_of_the_ratio(c: Cadence, step: int) -> None:
    allowed = c.utd * c.num_envs * step
    assert allowed - 1 < c.updates_after(c.warmup + step) <= allowed


@given(ratios, envs, st.integers(1, 20_000), st.integers(1, 50_000))
def test_a_run_is_as_long_as_asked_and_at_most_one_cycle_longer(
    utd: Fraction, num_envs: int, warmup_steps: int, more: int
) -> None:
    c = schedule(utd, num_envs, warmup_steps + more, warmup_steps)
    cycle = (utd * num_envs).denominator
    assert c.total * num_envs >= warmup_steps + more
    assert c.warmup * num_envs >= warmup_steps > (c.warmup - 1) * num_envs
    assert c.training % cycle == 0
    assert c.total * num_envs < warmup_steps + more + (cycle + 1) * num_envs


def test_the_papers_cases() -> None:
    quarter = schedule(Fraction(1, 4), 1, 1_000_000, 5_000)
    assert (quarter.warmup, quarter.training) == (5_000, 995_000)
    assert [quarter.due(5_000 + k) for k in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]
    four = schedule(Fraction(4), 1, 1_000_000, 5_000)
    assert four.updates_after(four.total) == 4 * 995_000
    pql = schedule(Fraction(1, 512), 4096, 100_000_000, 4096 * 32)  # 8 updates per vector step of 4096 environments
    assert {pql.due(step) for step in range(pql.warmup, pql.warmup + 100)} == {8}
    slow = schedule(Fraction(1, 65_536), 4096, 100_000_000, 4096)  # one update per 16 vector steps
    assert sum(slow.due(step) for step in range(slow.warmup, slow.warmup + 160)) == 10


@given(cadences(), st.integers(500, 50_000), st.lists(st.integers(1, 80_000), max_size=5))
def test_resets_come_when_their_updates_are_made_or_before_their_env_step(
    c: Cadence, every: int, steps: list[int]
) -> None:
    for step in c.resets(every, ()):
        assert c.updates_after(step) // every > c.updates_after(step - 1) // every  # the first step to see it made
    made = c.updates_after(c.total) // every
    assert len(c.resets(every, ())) <= made  # fewer where one vector step makes several times `every` updates
    at = c.resets(None, tuple(steps))
    assert at == sorted({(s - 1) // c.num_envs for s in steps if (s - 1) // c.num_envs < c.total})
    assert c.resets(every, tuple(steps)) == sorted({*c.resets(every, ()), *at})
    assert c.resets(None, ()) == []
