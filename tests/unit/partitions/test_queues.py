"""Ready jobs: by priority, then by submission, whether they are fresh or come back."""

from hypothesis import given
from hypothesis import strategies as st

from partitions.job import Job
from partitions.queues import Head, Queue, ReadyJobs

priorities = st.integers(-2, 2)


def job(number: int) -> Job:
    return Job(number.to_bytes(16, "big"), number, 1, 0)


def test_an_empty_queue_has_no_head():
    ready = ReadyJobs()
    assert (ready.head(), ready.top(), ready.oldest(), len(ready)) == (None, None, None, 0)
    assert list(ready) == []


def test_the_higher_priority_goes_first_and_the_oldest_is_another_matter():
    ready = ReadyJobs()
    for number, priority in enumerate([0, -1, 5, 0, 5, 100], 1):
        ready.add(job(number), priority)
    assert [each.number for each in ready] == [6, 3, 5, 1, 4, 2]
    assert ready.top() == Head(100, 6)
    assert ready.oldest() == 1


@given(st.data())
def test_whatever_comes_and_goes_the_order_is_by_priority_then_submission(data):
    ready, model = ReadyJobs(), {}
    for action in data.draw(st.lists(st.sampled_from("ahx"), max_size=40)):
        if action == "a":
            number = data.draw(st.integers(1, 99).filter(lambda each: each not in model))
            model[number] = (job(number), data.draw(priorities))
            ready.add(*model[number])
        elif model:
            order = sorted(model, key=lambda each: (-model[each][1], each))
            number = order[0] if action == "h" else data.draw(st.sampled_from(order))
            ready.remove(*model.pop(number))
        order = sorted(model, key=lambda each: (-model[each][1], each))
        assert [each.number for each in ready] == order
        assert len(ready) == len(model)
        head = ready.head()
        assert (head.number if head else None) == (order[0] if order else None)
        assert ready.top() == (Head(model[order[0]][1], order[0]) if order else None)
        assert ready.oldest() == min(model, default=None)


def test_many_at_once_are_as_if_they_had_come_one_by_one():
    ready, one_by_one = ReadyJobs(), ReadyJobs()
    jobs = [job(number) for number in range(1, 10)]
    ready.fill(jobs[::2], 5)
    ready.fill(jobs[1::2], 0)
    for index, each in enumerate(jobs):
        one_by_one.add(each, 0 if index % 2 else 5)
    assert list(ready) == list(one_by_one)
    assert len(ready) == 9


def test_a_paused_queue_gives_nothing():
    queue = Queue("q")
    queue.ready.add(job(1), 3)
    assert queue.top == Head(3, 1)
    queue.paused = True
    assert queue.top is None
