"""Copying forward: what a step reads at most, and that damaged events cost no text."""

from collections.abc import Callable, Iterator
from itertools import chain

import pytest

from partitions import checkpoint
from partitions.events import Event
from partitions.jobs import Jobs
from partitions.log import Log, Sizes, segment_name
from partitions.messages import Ack, Command, Enqueue, Lease, Leased
from partitions.record import RECORD_HEADER_BYTES
from tests.support.driver import DIRECTORY, START_MS, Driver, enqueue
from tests.support.fake_disk import FakeDisk, FakeFile
from tests.support.past import records_of

BIG_BYTES = 200_000
BIG = Sizes(segment_bytes=60 * BIG_BYTES, extent_bytes=1 << 16, reserve_bytes=1 << 10)
SMALL = Sizes(segment_bytes=2048, extent_bytes=1024, reserve_bytes=512)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a file gave."""
    sizes: list[int] = []
    original = FakeFile.read

    def read(self: FakeFile, size: int, offset: int) -> bytes:
        data = original(self, size, offset)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(FakeFile, "read", read)
    return sizes


def mostly_garbage(disk: FakeDisk, sizes: Sizes, batches: list[list[Enqueue]]) -> Driver:
    """A partition that begins to copy: of each batch only the last job is not done."""
    driver = Driver(disk, sizes=sizes, checkpoint_bytes=1 << 30)
    for batch in batches:
        driver.handle([*batch], START_MS)
        leases = driver.handle([Lease(1 << 40)] * len(batch), START_MS)
        acks: list[Command] = [
            Ack(each.job_id, each.lease_token, None)
            for each in leases
            if isinstance(each, Leased) and each.job_id != batch[-1].job_id
        ]
        assert len(acks) == len(batch) - 1
        driver.handle(acks, START_MS)
        driver.make_room(START_MS)
    for index in range(2):
        driver.handle([enqueue(1_000_000 + index)], START_MS)
        assert driver.checkpoints is not None
        assert driver.checkpoints.finish(START_MS, 60_000)
    return driver


def steps_to_rest(driver: Driver) -> Iterator[None]:
    """One step after the other until there is nothing to do."""
    assert driver.checkpoints is not None
    for turn in range(1, 1_000):
        if driver.checkpoints.next_step_ms is None:
            return
        driver.checkpoints.step(START_MS + 2_000 * turn)
        yield
        driver.log.make_room(START_MS + 2_000 * turn)
    pytest.fail("it does not come to rest")


def batches_of(count: int, jobs: int, text: bytes) -> list[list[Enqueue]]:
    return [[enqueue(batch * jobs + each, text) for each in range(jobs)] for batch in range(count)]


def test_a_step_reads_no_dead_texts(reads: list[int]):
    batches = batches_of(6, 10, b"x" * BIG_BYTES)
    driver = mostly_garbage(FakeDisk(), BIG, batches)
    before = {each.header.number for each in driver.log.sealed}
    of_steps = []
    reads.clear()
    for _ in steps_to_rest(driver):
        of_steps.append(sum(reads))
        reads.clear()
    assert not before & {each.header.number for each in driver.log.sealed}, "they were copied"
    assert max(of_steps) < (1 << 20) + BIG_BYTES
    # Of twelve megabytes: the six texts that live, and what the first read of one takes more.
    assert sum(of_steps) < 7 * BIG_BYTES


def test_a_step_ends_when_it_has_read_enough(reads: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "_STEP_READ_BYTES", 3_000)
    # A hundred jobs that are done, in one record, have some kilobytes of events.
    driver = mostly_garbage(FakeDisk(), Sizes(1 << 16, 1024, 512), batches_of(40, 100, b"x" * 20))
    largest = max(
        len(record.events)
        for segment in driver.log.sealed
        for record in records_of(
            driver.disk.content(DIRECTORY / segment_name(segment.header.number))
        )
    )
    of_steps = []
    reads.clear()
    for _ in steps_to_rest(driver):
        of_steps.append(sum(reads))
        reads.clear()
    assert sum(of_steps) > 20 * max(of_steps), "one step could have read it all"
    assert max(of_steps) < 3_000 + largest + 4_096


def test_a_step_copies_and_looks_at_no_more_than_it_has_time_for(monkeypatch: pytest.MonkeyPatch):
    # A thousand texts a step took 28 ms of CPU with millions of jobs, and 150 ms at worst.
    monkeypatch.setattr(checkpoint, "_STEP_EVENTS", 3)
    monkeypatch.setattr(checkpoint, "_STEP_LOOKS", 20)
    batches = batches_of(12, 10, b"x" * 40)
    driver = mostly_garbage(FakeDisk(), SMALL, batches)
    looked: list[Event] = []
    copied: list[bytes] = []
    moved, put = Jobs.moved, Log.put

    def noted_moved(jobs: Jobs, event: Event, move: Callable[[int], int | None]) -> list[Event]:
        looked.append(event)
        return moved(jobs, event, move)

    def noted_put(log: Log, text: bytes) -> int:
        copied.append(text)
        return put(log, text)

    monkeypatch.setattr(Jobs, "moved", noted_moved)
    monkeypatch.setattr(Log, "put", noted_put)
    most_looked, most_copied = 0, 0
    for _ in steps_to_rest(driver):
        most_looked, most_copied = max(most_looked, len(looked)), max(most_copied, len(copied))
        looked.clear()
        copied.clear()
    assert most_looked == 20
    assert 0 < most_copied <= 3
    for batch in batches:
        assert driver.payload(batch[-1].job_id) == b"x" * 40


def test_without_room_for_a_text_copying_goes_on_later_where_it_was():
    disk = FakeDisk()
    batches = batches_of(12, 4, b"x" * 40)
    driver = mostly_garbage(disk, SMALL, batches)
    checkpoints = driver.checkpoints
    assert checkpoints is not None
    before = {each.header.number for each in driver.log.sealed}
    # One of them is empty and goes, whatever room there is; that alone must not be enough.
    disk.space_bytes = disk.used_bytes() - 4_000
    for turn in range(1, 20):
        checkpoints.step(START_MS + 20_000 * turn)
    assert before & {each.header.number for each in driver.log.sealed}, "there was room after all"
    disk.space_bytes = None
    for _ in steps_to_rest(driver):
        pass
    assert not before & {each.header.number for each in driver.log.sealed}
    for batch in batches:
        assert driver.payload(batch[-1].job_id) == b"x" * 40


def test_damage_to_the_events_of_an_old_record_costs_no_text():
    text = b"x" * 40
    batches = batches_of(12, 4, text)
    whole = mostly_garbage(FakeDisk(), SMALL, batches)
    name = segment_name(whole.log.sealed[1].header.number)
    *_, record = records_of(whole.disk.content(DIRECTORY / name))
    head = range(record.offset_bytes, record.offset_bytes + RECORD_HEADER_BYTES)
    events = range(record.end_bytes - len(record.events), record.end_bytes)
    for place in chain(head, events):
        driver = mostly_garbage(FakeDisk(), SMALL, batches)
        file = driver.disk.open(DIRECTORY / name, writable=True)
        file.write(bytes([file.read(1, place)[0] ^ 0x11]), place)
        file.close()
        for _ in steps_to_rest(driver):
            pass
        for batch in batches:
            assert driver.payload(batch[-1].job_id) == text, f"damaged at {place}"
