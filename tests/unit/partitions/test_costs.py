"""Costs: what a command is reckoned at is never less than what it brings to a record."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from partitions.costs import record_bytes, text_bytes
from partitions.events import encode_events
from partitions.limits import (
    GROUP_CHARS_MAX,
    OPTIONS_BYTES_MAX,
    PROGRESS_BYTES_MAX,
    QUEUE_CHARS_MAX,
    TEXT_BYTES_MAX,
    WORKER_CHARS_MAX,
)
from partitions.messages import (
    Ack,
    Cancel,
    Claimed,
    ClaimKeys,
    Command,
    Enqueue,
    EnqueueMany,
    Extend,
    Fail,
    Forget,
    FreeKeys,
    Get,
    HeldKey,
    KeyClaim,
    Lease,
    LeaseMany,
    List,
    Many,
    Pause,
    Release,
    Retry,
    Sweep,
    ViewQueues,
)
from partitions.options import Options, encode_options
from partitions.positions import make_position
from partitions.record import encode_blob
from partitions.state import PartitionState
from tests.support.driver import job_id

LATE_MS = 1 << 45
"""Numbers that take all the bytes that they may."""
SEGMENT = 1 << 25
WIDEST = "\U0001f600"

texts = st.one_of(st.binary(max_size=40), st.sampled_from([bytes(300), bytes(70_000)]))
names = st.one_of(st.text(max_size=20), st.just(WIDEST * 80))
options = st.one_of(
    st.just(b""),
    st.builds(
        Options,
        queue=st.sampled_from(["default", WIDEST * QUEUE_CHARS_MAX]),
        tags=st.sampled_from([(), (("k" * 60, "v" * 200),)]),
    ).map(encode_options),
)
submits = st.builds(
    Enqueue,
    st.integers(0, 60_000).map(job_id),
    texts,
    st.sampled_from([0, 3, 1_000_000]),
    names,
    options,
    st.sampled_from([0, 1 << 53]),
    st.sampled_from([0, 1 << 53]),
    st.sampled_from(["", "g", WIDEST * GROUP_CHARS_MAX]),
    st.sampled_from([b"", bytes(16)]),
)
leases = st.builds(
    Lease,
    st.sampled_from([None, 1 << 53]),
    st.just(("default", WIDEST * QUEUE_CHARS_MAX)),
    st.sampled_from(["", WIDEST * WORKER_CHARS_MAX]),
)


class World:
    """A state, and what its last command brought to a record."""

    def __init__(self) -> None:
        self.state = PartitionState()
        self.state.jobs.last_token = 1 << 60
        self._blobs = bytearray()

    def put(self, text: bytes) -> int:
        blob = encode_blob(text)
        self._blobs += blob
        return make_position(SEGMENT, 1 << 26, len(blob))

    def __call__(self, command: Command):
        """Carry it out; it must be within what it was reckoned at."""
        self._blobs.clear()
        reckoned = record_bytes(command)
        applied = self.state.apply(command, LATE_MS, self.put)
        # The head of the array of events is reckoned with the record.
        events = len(encode_events(applied.events)) - 1 if applied.events else 0
        assert events + len(self._blobs) <= reckoned, f"{command!r:.99}"
        return applied.reply


@given(st.lists(submits, min_size=1, max_size=6, unique_by=lambda each: each.job_id), st.data())
def test_no_command_brings_more_than_it_is_reckoned_at(jobs, data):
    world = World()
    world(jobs[0])
    if len(jobs) > 1:
        world(EnqueueMany(jobs[1:]))
    for each in jobs:
        world(Get(each.job_id))
    claims = [KeyClaim(bytes([number]) * 16, 65_535) for number in range(20)]
    more = [msgspec.structs.replace(each, job_id=bytes([255]) * 16) for each in jobs[:1]]
    world(EnqueueMany(more, claims=claims))
    assert world(ClaimKeys(claims)) == Claimed()
    assert world.state.jobs.claims
    world(FreeKeys([HeldKey(each, claim) for each, claim in world.state.jobs.claims.items()]))
    assert not world.state.jobs.claims
    world(Pause(WIDEST * QUEUE_CHARS_MAX, True))
    world(Pause(WIDEST * QUEUE_CHARS_MAX, False))
    first = world(data.draw(leases))
    held = [first] if hasattr(first, "lease_token") else []
    held += getattr(world(LeaseMany(data.draw(leases), 3)), "leases", [])
    for lease in held:
        world(Extend(lease.job_id, lease.lease_token, 1 << 53, bytes(PROGRESS_BYTES_MAX)))
    reports = [
        data.draw(
            st.sampled_from(
                [
                    Ack(lease.job_id, lease.lease_token, data.draw(texts)),
                    Fail(lease.job_id, lease.lease_token, data.draw(texts), retry=False),
                    Fail(lease.job_id, lease.lease_token, b"e", retry_in_ms=1 << 53),
                    Release(lease.job_id, lease.lease_token, 1 << 53),
                ]
            )
        )
        for lease in held
    ]
    if reports:
        world(reports[0])
    if reports[1:]:
        world(Many(reports[1:]))
    for each in jobs:
        world(Cancel(each.job_id))
    world(List(0, 10))
    world(ViewQueues())
    world(Sweep("default", "CANCELLED", "retry", scan=10))
    for each in jobs:
        world(Cancel(each.job_id))
        world(Retry(each.job_id))
        world(Forget(each.job_id))
    world(Sweep("default", "READY", "forget", scan=10))


@given(st.lists(texts, min_size=1, max_size=4))
def test_the_texts_of_a_command_are_payloads_results_and_errors(some):
    submits = [Enqueue(job_id(index), text, 1, "o") for index, text in enumerate(some)]
    total = sum(map(len, some))
    assert sum(map(text_bytes, submits)) == text_bytes(EnqueueMany(submits)) == total
    assert text_bytes(Many([Ack(job_id(1), 1, text) for text in some])) == total
    assert text_bytes(Many([Fail(job_id(1), 1, text) for text in some])) == total
    assert text_bytes(Ack(job_id(1), 1, None)) == text_bytes(Lease(1)) == 0


def test_the_largest_submit_is_reckoned_with_all_its_names():
    world = World()
    world(
        Enqueue(
            job_id(1),
            bytes(TEXT_BYTES_MAX),
            1_000_000,
            WIDEST * 4_000,
            encode_options(Options(tags=((WIDEST, "v" * (OPTIONS_BYTES_MAX - 60)),))),
            1 << 53,
            1 << 53,
            WIDEST * GROUP_CHARS_MAX,
            bytes(16),
        )
    )
    assert len(world.state) == 1
