"""Every codec: there and back, and on bytes that nobody encoded only the declared errors."""

import contextlib
import tracemalloc
from collections.abc import Callable
from typing import get_args

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from partitions import events, messages
from partitions.errors import PipeError
from partitions.framing import Deframer, frame
from partitions.job import Own
from partitions.limits import (
    ATTEMPTS_MAX,
    CLAIMS_PAGE_MAX,
    ENQUEUE_JOBS_MAX,
    FRAME_BYTES_MAX,
    GROUP_CHARS_MAX,
    LEASE_JOBS_MAX,
    MANY_MAX,
    OPTIONS_BYTES_MAX,
    PROGRESS_BYTES_MAX,
    QUEUE_CHARS_MAX,
    SCAN_JOBS_MAX,
    TEXT_BYTES_MAX,
    WORKER_CHARS_MAX,
)
from partitions.messages import Request, Response
from partitions.record import (
    RECORD_MAGIC,
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_segment_header,
    encode_blob,
    encode_record,
    encode_segment_header,
    read_record,
    scan,
)

ALLOCATION_BYTES_MAX = 1 << 20
"""For some dozen bytes of input; a length that they claim must not be believed."""

ids = st.binary(min_size=16, max_size=16)
numbers = st.integers(0, 2**63 - 1)
texts = st.binary(max_size=100)
owners = st.text(max_size=20)

times = st.integers(0, 1 << 53)
options = st.binary(max_size=40)
groups = st.text(max_size=20)
queues = st.text(min_size=1, max_size=20)
tokens = st.integers(-(2**63), 2**63 - 1)
tags = st.lists(st.tuples(groups, groups), max_size=3).map(tuple)
words = st.none() | groups

submits = st.builds(
    messages.Enqueue,
    ids,
    texts,
    st.integers(0, ATTEMPTS_MAX),
    owners,
    options,
    times,
    times,
    groups,
    st.binary(max_size=16),
)
leases = st.builds(
    messages.Lease, st.none() | times, st.lists(queues, max_size=3).map(tuple), owners
)
of_held = st.one_of(
    st.builds(messages.Ack, ids, st.none() | numbers, st.none() | texts),
    st.builds(messages.Fail, ids, st.none() | numbers, texts, st.booleans(), st.none() | times),
    st.builds(messages.Extend, ids, tokens, st.none() | times, texts),
    st.builds(messages.Release, ids, tokens, times),
)
slots = st.integers(0, 0xFFFF)
key_claims = st.lists(st.builds(messages.KeyClaim, ids, slots), min_size=1, max_size=3)
held_keys = st.lists(st.builds(messages.HeldKey, ids, numbers, numbers), min_size=1, max_size=3)
commands = st.one_of(
    submits,
    leases,
    of_held,
    st.builds(messages.Get, ids, st.booleans()),
    st.just(messages.Tick()),
    st.builds(
        messages.EnqueueMany,
        st.lists(submits, min_size=1, max_size=3),
        st.booleans(),
        times,
        key_claims,
    ),
    st.builds(messages.ClaimKeys, key_claims),
    st.builds(messages.FreeKeys, held_keys),
    st.builds(messages.ListClaims, st.integers(1, CLAIMS_PAGE_MAX)),
    st.builds(messages.FindGone, st.lists(ids, min_size=1, max_size=3)),
    st.builds(messages.LeaseMany, leases, st.integers(1, LEASE_JOBS_MAX)),
    st.builds(messages.Many, st.lists(of_held, min_size=1, max_size=3)),
    st.builds(
        messages.List,
        tokens,
        st.integers(1, 1000),
        st.builds(messages.Filter, words, words, words, tags),
    ),
    st.builds(
        messages.Sweep,
        queues,
        owners,
        st.sampled_from(["retry", "forget"]),
        numbers,
        numbers,
        st.integers(1, SCAN_JOBS_MAX),
    ),
    st.builds(messages.Pause, queues, st.booleans()),
    st.builds(messages.ViewQueues, words, queues),
    *(
        st.builds(kind, ids)
        for kind in (messages.Cancel, messages.Retry, messages.Forget, messages.Unwatch)
    ),
)

