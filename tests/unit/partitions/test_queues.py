"""The ready queue: by submission, whether a job is fresh or comes back."""

from hypothesis import given
from hypothesis import strategies as st

from partitions.job import Job
from partitions.queues import ReadyQueue


def job(number: int) -> Job:
    return Job(number.to_bytes(16, "big"), number, 1, 3, 0)


def test_an_empty_queue_has_no_head():
    queue = ReadyQueue()
    assert queue.head() is None
    assert len(queue) == 0


def test_a_job_that_comes_back_stands_before_those_submitted_after_it():
    queue = ReadyQueue()
    first, second, third = job(1), job(2), job(3)
    queue.add_fresh(second)
    queue.add_returned(first)
    queue.add_fresh(third)
    assert [_take(queue) for _ in range(3)] == [first, second, third]


@given(st.data())
def test_whatever_comes_and_goes_the_head_is_the_oldest_and_any_job_can_be_taken_out(data):
    queue, model, out = ReadyQueue(), {}, []
    number = 0
    for action in data.draw(st.lists(st.sampled_from("fhrx"), max_size=40)):
        if action == "f":
            number += 1
            model[number] = job(number)
            queue.add_fresh(model[number])
        elif action == "h" and model:
            out.append(_take(queue))
            assert out[-1] is model.pop(min(model))
        elif action == "r" and out:
            back = out.pop(data.draw(st.integers(0, len(out) - 1)))
            model[back.number] = back
            queue.add_returned(back)
        elif action == "x" and model:
            gone = model.pop(data.draw(st.sampled_from(sorted(model))))
            queue.remove(gone)
        assert len(queue) == len(model)
        assert queue.head() is (model[min(model)] if model else None)


def _take(queue: ReadyQueue) -> Job:
    head = queue.head()
    assert head is not None
    queue.remove(head)
    return head
