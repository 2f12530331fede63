"""A line: in order whatever comes and goes, and shared lists that do not change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import line as module
from partitions.job import Job
from partitions.line import Line


def job(number: int) -> Job:
    return Job(number.to_bytes(16, "big"), number, 0, 0)


numbers = st.integers(1, 60)


@given(st.data())
def test_a_line_is_a_sorted_list(data):
    size = module._CHUNK
    module._CHUNK = 4
    try:
        _against_a_list(data)
    finally:
        module._CHUNK = size


def _against_a_list(data) -> None:
    model = {number: job(number) for number in data.draw(st.lists(numbers, unique=True))}
    line = Line([model[number] for number in sorted(model)])
    shared: list[tuple[list[list[Job]], list[Job]]] = []
    for what, number in data.draw(st.lists(st.tuples(st.sampled_from("anrxsu"), numbers))):
        if what == "a" and number not in model:
            model[number] = job(number)
            line.add(model[number])
        elif what == "n":
            last = max(model, default=0) + number
            model[last] = job(last)
            line.append(model[last])
        elif what == "r" and model:
            line.remove(model.pop(min(model, key=lambda each: abs(each - number))))
        elif what == "x" and number in model:
            old, model[number] = model[number], job(number)
            line.replace(old, model[number])
        elif what == "s" and not shared:
            shared.append((line.share(), list(line)))
        elif what == "u":
            line.unshare()
            shared.clear()
        expected = [model[each] for each in sorted(model)]
        assert [id(each) for each in line] == [id(each) for each in expected]
        assert len(line) == len(expected)
        assert line.head() is (expected[0] if expected else None)
        assert list(line.after(number)) == [each for each in expected if each.number > number]
        for chunks, then in shared:
            # Only what was appended later may have joined them.
            flat = [each for chunk in chunks for each in chunk]
            assert [id(each) for each in flat[: len(then)]] == [id(each) for each in then]
            assert all(each.number > then[-1].number for each in flat[len(then) :] if then)


def test_a_job_that_is_not_in_there_cannot_be_taken_out():
    line = Line([job(1), job(2)])
    with pytest.raises(AssertionError, match="not in here"):
        line.remove(job(2))


def test_no_list_grows_without_bound_however_jobs_come_back():
    line = Line()
    for number in range(5_000, 0, -1):
        line.add(job(number))
    assert [each.number for each in line] == list(range(1, 5_001))
    assert max(map(len, line.share())) <= 2 * module._CHUNK