leased = st.builds(
    messages.Leased, ids, texts, numbers, numbers, numbers, numbers, numbers, options, groups
)
views = st.builds(
    messages.JobView,
    ids,
    st.sampled_from(["READY", "DEAD"]),
    numbers,
    numbers,
    numbers,
    st.none() | numbers,
    st.none() | texts,
    st.none() | texts,
    owners,
    options,
    numbers,
    st.none() | numbers,
    st.none() | numbers,
    st.none() | numbers,
    groups,
    numbers,
    texts,
    owners,
)
to_held = st.one_of(
    st.builds(messages.NotRunning, ids, owners),
    st.builds(messages.WrongState, ids, owners),
    st.builds(messages.Extended, ids, numbers),
    st.just(messages.StorageFull()),
    *(
        st.builds(kind, ids)
        for kind in (
            messages.Settled,
            messages.LeaseLost,
            messages.JobNotFound,
            messages.Unreadable,
        )
    ),
)
rates = st.tuples(*[st.floats(0, 1e9)] * 3)
replies = st.one_of(
    leased,
    views,
    to_held,
    st.builds(messages.Hello, numbers, numbers),
    st.builds(
        messages.Hint,
        st.lists(
            st.builds(
                messages.Head,
                queues,
                st.none() | st.integers(-100, 100),
                numbers,
                st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=3).map(tuple),
            ),
            max_size=3,
        ),
    ),
    st.builds(messages.Recovering, numbers),
    st.builds(messages.JobsOver, st.lists(ids, max_size=3)),
    st.just(messages.NothingReady()),
    st.builds(messages.TooMany, st.sampled_from(["jobs", "queues", "watched"])),
    st.builds(messages.EnqueuedMany, texts, held_keys),
    st.just(messages.Claimed()),
    st.builds(messages.KeysHeld, held_keys),
    st.builds(messages.ClaimPage, held_keys, st.booleans()),
    st.builds(messages.JobsGone, st.lists(ids, max_size=3)),
    st.just(messages.TooLate()),
    st.builds(messages.LeasedMany, st.lists(leased, max_size=3)),
    st.builds(messages.Replies, st.lists(to_held, max_size=3)),
    st.builds(messages.Page, st.lists(views, max_size=3), st.none() | numbers),
    st.builds(messages.Swept, numbers, st.none() | numbers, numbers),
    st.builds(
        messages.QueueViews,
        st.lists(
            st.builds(
                messages.QueueView,
                queues,
                st.booleans(),
                st.dictionaries(owners, numbers, max_size=3),
                st.none() | numbers,
                numbers,
                st.dictionaries(owners, rates, max_size=3),
            ),
            max_size=2,
        ),
        st.none() | queues,
    ),
    *(
        st.builds(kind, ids)
        for kind in (
            messages.Enqueued,
            messages.AlreadyExists,
            messages.WrongPartition,
            messages.Replayed,
            messages.Conflict,
        )
    ),
)
facts = st.one_of(
    st.builds(
        events.JobEnqueued,
        ids,
        numbers,
        numbers,
        numbers,
        owners,
        options,
        numbers,
        st.none() | st.builds(Own, groups, texts, numbers),
    ),
    st.builds(events.JobLeased, ids, numbers, numbers, numbers, owners),
    st.builds(events.JobAcked, ids, numbers, numbers),
    st.builds(events.JobFailed, ids, numbers, numbers, numbers),
    st.builds(events.LeaseExpired, ids, numbers, st.booleans()),
    st.builds(events.BackoffOver, ids),
    st.builds(events.JobForgotten, ids),
    st.builds(events.PayloadMoved, ids, numbers),
    st.builds(events.OutcomeMoved, ids, numbers),
    st.builds(events.TokensRaised, numbers),
    st.builds(events.LeaseExtended, ids, numbers, texts),
    st.builds(events.JobReleased, ids, numbers),
    st.builds(events.JobExpired, ids, numbers),
    st.builds(events.JobCancelled, ids, numbers),
    st.builds(events.JobRetried, ids),
    st.builds(events.QueuePaused, queues, st.booleans()),
    st.builds(events.KeyClaimed, ids, slots, numbers),
    st.builds(events.KeyFreed, ids),
)


