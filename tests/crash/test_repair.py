"""``repair``: what it says of each job is true, whatever is damaged, and its copy starts.

The truth is known: the partition's past, record by record. Three things are held against it:

* every job that is called neither lost nor uncertain is as it was;
* which are called lost and uncertain, against a model of a few lines that knows nothing of
  files, only which records are gone;
* no lease token, lsn or segment is given twice.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from partitions.events import (
    Event,
    JobAcked,
    JobCancelled,
    JobEnqueued,
    JobExpired,
    JobFailed,
    JobForgotten,
    JobRetried,
    KeyClaimed,
    KeyFreed,
    LeaseExpired,
    OutcomeMoved,
    PayloadMoved,
    QueuePaused,
    TokensRaised,
)
from partitions.job import EMPTY_AT, Job, State
from partitions.log import segment_name
from partitions.messages import Ack, Lease, Leased, Pause, Settled
from partitions.positions import offset_of, segment_of
from partitions.rebuild import Checked, checking, rebuilding
from partitions.record import (
    BLOB_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    find_seal,
)
from partitions.recovery import recover
from partitions.remains import Remains, gathering
from partitions.state import PartitionState
from partitions.verify import verifying
from tests.support.driver import DIRECTORY, IDENTITY, START_MS, filled, jobs_of
from tests.support.fake_disk import FakeDisk
from tests.support.mixed import QUEUES
from tests.support.past import (
    POLICY,
    SIZES,
    Past,
    changed,
    finished,
    flipped,
    header_of,
    records_of,
    unfinished,
)
from tests.support.witness import whole

TARGET = Path("/repaired/p-0000")


class Repaired(NamedTuple):
    remains: Remains
    checked: Checked
    submissions_lost: set[bytes]
    state: PartitionState
    texts: dict[bytes, tuple[bytes, bytes]]


def repaired(disk: FakeDisk) -> Repaired:
    """Repair, verify, start: as the command does, one partition."""
    disk.make_directory(TARGET)
    disk.operations.clear()
    before = {name: disk.content(DIRECTORY / name) for name in disk.names(DIRECTORY)}
    remains = finished(gathering(disk, DIRECTORY, IDENTITY))
    lost = set(remains.rescue.lost)
    checked = finished(checking(disk, DIRECTORY, remains))
    finished(rebuilding(disk, DIRECTORY, remains, TARGET, SIZES))
    assert {name: disk.content(DIRECTORY / name) for name in disk.names(DIRECTORY)} == before
    assert not any(each.path.is_relative_to(DIRECTORY) for each in disk.operations)
    assert disk.open_files == 0
    report = finished(verifying(disk, TARGET, IDENTITY, deep=True))
    assert report.faults == []
    state = PartitionState(POLICY)
    found = recover(disk, TARGET, IDENTITY, state, SIZES)
    assert found.log.next_lsn > remains.last_lsn + 1
    texts = {
        each: tuple(
            found.log.read(at) if at > EMPTY_AT else b"" for at in (job.payload_at, job.outcome_at)
        )
        for each, job in jobs_of(state).items()
    }
    found.log.close()
    return Repaired(remains, checked, lost, state, texts)  # type: ignore[arg-type]


def differences(past: Past, got: Repaired) -> list[str]:
    """Jobs that are not as they were, although nobody was told."""
    said = got.submissions_lost | set(got.checked.payloads_lost)
    jobs = jobs_of(got.state)
    in_gaps = lost_lsns(past, got)
    enqueued, forgotten = said_in(past, JobEnqueued, in_gaps), said_in(past, JobForgotten, in_gaps)
    retried = said_in(past, JobRetried, in_gaps)
    wrong = [
        f"{each.hex()} from nowhere" for each in jobs if each not in past.jobs.keys() | forgotten
    ]
    for each, truth in past.jobs.items():
        job = jobs.get(each)
        if job is None:
            if each not in said | enqueued:
                wrong.append(f"{each.hex()} is lost and nobody said so")
            continue
        key = got.state.jobs.kind(job).key
        if key != past.kinds[each] or job.number != truth.number:
            wrong.append(f"{each.hex()} is {key} {job.number}, it was {past.kinds[each]}")
        attempts_max = got.state.jobs.kind(job).attempts_max
        if job.attempts > attempts_max:
            wrong.append(f"{each.hex()}: {job.attempts} attempts of {attempts_max}")
        if each in got.remains.rescue.uncertain or (each in retried and not unfinished(job)):
            continue
        payload, outcome = past.texts[each]
        if each in got.checked.outcomes_lost:
            outcome = b""
        if (job.state, got.texts[each]) != (truth.state, (payload, outcome)):
            wrong.append(f"{each.hex()}: {job.state.name}, it was {truth.state.name}")
        if (unfinished(truth) or not in_gaps) and plain(job) != plain(truth):
            wrong.append(f"{each.hex()}: {job}, it was {truth}")
    if not in_gaps and not got.checked.payloads_lost:
        wrong += differences_in_order(got, past)
    return wrong


def plain(job: Job) -> Job:
    """The job without what is otherwise in each partition."""
    run = None if job.run is None else msgspec.structs.replace(job.run, outcome_at=0)
    return msgspec.structs.replace(job, kind=0, payload_at=0, run=run)


def differences_in_order(got: Repaired, past: Past) -> list[str]:
    """Paused queues, turns of groups, order of leasing: with all jobs there, they are the same."""
    now, then = whole(got.state), past.whole
    wrong = [] if now.groups == then.groups else [f"groups {now.groups}, were {then.groups}"]
    return wrong + [
        f"{name} is {now.rest[name]}, was {then.rest[name]}"
        for name in ("ready", "paused", "counts", "order", "timers", "unfinished")
        if now.rest[name] != then.rest[name]
    ]


def said_in(past: Past, kind: type[Event], lsns: set[int]) -> set[bytes]:
    """Jobs of which such an event is in one of these records."""
    return {
        event.job_id
        for lsn in lsns
        for event in past.records.get(lsn, [])
        if isinstance(event, kind)
        and not isinstance(event, TokensRaised | QueuePaused | KeyClaimed | KeyFreed)
    }


def lost_lsns(past: Past, got: Repaired) -> set[int]:
    lost: set[int] = set()
    for gap in got.remains.gaps:
        last = past.last_lsn if gap.last_lsn is None else gap.last_lsn
        lost.update(range(gap.first_lsn, last + 1))
    return lost


class Model(NamedTuple):
    lost: set[bytes]
    uncertain: set[bytes]


def model(past: Past, gone: set[int], open_end: bool) -> Model:
    """What can be said when just these records are gone."""
    known: set[bytes] = set()
    ended: set[bytes] = set()
    lost: set[bytes] = set()
    uncertain: set[bytes] = set()
    for lsn, events in [*past.records.items(), (past.last_lsn + 1, [])]:
        if lsn in gone or (open_end and lsn > past.last_lsn):
            uncertain |= known - ended
            continue
        for event in events:
            each = getattr(event, "job_id", None)
            if each is None:
                continue
            if isinstance(event, JobEnqueued):
                known.add(each)
            elif isinstance(event, JobForgotten):
                for those in (known, lost, uncertain, ended):
                    those.discard(each)
            elif each not in known:
                lost.add(each)
            elif ends(event):
                ended.add(each)
                uncertain.discard(each)
            elif isinstance(event, JobRetried):
                ended.discard(each)
            elif each in ended and not isinstance(event, PayloadMoved | OutcomeMoved):
                # It goes on, so it was retried in a gap.
                ended.discard(each)
                uncertain.add(each)
    return Model(lost, uncertain)


def ends(event: Event) -> bool:
    """Whether the job is finished by it."""
    return (
        isinstance(event, JobAcked | JobExpired | JobCancelled)
        or (isinstance(event, JobFailed) and event.retry_at_ms == 0)
        or (isinstance(event, LeaseExpired) and event.dead)
    )


@pytest.fixture(scope="module")
def past() -> Past:
    past = Past(60)
    assert len(past.segments) >= 10
    return past


def expect(past: Past, disk: FakeDisk, gone: set[int], *, open_end: bool = False) -> Repaired:
    """Repair, and hold it against the truth and the model."""
    got = repaired(disk)
    assert differences(past, got) == []
    assert lost_lsns(past, got) == gone
    told = model(past, gone, open_end)
    kept = told.uncertain - set(got.checked.payloads_lost)
    assert (got.submissions_lost, got.remains.rescue.uncertain) == (told.lost, kept)
    assert got.state.jobs.last_token > past.last_token
    return got


# Each kind of damage ------------------------------------------------------------------------


def test_without_damage_all_jobs_are_as_they_were(past):
    got = expect(past, past.damaged(), set())
    assert set(jobs_of(got.state)) == set(past.jobs)
    assert (got.remains.gaps, got.checked.payloads_lost, got.checked.outcomes_lost) == ([], [], [])


def test_a_damaged_text_costs_that_text_and_not_its_record(past):
    for path in past.segments[:4]:
        for record in past.records_in(path):
            text_at = record.offset_bytes + RECORD_HEADER_BYTES + BLOB_HEADER_BYTES
            if text_at >= record.end_bytes - len(record.events):
                continue
            disk = past.damaged()
            flipped(disk, path, text_at)
            got = expect(past, disk, set())
            number = header_of(past.disk.content(path)).number

            def is_there(position: int, number: int = number, at: int = text_at) -> bool:
                return (segment_of(position), offset_of(position)) == (number, at - 8)

            assert got.checked.payloads_lost == [
                each for each, job in past.jobs.items() if is_there(job.payload_at)
            ]
            assert got.checked.outcomes_lost == [
                each for each, job in past.jobs.items() if is_there(job.outcome_at)
            ]


@pytest.mark.parametrize("place", [0, 5])
def test_a_record_whose_magic_or_checksum_is_damaged_is_proven_by_the_one_behind(past, place):
    for path in past.segments[:3]:
        for record in past.records_in(path):
            disk = past.damaged()
            flipped(disk, path, record.offset_bytes + place)
            expect(past, disk, set())


@pytest.mark.parametrize("place", [9, 17, 26, 34, 38, -1], ids=str)
def test_a_record_that_is_damaged_otherwise_is_a_gap_of_one(past, place):
    for path in past.segments[2:5]:
        for record in past.records_in(path):
            disk = past.damaged()
            at = record.offset_bytes + place if place > 0 else record.end_bytes - 1
            flipped(disk, path, at)
            got = expect(past, disk, {record.lsn})
            (gap,) = got.remains.gaps
            assert (gap.file, gap.offset) == (str(path), record.offset_bytes)


def test_a_damaged_header_costs_nothing_when_two_records_are_behind_it(past):
    for path in past.segments[:-1]:
        disk = past.damaged()
        changed(disk, path, 0, bytes(SEGMENT_HEADER_BYTES))
        expect(past, disk, set())


def test_a_zeroed_page_is_a_gap(past):
    path = past.segments[3]
    disk = past.damaged()
    changed(disk, path, 256, bytes(256))
    gone = {
        record.lsn
        for record in past.records_in(path)
        if record.offset_bytes < 512 and record.end_bytes > 256
    }
    expect(past, disk, gone)


@pytest.mark.parametrize("index", range(9))
def test_a_missing_segment_is_a_gap(past, index):
    disk = past.damaged()
    path = past.segments[index]
    disk.remove(path)
    got = expect(past, disk, {record.lsn for record in past.records_in(path)})
    assert [(gap.file, gap.offset) for gap in got.remains.gaps] == [(str(path), 0)]


def test_a_missing_newest_segment_is_a_gap_without_an_end(past):
    disk = past.damaged()
    path = past.segments[-1]
    disk.remove(path)
    gone = {record.lsn for record in past.records_in(path)}
    got = expect(past, disk, gone, open_end=True)
    (gap,) = got.remains.gaps
    assert (gap.file, gap.first_lsn, gap.last_lsn) == (str(path), min(gone), None)


def test_two_holes_are_two_gaps(past):
    disk = past.damaged()
    gone = set()
    for path in (past.segments[2], past.segments[5]):
        record = past.records_in(path)[1]
        flipped(disk, path, record.end_bytes - 1)
        gone.add(record.lsn)
    assert len(expect(past, disk, gone).remains.gaps) == 2


def test_segments_under_wrong_names_are_put_in_their_places(past):
    disk = past.damaged()
    one, two = past.segments[2], past.segments[6]
    disk.put(one, past.disk.content(two))
    disk.put(two, past.disk.content(one))
    disk.put(DIRECTORY / segment_name(77), past.disk.content(past.segments[4]))
    disk.put(DIRECTORY / "notes.txt", b"?")
    got = expect(past, disk, set())
    assert any("notes.txt" in note for note in got.remains.notes)
    assert any("this is segment 5" in note for note in got.remains.notes)


def test_a_torn_tail_is_cut_as_a_start_cuts_it(past):
    disk = past.damaged()
    path = past.segments[-1]
    last = past.records_in(path)[-1]
    whole = disk.content(path)
    disk.put(path, whole[: last.end_bytes - 3])
    got = repaired(disk)
    assert got.remains.gaps == []
    assert got.remains.torn_bytes > 0
    state = PartitionState(POLICY)
    recover(disk, DIRECTORY, IDENTITY, state, SIZES)
    assert set(jobs_of(state)) == set(jobs_of(got.state))


def test_nothing_but_an_empty_directory_is_left(past):
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    got = repaired(disk)
    assert [(gap.first_lsn, gap.last_lsn) for gap in got.remains.gaps] == [(1, None)]
    assert len(got.state) == 0


# With snapshots -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snapped() -> Past:
    past = Past(100, checkpoint_bytes=1_200)
    assert len(past.snapshots) == 2
    return past


def test_damage_that_the_newest_snapshot_covers_costs_no_more_than_its_texts(snapped):
    newest = int(snapped.snapshots[-1].stem)
    for path in snapped.segments:
        records = records_of(snapped.disk.content(path))
        if not records or records[-1].lsn > newest:
            continue
        disk = snapped.damaged()
        changed(disk, path, 70, bytes(400))
        got = repaired(disk)
        assert (got.remains.gaps, got.remains.rescue.uncertain) == ([], set())
        assert differences(snapped, got) == []


def test_a_bad_newest_snapshot_costs_nothing(snapped):
    disk = snapped.damaged()
    flipped(disk, snapped.snapshots[-1], 200)
    got = repaired(disk)
    assert got.remains.gaps == []
    assert differences(snapped, got) == []
    assert set(jobs_of(got.state)) == set(snapped.jobs)


def test_without_any_snapshot_what_the_segments_still_say_is_kept(snapped):
    disk = snapped.damaged()
    for path in snapped.snapshots:
        flipped(disk, path, 20)
    got = repaired(disk)
    assert got.remains.gaps[0].first_lsn == 1
    assert differences(snapped, got) == []
    assert 0 < len(got.state) < len(snapped.jobs)


def test_a_log_that_ends_before_its_snapshot_has_a_gap_without_an_end(snapped):
    newest = int(snapped.snapshots[-1].stem)
    disk = snapped.damaged()
    for path in snapped.segments:
        records = records_of(snapped.disk.content(path))
        if not records or records[-1].lsn >= newest:
            disk.remove(path)
    got = repaired(disk)
    assert [(gap.first_lsn, gap.last_lsn) for gap in got.remains.gaps] == [(newest + 1, None)]
    assert differences(snapped, got) == []


# Anything -----------------------------------------------------------------------------------


def _flip(disk: FakeDisk, path: Path, draw: random.Random) -> None:
    flipped(disk, path, draw.randrange(len(disk.content(path))), 1 << draw.randrange(8))


def _wipe(disk: FakeDisk, path: Path, draw: random.Random) -> None:
    place = draw.randrange(len(disk.content(path)))
    size = min(draw.randint(1, 300), len(disk.content(path)) - place)
    changed(disk, path, place, draw.choice((bytes(size), draw.randbytes(size))))


def _cut(disk: FakeDisk, path: Path, draw: random.Random) -> None:
    disk.put(path, disk.content(path)[: draw.randrange(len(disk.content(path)))])


def _remove(disk: FakeDisk, path: Path, draw: random.Random) -> None:
    disk.remove(path)


def _swap(disk: FakeDisk, path: Path, draw: random.Random) -> None:
    other = DIRECTORY / draw.choice(disk.names(DIRECTORY))
    mine, theirs = disk.content(path), disk.content(other)
    disk.put(path, theirs)
    disk.put(other, mine)


ANY: list[Callable[[FakeDisk, Path, random.Random], None]] = [_flip, _wipe, _cut, _remove, _swap]


def ends_as_torn(past: Past, disk: FakeDisk) -> bool:
    """Whether the newest segment may have lost records at its end as a torn tail loses them."""
    path = past.segments[-1]
    if path.name not in disk.names(DIRECTORY):
        return False
    end = past.records_in(path)[-1].end_bytes if past.records_in(path) else 64
    return disk.content(path)[:end] != past.disk.content(path)[:end]


@pytest.mark.parametrize("seed", range(150))
def test_after_any_damage_nothing_is_silently_different(seed, past, snapped):
    draw = random.Random(seed)
    story = draw.choice((past, snapped))
    disk = story.damaged()
    for _ in range(draw.randint(1, 3)):
        path = DIRECTORY / draw.choice(disk.names(DIRECTORY))
        draw.choice(ANY)(disk, path, draw)
    got = repaired(disk)
    if ends_as_torn(story, disk):
        # Nobody can tell it from a torn tail; a start cuts it, too. Only: nothing is made up.
        forgotten = said_in(story, JobForgotten, set(story.records))
        assert set(jobs_of(got.state)) <= story.jobs.keys() | forgotten
        return
    assert differences(story, got) == []


def test_the_copy_goes_on_and_no_token_comes_again(past):
    disk = past.damaged()
    disk.remove(past.segments[4])
    got = repaired(disk)
    state = PartitionState(POLICY)
    found = recover(disk, TARGET, IDENTITY, state, SIZES)
    log = found.log
    later_ms = START_MS + 10_000_000
    for queue in QUEUES:
        log.commit(state.apply(Pause(queue, False), later_ms, log.put).events, later_ms)
    applied = state.apply(Lease(1000, QUEUES), later_ms, log.put)
    log.commit(applied.events, later_ms)
    reply = filled(applied.reply, log.read)
    assert isinstance(reply, Leased)
    assert reply.lease_token > past.last_token
    assert reply.payload == got.texts[reply.job_id][0]
    acked = state.apply(Ack(reply.job_id, reply.lease_token, None), later_ms, log.put)
    assert acked.reply == Settled(reply.job_id)
    assert log.tail_segment > len(past.segments)
    log.close()


def test_a_snapshot_of_the_copy_that_goes_bad_costs_nothing(past):
    disk = past.damaged()
    jobs = jobs_of(repaired(disk).state)
    newest = max(name for name in disk.names(TARGET) if name.endswith(".snap"))
    flipped(disk, TARGET / newest, 40)
    state = PartitionState(POLICY)
    found = recover(disk, TARGET, IDENTITY, state, SIZES)
    assert [bad.path.name for bad in found.bad_snapshots] == [newest]
    assert jobs_of(state) == jobs


def test_the_last_segment_of_the_past_is_sealed_by_nobody(past):
    content = past.disk.content(past.segments[-1])
    assert find_seal(content, 64, header_of(content).nonce) is None
    assert any(job.state is State.ACKED for job in past.jobs.values())
