"""The bounds fit together: what one allows, the others can hold."""

import pytest

from partitions import limits
from partitions.actor import _DUE_EVENT_BYTES
from partitions.costs import record_bytes
from partitions.events import (
    Event,
    JobAcked,
    JobCancelled,
    JobEnqueued,
    JobExpired,
    JobFailed,
    JobForgotten,
    JobLeased,
    JobReleased,
    JobRetried,
    KeyClaimed,
    KeyFreed,
    LeaseExpired,
    LeaseExtended,
    QueuePaused,
    encode_events,
)
from partitions.job import Own
from partitions.messages import (
    Ack,
    Cancel,
    ClaimKeys,
    Command,
    Enqueue,
    Extend,
    Fail,
    FreeKeys,
    HeldKey,
    KeyClaim,
    Lease,
    LeaseMany,
    Pause,
    Release,
    Request,
    Retry,
    Sweep,
    encode_requests,
)
from partitions.positions import OFFSET_MAX
from partitions.record import BLOB_HEADER_BYTES, RECORD_HEADER_BYTES

LARGE = 2**63 - 1
WIDE = "\U0001f600"
ID = bytes(16)
EXPIRED = len(encode_events([LeaseExpired(ID, LARGE, dead=True)]))
FORGOTTEN = len(encode_events([JobForgotten(ID)]))
OWNER = WIDE * 64
OPTIONS = bytes(limits.OPTIONS_BYTES_MAX)
GROUP = WIDE * limits.GROUP_CHARS_MAX
WORKER = WIDE * limits.WORKER_CHARS_MAX
QUEUE = WIDE * limits.QUEUE_CHARS_MAX
PROGRESS = bytes(limits.PROGRESS_BYTES_MAX)

# What a command brings at most, beside its texts.
LONGEST: list[tuple[Command, Event]] = [
    (
        Enqueue(ID, b"", 1, OWNER, OPTIONS, group=GROUP, digest=ID),
        JobEnqueued(ID, LARGE, LARGE, LARGE, OWNER, OPTIONS, LARGE, Own(GROUP, ID, LARGE)),
    ),
    (Lease(1, worker=WORKER), JobLeased(ID, LARGE, LARGE, LARGE, WORKER)),
    (LeaseMany(Lease(1, worker=WORKER), 1), JobLeased(ID, LARGE, LARGE, LARGE, WORKER)),
    (Ack(ID, 1, None), JobAcked(ID, LARGE, LARGE)),
    (Fail(ID, 1, b""), JobFailed(ID, LARGE, LARGE, LARGE)),
    (Extend(ID, 1, None, PROGRESS), LeaseExtended(ID, LARGE, PROGRESS)),
    (Release(ID, 1), JobReleased(ID, LARGE)),
    (Cancel(ID), JobCancelled(ID, LARGE)),
    (Retry(ID), JobRetried(ID)),
    (Sweep("q", "DEAD", "retry", scan=1), JobRetried(ID)),
    (Sweep("q", "DEAD", "forget", scan=1), JobForgotten(ID)),
    (Pause(QUEUE, paused=True), QueuePaused(QUEUE, paused=True)),
    (ClaimKeys([KeyClaim(ID, 65_535)]), KeyClaimed(ID, 65_535, LARGE)),
    (FreeKeys([HeldKey(ID, LARGE)]), KeyFreed(ID)),
]


@pytest.mark.parametrize(("command", "event"), LONGEST, ids=lambda each: type(each).__name__)
def test_no_event_is_longer_than_its_command_is_reckoned_at(command, event):
    # The array that holds the events of a record is reckoned with the record.
    assert len(encode_events([event])) - 1 <= record_bytes(command)


def test_the_largest_batch_of_submits_fits_a_record():
    # One mail more than the bound may join a batch, and a mail is at most a frame. A submit
    # takes at least so much of the frame, and so much more of the record.
    smallest = Enqueue(ID, b"p", 1, "")
    of_frame = len(encode_requests([Request(1, smallest)])) - 4
    stored = JobEnqueued(ID, LARGE, 1, LARGE, "")
    of_record = len(encode_events([stored])) - 1 + BLOB_HEADER_BYTES + 1
    # What our fronts send: a frame ends when it has so much, and one request more.
    body = limits.FRAME_BYTES_SOFT + of_frame * limits.ENQUEUE_JOBS_MAX
    submits = body // of_frame
    due = limits.DUE_PER_TICK_MAX * (EXPIRED + FORGOTTEN)
    texts = limits.BATCH_BYTES_MAX + body
    assert RECORD_HEADER_BYTES + texts + submits * of_record + due <= limits.RECORD_BYTES_MAX


def test_a_frame_of_sweeps_fits_a_record():
    swept = limits.FRAME_REQUESTS_MAX * limits.SCAN_JOBS_MAX * FORGOTTEN
    assert limits.BATCH_BYTES_MAX + swept <= limits.RECORD_BYTES_MAX


def test_a_place_in_a_segment_fits_a_position():
    assert limits.SEGMENT_BYTES + limits.RECORD_BYTES_MAX + limits.EXTENT_BYTES < OFFSET_MAX


def test_the_reserve_holds_all_that_may_be_due_at_once():
    assert limits.RESERVE_BYTES > limits.DUE_PER_TICK_MAX * (EXPIRED + FORGOTTEN)


@pytest.mark.parametrize(
    "due", [LeaseExpired(ID, LARGE, dead=True), JobExpired(ID, LARGE)], ids=["lease", "ttl"]
)
def test_a_full_tick_is_no_longer_than_the_room_that_is_made_for_it(due):
    made = limits.DUE_PER_TICK_MAX * _DUE_EVENT_BYTES
    events: list[Event] = [due] * limits.DUE_PER_TICK_MAX
    events += [JobForgotten(ID)] * limits.DUE_PER_TICK_MAX
    assert len(encode_events(events)) <= made


def test_the_largest_text_fits_a_frame_of_either_direction():
    assert limits.TEXT_BYTES_MAX + limits.FRAME_BYTES_SOFT < limits.FRAME_BYTES_MAX // 2


def test_the_payloads_of_one_lease_call_fit_a_frame():
    # Or those of one job alone; beside them a group and some numbers.
    small = limits.LEASE_JOBS_MAX * (4 * limits.GROUP_CHARS_MAX + 100)
    gathered = limits.FRAME_BYTES_SOFT + limits.LEASE_BYTES_MAX + small
    assert gathered < limits.FRAME_BYTES_MAX


def test_the_longest_page_fits_a_frame():
    names = 4 * (limits.GROUP_CHARS_MAX + limits.WORKER_CHARS_MAX + 128)
    view = limits.OPTIONS_BYTES_MAX + limits.PROGRESS_BYTES_MAX + names + 200
    page = limits.PAGE_BYTES_MAX + limits.TEXT_BYTES_MAX + 1000 * view
    assert limits.FRAME_BYTES_SOFT + page < limits.FRAME_BYTES_MAX