def bombs() -> list[bytes]:
    """Heads of msgpack values that claim to be very large, and deep nesting."""
    huge = b"\xff\xff\xff\xff"
    heads = [b"\xdd" + huge, b"\xdf" + huge, b"\xc6" + huge, b"\xdb" + huge, b"\xc9" + huge]
    inside = [b"\x91\x92\x01" + head for head in heads]
    fields = [b"\x91\x92\x01\x95\x01" + head for head in heads]
    # Behind the fields that are known: skipped, but to any depth, and strings are not UTF-8.
    deep = b"\x91\x92\x06\xc4\x10" + bytes(16)
    deep = deep.replace(b"\x92", b"\x93", 1) + b"\x91" * 5_000
    text = b"\x91\x96\x01\xc4\x10" + bytes(16) + b"\x01\x01\x01\xa1\xff"
    return [*heads, *inside, *fields, b"\x91" * 5_000, deep, text]


def allocated_bytes(call: Callable[[], object]) -> int:
    """The most memory that was in use at once while ``call`` ran."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Messages and events ------------------------------------------------------------------------


@given(st.lists(st.builds(Request, numbers, commands), max_size=5))
def test_requests_there_and_back(requests):
    assert messages.decode_requests(messages.encode_requests(requests)) == requests


@given(st.lists(st.builds(Response, numbers, replies), max_size=5))
def test_responses_there_and_back(responses):
    assert messages.decode_responses(messages.encode_responses(responses)) == responses


@given(st.lists(facts, max_size=5))
def test_events_there_and_back(some):
    assert events.decode_events(events.encode_events(some)) == some


@pytest.mark.parametrize(
    ("union", "strategy"),
    [(messages.Command, commands), (messages.Reply, replies), (events.Event, facts)],
    ids=["commands", "replies", "events"],
)
def test_every_message_and_event_is_among_those(union, strategy):
    missing = set(get_args(union))

    @settings(max_examples=3_000, database=None, phases=[Phase.generate], deadline=None)
    @given(st.lists(strategy, max_size=20))
    def draw(some):
        missing.difference_update(map(type, some))
        if not missing:
            raise StopIteration

    with pytest.raises(StopIteration):
        draw()


def test_what_was_written_before_a_field_came_reads_with_its_default():
    short = {
        events.JobEnqueued(b"i" * 16, 70, 3, 9, "o"): [1, b"i" * 16, 70, 3, 9, "o"],
        events.JobLeased(b"i" * 16, 1, 9): [2, b"i" * 16, 1, 9],
    }
    for event, written in short.items():
        assert events.decode_events(msgspec.msgpack.encode([written])) == [event]


DECODERS = {
    "requests": messages.decode_requests,
    "responses": messages.decode_responses,
    "events": events.decode_events,
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@given(data=st.binary(max_size=60))
def test_random_bytes_are_refused_as_such(decode, data):
    with contextlib.suppress(msgspec.MsgspecError):
        decode(data)


@given(
    st.lists(st.builds(Request, numbers, commands), min_size=1, max_size=3),
    st.integers(0, 10_000),
    st.integers(1, 255),
)
def test_a_damaged_request_is_another_request_or_refused(requests, place, mask):
    data = bytearray(messages.encode_requests(requests))
    data[place % len(data)] ^= mask
    try:
        found = messages.decode_requests(bytes(data))
    except msgspec.MsgspecError:
        return
    # Whatever it is, it is within what the state takes.
    for request in found:
        assert_within_bounds(request.command)


def assert_within_bounds(command: messages.Command) -> None:
    job_id = getattr(command, "job_id", None)
    assert job_id is None or len(job_id) == 16
    match command:
        case messages.Lease():
            assert command.duration_ms is None or 0 <= command.duration_ms <= 1 << 53
            assert all(command.queues)
        case messages.LeaseMany():
            assert 1 <= command.count <= LEASE_JOBS_MAX
            assert_within_bounds(command.lease)
        case messages.EnqueueMany():
            assert command.jobs
            for job in command.jobs:
                assert_within_bounds(job)
        case messages.Many():
            assert command.commands
            for each in command.commands:
                assert_within_bounds(each)
        case messages.Sweep():
            assert 1 <= command.scan <= SCAN_JOBS_MAX
            assert command.action in ("retry", "forget")
        case messages.List():
            assert 1 <= command.limit <= 1000


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@pytest.mark.parametrize("data", bombs(), ids=lambda data: data[:9].hex())
def test_a_length_that_is_claimed_is_not_believed(decode, data):
    def attempt() -> None:
        with pytest.raises(msgspec.MsgspecError):
            decode(data)

    assert allocated_bytes(attempt) < ALLOCATION_BYTES_MAX


@pytest.mark.parametrize(
    "command",
    [
        messages.Get(b""),
        messages.Get(bytes(15)),
        messages.Get(bytes(17)),
        messages.Ack(b"x", None, None),
        messages.Fail(b"x", None, b""),
        messages.Enqueue(b"x", b"p", 1, ""),
        messages.Enqueue(bytes(16), b"p", -1, ""),
        messages.Enqueue(bytes(16), b"p", ATTEMPTS_MAX + 1, ""),
        messages.Enqueue(bytes(16), bytes(TEXT_BYTES_MAX + 1), 1, ""),
        messages.Ack(bytes(16), None, bytes(TEXT_BYTES_MAX + 1)),
        messages.Fail(bytes(16), None, bytes(TEXT_BYTES_MAX + 1)),
        messages.Lease(-1),
        messages.Lease(2**63),
        messages.Lease(1, ("",)),
        messages.Lease(1, ("q" * (QUEUE_CHARS_MAX + 1),)),
        messages.Lease(1, worker="w" * (WORKER_CHARS_MAX + 1)),
        messages.LeaseMany(messages.Lease(1), 0),
        messages.LeaseMany(messages.Lease(1), LEASE_JOBS_MAX + 1),
        messages.Enqueue(bytes(16), b"p", 1, "", bytes(OPTIONS_BYTES_MAX + 1)),
        messages.Enqueue(bytes(16), b"p", 1, "", run_at_ms=(1 << 53) + 1),
        messages.Enqueue(bytes(16), b"p", 1, "", expires_at_ms=-1),
        messages.Enqueue(bytes(16), b"p", 1, "", group="g" * (GROUP_CHARS_MAX + 1)),
        messages.Enqueue(bytes(16), b"p", 1, "", digest=bytes(17)),
        messages.EnqueueMany([]),
        messages.EnqueueMany([messages.Enqueue(b"x", b"p", 1, "")]),
        messages.EnqueueMany([messages.Enqueue(bytes(16), b"p", 1, "")] * (ENQUEUE_JOBS_MAX + 1)),
        messages.Many([]),
        messages.Many([messages.Release(bytes(16), 1)] * (MANY_MAX + 1)),
        messages.Many([messages.Get(bytes(16))]),  # type: ignore[list-item]  # that is the test
        messages.Fail(bytes(16), 1, b"", retry_in_ms=(1 << 53) + 1),
        messages.Extend(bytes(16), 1, -1),
        messages.Extend(bytes(16), 1, None, bytes(PROGRESS_BYTES_MAX + 1)),
        messages.Extend(bytes(16), None),  # type: ignore[arg-type]  # that is the test
        messages.Release(bytes(16), 1, -1),
        messages.List(0, 0),
        messages.List(0, 1001),
        messages.Sweep("q", "DEAD", "burn"),  # type: ignore[arg-type]  # that is the test
        messages.Sweep("q", "DEAD", "retry", scan=0),
        messages.Sweep("q", "DEAD", "retry", scan=SCAN_JOBS_MAX + 1),
        messages.Pause("", paused=True),
    ],
    ids=lambda command: repr(command)[:60],
)
def test_a_command_that_no_front_may_send_is_refused_as_it_is_decoded(command):
    with pytest.raises(msgspec.ValidationError):
        messages.decode_requests(messages.encode_requests([Request(1, command)]))


def test_the_largest_texts_are_taken():
    text = bytes(TEXT_BYTES_MAX)
    requests = [
        Request(1, messages.Enqueue(bytes(16), text, 1, "")),
        Request(2, messages.Ack(bytes(16), None, text)),
    ]
    assert messages.decode_requests(messages.encode_requests(requests)) == requests


# Frames -------------------------------------------------------------------------------------


@given(st.lists(texts, max_size=8), st.lists(st.integers(1, 50), max_size=30))
def test_frames_there_and_back_however_they_are_cut(bodies, cuts):
    stream = b"".join(map(frame, bodies))
    deframer, found = Deframer(), []
    for size in cuts:
        found += deframer.feed(stream[:size])
        stream = stream[size:]
    assert found + deframer.feed(stream) == bodies


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_random_bytes_are_frames_or_a_fault(parts):
    deframer, fed, out = Deframer(), 0, 0
    for part in parts:
        fed += len(part)
        try:
            out += sum(4 + len(body) for body in deframer.feed(part))
        except PipeError:
            return
        assert out <= fed


def test_a_frame_takes_no_memory_before_its_bytes_arrive():
    def attempt() -> None:
        assert Deframer().feed(FRAME_BYTES_MAX.to_bytes(4, "big") + b"few") == []

    assert allocated_bytes(attempt) < ALLOCATION_BYTES_MAX


# Records ------------------------------------------------------------------------------------

headers = st.builds(
    SegmentHeader,
    *[st.integers(0, 2**32 - 1)] * 3,
    *[st.integers(1, 2**32)] * 2,
    numbers,
    *[st.integers(0, 2**32 - 1)] * 2,
)


@given(headers)
def test_segment_headers_there_and_back(header):
    assert decode_segment_header(encode_segment_header(header)) == header


@given(headers, st.lists(st.tuples(st.lists(texts, max_size=3), texts), max_size=5))
def test_records_there_and_back(header, batches):
    data, crc = encode_segment_header(header), header.prev_crc
    for index, (blobs, body) in enumerate(batches):
        record, crc = encode_record(
            lsn=header.first_lsn + index,
            epoch=index,
            written_ms=index,
            prev_crc=crc,
            nonce=header.nonce,
            blobs=b"".join(map(encode_blob, blobs)),
            events=body,
        )
        data += record
    *records, end = scan(data + bytes(9), header)
    assert [each.events for each in records if isinstance(each, Record)] == [
        body for _, body in batches
    ]
    assert isinstance(end, LogEnd)
    assert (end.kind, end.offset_bytes) == (End.CLEAN, len(data))


@given(headers, st.lists(st.one_of(st.binary(max_size=60), st.just(RECORD_MAGIC)), max_size=6))
def test_random_bytes_are_no_records(header, parts):
    data = encode_segment_header(header) + b"".join(parts)
    *records, end = scan(data, header)
    assert records == []
    assert isinstance(end, LogEnd)
    assert end.offset_bytes == SEGMENT_HEADER_BYTES
    rest = data[SEGMENT_HEADER_BYTES:]
    assert end.kind is (End.TORN if rest.strip(b"\0") else End.CLEAN)


@given(st.binary(max_size=100))
def test_random_bytes_are_no_segment(data):
    assert isinstance(decode_segment_header(data), str)


def test_a_record_takes_no_memory_for_what_it_claims():
    data = RECORD_MAGIC + bytes(28) + (60 << 20).to_bytes(4, "little") + bytes(4)

    def attempt() -> None:
        assert isinstance(read_record(data, 0, 0), str)

    assert allocated_bytes(attempt) < ALLOCATION_BYTES_MAX
