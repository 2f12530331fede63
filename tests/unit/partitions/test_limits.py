"""The bounds fit together: what one allows, the others can hold."""

from partitions import limits
from partitions.actor import _DUE_EVENT_BYTES
from partitions.events import (
    Event,
    JobAcked,
    JobEnqueued,
    JobForgotten,
    LeaseExpired,
    encode_events,
)
from partitions.log import EVENT_BYTES_MAX
from partitions.positions import OFFSET_MAX
from partitions.record import BLOB_HEADER_BYTES, RECORD_HEADER_BYTES

LARGE = 2**63 - 1
EXPIRED = len(encode_events([LeaseExpired(bytes(16), LARGE, dead=True)]))
FORGOTTEN = len(encode_events([JobForgotten(bytes(16))]))


def test_the_largest_batch_fits_a_record():
    # One mail more than the bound may join a batch, and a mail is at most a frame.
    texts = limits.BATCH_BYTES_MAX + limits.FRAME_BYTES_MAX
    requests = limits.BATCH_REQUESTS_MAX + limits.REQUESTS_PER_PARTITION_MAX
    due = limits.DUE_PER_TICK_MAX * (EXPIRED + FORGOTTEN)
    events = requests * (EVENT_BYTES_MAX + BLOB_HEADER_BYTES)
    assert RECORD_HEADER_BYTES + texts + due + events <= limits.RECORD_BYTES_MAX


def test_a_place_in_a_segment_fits_a_position():
    assert limits.SEGMENT_BYTES + limits.RECORD_BYTES_MAX + limits.EXTENT_BYTES < OFFSET_MAX


def test_the_reserve_holds_all_that_may_be_due_at_once():
    assert limits.RESERVE_BYTES > limits.DUE_PER_TICK_MAX * (EXPIRED + FORGOTTEN)


def test_a_full_tick_is_no_longer_than_the_room_that_is_made_for_it():
    made = RECORD_HEADER_BYTES + limits.DUE_PER_TICK_MAX * _DUE_EVENT_BYTES
    due: list[Event] = [LeaseExpired(bytes(16), LARGE, dead=True)] * limits.DUE_PER_TICK_MAX
    due += [JobForgotten(bytes(16))] * limits.DUE_PER_TICK_MAX
    assert RECORD_HEADER_BYTES + len(encode_events(due)) <= made


def test_no_event_is_longer_than_is_reckoned_for_it():
    longest = [
        JobEnqueued(bytes(16), LARGE, LARGE, LARGE, "€" * 85),
        JobAcked(bytes(16), LARGE, LARGE),
    ]
    for event in longest:
        assert len(encode_events([event])) < EVENT_BYTES_MAX


def test_the_largest_text_fits_a_frame_of_either_direction():
    assert limits.TEXT_BYTES_MAX + limits.FRAME_BYTES_SOFT < limits.FRAME_BYTES_MAX // 2
