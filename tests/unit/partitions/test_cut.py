"""A consistent cut, against a plain copy of everything at its moment."""

from hypothesis import given
from hypothesis import strategies as st

from partitions.cut import Cut
from partitions.job import Job, Run, State


def job(number: int) -> Job:
    return Job(number.to_bytes(16, "big"), number, 0, 0, run=Run(1))


@given(
    jobs=st.integers(0, 30),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(1, 7)),
            st.tuples(st.just("change"), st.integers(1, 40)),
        ),
        max_size=60,
    ),
)
def test_every_job_is_handed_out_once_and_as_it_was(jobs, steps):
    alive = {number: job(number) for number in range(1, jobs + 1)}
    expected = [each.copied() for each in alive.values()]
    everything = list(alive.values())
    cut = Cut([everything[at : at + 4] for at in range(0, jobs, 4)], jobs)
    taken: list[Job] = []
    for what, number in [*steps, *[("take", 5)] * (jobs + 1)]:
        if what == "take":
            some = cut.take(number)
            assert len(some) <= number
            taken += [each.copied() for each in some]
        else:
            changing = alive.setdefault(number, job(number))
            cut.preserve(changing)
            changing.state = State.DEAD
            assert changing.run is not None
            changing.run.attempts += 1
    assert sorted(taken, key=lambda each: each.number) == expected
    assert cut.take(1) == []


def test_a_step_is_bounded_also_when_all_has_changed():
    jobs = [job(number) for number in range(1, 101)]
    cut = Cut([jobs[:60], jobs[60:]], 100)
    for each in jobs:
        cut.preserve(each)
    assert [len(cut.take(30)) for _ in range(5)] == [30, 30, 30, 10, 0]


def test_what_is_appended_to_the_last_list_is_not_of_that_moment():
    last = [job(1), job(2)]
    cut = Cut([last], 2)
    last.append(job(3))
    assert [each.number for each in cut.take(9)] == [1, 2]
