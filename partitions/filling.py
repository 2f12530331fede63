"""From what a command led to to the reply that a front gets: texts instead of positions. Pure."""

from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from partitions.answers import (
    Answer,
    JobFound,
    JobsFound,
    LeaseGranted,
    LeasesGranted,
    ManyAnswers,
    SettledBefore,
)
from partitions.job import Outcome
from partitions.messages import (
    JobView,
    Leased,
    LeasedMany,
    LeaseLost,
    Page,
    QueueViews,
    Replies,
    Reply,
    Settled,
)

_SMALL_BYTES: Final = 32
_LEASED_BYTES: Final = 128
_VIEW_BYTES: Final = 256
_QUEUE_BYTES: Final = 512
"""Of a reply without its texts and options, as it mostly is."""

Read = Callable[[int], bytes]
"""The text at a position."""

TextAnswer = LeaseGranted | JobFound | SettledBefore

_NOT_AS_THEY_ARE: Final = frozenset(
    (LeaseGranted, JobFound, SettledBefore, LeasesGranted, JobsFound, ManyAnswers, QueueViews)
)
"""Most answers are replies as they are. To try the seven one by one took a tenth of the CPU time
of a submit."""


def reply_to(answer: Answer, fill: Callable[[TextAnswer], tuple[Reply, int]]) -> tuple[Reply, int]:
    """The reply to any answer, and about how many bytes it is long: a frame must not get too many.

    ``fill`` reads the texts of one, and says ``Unreadable`` where it cannot.
    """
    if type(answer) not in _NOT_AS_THEY_ARE:
        return answer, 0  # type: ignore[return-value]  # mypy follows no set of types
    match answer:
        case LeaseGranted() | JobFound() | SettledBefore():
            return fill(answer)
        case LeasesGranted():
            # One that cannot be read goes back when its lease is over, and costs no other.
            read = [fill(each) for each in answer.leases]
            leased = [reply for reply, _ in read if isinstance(reply, Leased)]
            return (LeasedMany(leased), sum([size for _, size in read])) if leased else read[0]
        case JobsFound():
            views = [fill(each) for each in answer.jobs]
            jobs = [
                reply if isinstance(reply, JobView) else each.view
                for (reply, _), each in zip(views, answer.jobs, strict=True)
            ]
            return Page(jobs, answer.next_number), sum([size for _, size in views])
        case ManyAnswers():
            replies = [
                fill(each)[0] if isinstance(each, SettledBefore) else each
                for each in answer.answers
            ]
            size = _SMALL_BYTES * len(replies)
            return Replies(replies), size  # type: ignore[arg-type]  # those of its commands
        case QueueViews():
            return answer, _QUEUE_BYTES * len(answer.queues)
        case _:
            raise AssertionError(f"{answer!r} is a reply as it is")


def filled(answer: TextAnswer, read: Read) -> tuple[Reply, int]:
    """The reply, and about how many bytes it is long.

    Raises:
        BlobUnreadableError: by ``read``.
    """
    match answer:
        case LeaseGranted():
            payload = read(answer.payload_at) if answer.payload_at else b""
            leased = Leased(
                answer.job_id,
                payload,
                answer.lease_until_ms,
                answer.attempt,
                answer.lease_token,
                answer.max_retries,
                answer.created_at_ms,
                answer.options,
                answer.group,
            )
            return leased, _LEASED_BYTES + len(payload) + len(answer.options)
        case JobFound():
            return _view(answer, read)
        case SettledBefore():
            text = read(answer.outcome_at) if answer.outcome_at else b""
            return (Settled if text == answer.text else LeaseLost)(answer.job_id), 0
        case _:
            assert_never(answer)


def _view(found: JobFound, read: Read) -> tuple[JobView, int]:
    view = found.view
    size = _VIEW_BYTES + len(view.options) + len(view.progress)
    if not found.outcome_at:
        return view, size
    text = read(found.outcome_at)
    replace = msgspec.structs.replace
    if found.outcome is Outcome.RESULT:
        return replace(view, result=text), size + len(text)
    return replace(view, result_error=text), size + len(text)
