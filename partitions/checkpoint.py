"""Snapshots, and room on the disk: what a partition does between two batches.

A **checkpoint** begins when the log has grown enough since the last one. It writes a snapshot
in steps, then keeps that one and the one before. A segment that is older than both is
**covered**; it is retired as soon as no live text is in it. Texts die at any time, so this is
looked at every second, not only after a snapshot.

**Copying forward.** When sealed segments hold much more than their live texts, the covered one
with the smallest share of them is gone through from its beginning: events are read, dead texts
are not. What is still needed is staged anew and committed with events that say so, and then it is
empty and goes. What an event takes beside its text counts as garbage, too, and a copy has it
again: with texts of a few bytes a log may be mostly that. So what copying costs is measured, and
a segment is only copied if the copy will be clearly smaller.

Every step is short (``_STEP_JOBS``, ``_STEP_EVENTS``, ``_STEP_LOOKS``, ``_STEP_BYTES``,
``_STEP_READ_BYTES``) and is followed by a pause in proportion to its length, so that this takes a
fifth of the partition's time at most, and half of it while the log is larger than it should be
(``_SIZE_SHARE``).

**Pressure.** Acks of a large backlog can be quicker than that: each takes its text away from the
live data, and what is dead can only go once it is covered. So as the log comes near to what it may
take at most (1.5 times the live data and two segments), the share of the partition's time rises to
nearly all of it, and acks become slower instead of the log larger. Between two batches there are
then several steps, for ``_BURST_S`` and one step at most. The rest of what the work on a batch
brought stays **owed**: until it is done the actor takes in no more acks, while it goes on with all
else. So it does not matter whether a hundred jobs are acked at once or ten thousand. (With texts of
64 KiB and many callers it is not enough: docs/durability.md.) Snapshots come more often, whatever
they take. And while the log is too large one begins with a new segment, so that what it covers need
not wait for the next one.

``longest_step_ms`` is what all this costs a client at worst. Everything is synced by the thread
that calls.

A disk without room abandons what is under way, to be tried again later; any other failure
is the partition's end, as everywhere.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import BlobUnreadableError
from partitions.events import Event, decode_events, position_in
from partitions.jobs import Jobs
from partitions.log import NO_DESCRIPTOR, NO_SPACE, Identity, Log, Segment
from partitions.positions import size_of
from partitions.record import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from partitions.snapshot import SnapshotHead, SnapshotWriter, snapshot_lsns, snapshot_name

_logger: Final = logging.getLogger("queue_node.partition")

_STEP_JOBS: Final = 2_000
_STEP_BYTES: Final = 256 << 10
_STEP_EVENTS: Final = 250
"""Texts that are copied. One takes 9 us, 28 with millions of jobs, which no cache holds: 7 ms."""
_STEP_LOOKS: Final = 2_000
"""Events that are looked at; most of them put no text there, or one that is dead by now."""
_EVENT_BYTES: Final = 64
"""More than a moved text's event takes."""
_STEP_RECORDS: Final = 64
_STEP_READ_BYTES: Final = 1 << 20
"""Events and live texts that are read; one record's, or one text's, may come on top."""
_DUTY: Final = 4
"""A step of 1 ms is followed by a pause of 4 ms."""
_DUTY_BEHIND: Final = 1
"""The same, while copying does not keep up."""
_DUTY_FULL: Final = 1 / 16
"""The same, under full pressure; that is 1 under none."""
_DUTY_MIN: Final = 1 / 1024
"""The same, with twice that: half a segment before what is promised."""
_BURST_S: Final = 0.020
"""Steps in a row, under pressure: the last one begins before that."""
_OWED_MAX_S: Final = 2.0
"""More is never owed at once. What goes on meanwhile, and acks that are before them in the line,
come on top of what acks wait."""
_SIZE_SHARE: Final = 1.5
"""Sealed segments should not hold more than so many times the live data."""
_PRESSURE_FROM: Final = 1.1
_PRESSURE_FULL: Final = 1.4
"""Pressure is 0 with the first of these, 1 with the second: what the log takes above that, in
segments, with the room for a copy. Two are promised; the rest is for what full pressure lets
through, which is less and less up to 2. A steady load without a backlog stays below the first: it
has twice what a checkpoint is due after."""
_PRESSURE_DUE: Final = 0.5
"""With more pressure than this, how much a snapshot takes does not matter."""
_DIED_SHARE: Final = 0.25
"""With that, one is due after texts of so much of a segment died, however little log that was."""
_COPY_ROOM: Final = 0.5
"""Of a segment: what copying one takes before it goes."""
_GROWTH_BYTES_MIN: Final = 24 << 20
"""A checkpoint is due after this much log; or, if that is more, after as much as a snapshot takes,
so that snapshots cost no more writing than the log itself (twice that while the log is larger than
it should be, and more under pressure)."""
_PATIENCE: Final = 4
"""As long as there is little garbage, after so many times as much: all that a snapshot would spare
is the next start reading that. A backlog that grows was slower by a sixth without this."""
_GARBAGE_SHARE: Final = 0.3
"""Copying forward begins when sealed segments hold more garbage than this share of the live
data."""
_LOOK_EVERY_MS: Final = 1_000
_LOOK_PRESSED_MS: Final = 50
"""The same, under pressure."""
_COPY_SHARE_MAX: Final = 0.85
"""A segment whose copy would take more of its size than this is left as it is."""
_RETRY_MS: Final = 10_000
_KEPT_SNAPSHOTS: Final = 2


class Checkpoints:
    """Decides when, does a step at a time; one owner, the actor."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        identity: Identity,
        jobs: Jobs,
        log: Log,
        *,
        newest: SnapshotHead | None = None,
        record_bytes: int = 0,
        bad_lsns: Collection[int] = (),
        growth_bytes_min: int = _GROWTH_BYTES_MIN,
        step_jobs: int = _STEP_JOBS,
        duty: int = _DUTY,
        patience: int = _PATIENCE,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._jobs = jobs
        self._log = log
        self._growth_bytes_min = growth_bytes_min
        self._step_jobs = step_jobs
        self._duty = duty
        self._patience = patience
        self._timer = timer
        self._newest_lsn = 0 if newest is None else newest.lsn
        self._bad_lsns = set(bad_lsns)
        """Snapshots that no start can use: they must not count as kept."""
        # Log that a start replayed counts: a partition that is killed again and again before it
        # has written enough would else never take a snapshot, and its log grow for ever.
        self._appended_at_newest = -record_bytes
        self._appended_at_begin = 0
        self._died_at_newest = 0
        self._died_at_begin = 0
        self._writer: SnapshotWriter | None = None
        self._head: SnapshotHead | None = None
        self._snapshot_bytes = 0
        self._victim: Segment | None = None
        self._victim_offset = 0
        self._victim_events: deque[Event] = deque()
        self._read_bytes = 0
        self._moves = 0
        """Both in this step."""
        self._is_short = False
        """The log has no room for the text that was to be copied: it is tried again later."""
        self._moved_bytes = 1
        self._copied_bytes = 1
        """Log that was written for them, so far; a copy of so much costs as much more."""
        self._leaving: list[int] = []
        self._covered_lsn: int | None = None
        """Of the older of two snapshots, 0 if there are not two; None: not looked yet."""
        self._next_look_ms = 0
        self._stuck: dict[int, int] = {}
        """``{number: bytes}`` of segments with a text that cannot be read: copying them forward is
        given up, and no pressure would make them smaller."""
        self._next_ms = 0
        self._is_pausing = False
        """Whether it is for others' sake that there is no step before that."""
        self._began_ms = 0
        self._work_since: float | None = None
        self._work_s = 0.0
        """The actor's, since the last step."""
        self._owed_s = 0.0
        """Of steps, for work that was done under pressure."""
        self.longest_step_ms = 0.0
        """Since the start of the process."""

    @property
    def next_step_ms(self) -> int | None:
        """When ``step`` has something to do; None: not before the log has grown."""
        if self._writer or self._victim or self._leaving or self._is_due():
            return self._next_ms
        return None

    @property
    def is_owed(self) -> bool:
        """Whether acks have to wait for what is to be done here."""
        return self._owed_s > 0 and self.next_step_ms is not None

    def note_work(self) -> None:
        """The actor begins with a batch: under pressure, what it takes is owed many times over."""
        self._work_since = self._timer()

    def step(self, now_ms: int) -> None:
        """Do a little, if it is time; between commits only.

        Raises:
            OSError: the disk failed. The process must end.
        """
        started = self._timer()
        if self._work_since is not None:
            self._work_s += started - self._work_since
            self._work_since = None
        if now_ms < self._next_ms:
            # With large texts, acks bring full pressure within a pause.
            if not self._is_pausing or self._pressure() < 1:
                return
            self._next_ms = now_ms
        self._is_pausing = False
        worked_s, self._work_s = self._work_s, 0.0
        if not self._do_something(now_ms):
            self._owed_s = 0.0
            return
        duty = self._duty_now()
        is_pressed = 0 < duty < _DUTY_BEHIND
        self._owed_s = min(self._owed_s + worked_s / duty, _OWED_MAX_S) if is_pressed else 0.0
        burst_s = min(self._owed_s, _BURST_S)
        while (ended := self._timer()) - started < burst_s and now_ms >= self._next_ms:
            if not self._do_something(now_ms):
                self._owed_s = 0.0
                break
        took_s = ended - started
        self.longest_step_ms = max(self.longest_step_ms, took_s * 1000)
        self._owed_s = max(self._owed_s - took_s, 0.0)
        if self._next_ms > now_ms:
            self._owed_s = 0.0  # It cannot go on for now.
        elif not self._owed_s:
            self._next_ms = now_ms + int(took_s * 1000 * duty)
            self._is_pausing = True

    def finish(self, now_ms: int, within_ms: int) -> bool:
        """On a clean shutdown: a snapshot of all there is, if that can be had in time."""
        if self._writer is None and self._newest_lsn == self._log.next_lsn - 1:
            return True
        give_up_at = time.perf_counter() + within_ms / 1000
        if self._writer is not None:
            self._abandon()
        try:
            self._begin(now_ms)
            while self._writer is not None:
                if time.perf_counter() > give_up_at:
                    _logger.warning(
                        "the last snapshot, of %d jobs, was not done in %d ms and is given up:"
                        " the next start reads more log, and loses nothing",
                        len(self._jobs.by_id),
                        within_ms,
                    )
                    self._abandon()
                    return False
                self._write_some(now_ms)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            _logger.error(
                "no room on the disk for the last snapshot: the next start reads more log, and"
                " loses nothing"
            )
            self._abandon()
            return False
        return True

    def _is_due(self) -> bool:
        growth = self._log.appended_bytes - self._appended_at_newest
        if not self._is_behind():
            share = 1 if self._has_garbage() else self._patience
            return growth >= max(self._growth_bytes_min, share * self._snapshot_bytes)
        # Only what two snapshots cover can go: they come twice as often, or, before the log takes
        # more than it may, whatever that costs; and when jobs with large texts went, which is
        # much to clean after little log.
        if growth >= max(self._growth_bytes_min, self._snapshot_bytes // 2):
            return True
        pressure = self._pressure()
        if pressure <= _PRESSURE_DUE:
            return False
        costs = 0 if pressure >= 1 else self._snapshot_bytes
        died_bytes = self._died_bytes - self._died_at_newest
        return growth >= self._growth_bytes_min or died_bytes >= max(
            _DIED_SHARE * self._log.segment_bytes, costs
        )

    @property
    def _died_bytes(self) -> int:
        """Texts that jobs ceased to need; not those that were copied."""
        return self._jobs.live.dropped_bytes - self._moved_bytes

    def _is_overdue(self) -> bool:
        """Whether a snapshot goes before copying: it may be what copying needs next."""
        growth = self._log.appended_bytes - self._appended_at_newest
        return growth >= max(self._growth_bytes_min, self._snapshot_bytes) and self._is_due()

    def _is_behind(self) -> bool:
        return self._log.sealed_bytes > _SIZE_SHARE * self._jobs.live.total_bytes

    def _pressure(self) -> float:
        """How near the log is to what it may take at most: from 0 to 1, and to 2 beyond that."""
        cost = self._copied_bytes / self._moved_bytes
        share = max(_SIZE_SHARE, cost / _COPY_SHARE_MAX)
        live_bytes, segment_bytes = self._jobs.live.total_bytes, self._log.segment_bytes
        # A segment goes only when the last of its texts was copied.
        copy_bytes = min(live_bytes, _COPY_ROOM * segment_bytes)
        used_bytes = self._log.used_bytes - sum(self._stuck.values())
        excess = (used_bytes + copy_bytes - share * live_bytes) / segment_bytes
        pressure = (excess - _PRESSURE_FROM) / (_PRESSURE_FULL - _PRESSURE_FROM)
        return min(max(pressure, 0.0), 2.0)

    def _duty_now(self) -> float:
        pressure = self._pressure()
        if pressure > 1:
            return max(_DUTY_FULL * (2 - pressure), _DUTY_MIN)
        if pressure:
            return min(self._duty, max(_DUTY_BEHIND * (1 - pressure), _DUTY_FULL))
        return min(self._duty, _DUTY_BEHIND) if self._is_behind() else self._duty

    def _has_garbage(self) -> bool:
        """Whether sealed segments hold much that is no live text."""
        live = self._jobs.live
        live_bytes = live.total_bytes - live.by_segment.get(self._log.tail_segment, 0)
        return self._log.sealed_bytes - live_bytes > _GARBAGE_SHARE * live.total_bytes

    def _do_something(self, now_ms: int) -> bool:
        if self._leaving:
            # One at a time, for each is a sync; and before all else, for it gives room.
            number = self._leaving.pop()
            self._log.retire([number])
            self._stuck.pop(number, None)
        elif (
            self._writer is not None
            or self._is_overdue()
            or (self._victim is None and self._is_due())
        ):
            self._go_on_with_snapshot(now_ms)
        elif self._victim is not None:
            self._copy_some(now_ms)
        else:
            return self._look(now_ms)
        return True

    def _look(self, now_ms: int) -> bool:
        """Whether something can go by now that could not before."""
        if now_ms < self._next_look_ms:
            return False
        self._next_look_ms = now_ms + (_LOOK_PRESSED_MS if self._pressure() else _LOOK_EVERY_MS)
        if self._covered_lsn is None:
            self._prune_snapshots()
        self._retire()
        self._choose_victim()
        return bool(self._leaving) or self._victim is not None

    def _go_on_with_snapshot(self, now_ms: int) -> None:
        if self._writer is None and self._is_behind():
            # What is before the snapshot shall not share a segment with what is behind it, which
            # would keep it for as long.
            self._log.begin_segment(now_ms)
        # Only here may a disk without room be forgiven: a snapshot is a file of its own, and
        # an unfinished one is as good as none. In the log a failed write is the end.
        try:
            if self._writer is None:
                self._begin(now_ms)
            else:
                self._write_some(now_ms)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                _logger.error("no descriptor for a snapshot; trying again later")
                self._log.close_surplus()
            elif error.errno in NO_SPACE:
                _logger.error("no room on the disk for a snapshot; trying again later")
            else:
                raise
            self._abandon()
            self._next_ms = now_ms + _RETRY_MS

    # Snapshots ----------------------------------------------------------------------------

    def _begin(self, now_ms: int) -> None:
        identity = self._identity
        head = SnapshotHead(
            identity.partition,
            identity.slot_first,
            identity.slot_end,
            self._log.next_lsn - 1,
            now_ms,
            self._log.tail_segment,
            self._jobs.begin_snapshot(),
        )
        self._head, self._began_ms = head, now_ms
        self._appended_at_begin = self._log.appended_bytes
        self._died_at_begin = self._died_bytes
        self._writer = SnapshotWriter(self._disk, self._directory, head)

    def _write_some(self, now_ms: int) -> None:
        assert self._writer is not None
        piece = self._jobs.next_for_snapshot(self._step_jobs)
        if piece.kinds or piece.jobs or piece.claims:
            self._writer.add(piece)
            return
        assert self._head is not None
        self._writer.finish()
        _logger.info(
            "snapshot of %d jobs at record %d: %d bytes in %d ms, longest step so far %.1f ms",
            self._head.state.jobs,
            self._head.lsn,
            self._writer.size_bytes,
            now_ms - self._began_ms,
            self.longest_step_ms,
        )
        self._snapshot_bytes = self._writer.size_bytes
        self._writer = None
        self._newest_lsn = self._head.lsn
        self._bad_lsns.discard(self._head.lsn)  # the good one took its name
        # Only now: one that was abandoned is due again.
        self._appended_at_newest = self._appended_at_begin
        self._died_at_newest = self._died_at_begin
        self._prune_snapshots()
        self._retire()
        self._choose_victim()

    def _abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        self._jobs.abandon_snapshot()

    def _prune_snapshots(self) -> None:
        """Keep two; a bad one stays until two good ones stand for it."""
        lsns = snapshot_lsns(self._disk.names(self._directory))
        good = [lsn for lsn in lsns if lsn not in self._bad_lsns]
        kept = good[-_KEPT_SNAPSHOTS:]
        if len(kept) < _KEPT_SNAPSHOTS:
            self._covered_lsn = 0
            return
        for lsn in [*good[:-_KEPT_SNAPSHOTS], *sorted(self._bad_lsns)]:
            self._disk.remove(self._directory / snapshot_name(lsn))
        self._bad_lsns.clear()
        self._covered_lsn = kept[0]

    def _covered(self) -> list[Segment]:
        """Sealed segments that no snapshot needs to be followed by."""
        covered_lsn = self._covered_lsn or 0
        return [
            segment
            for segment, next_first_lsn in _with_next(self._log)
            if next_first_lsn - 1 <= covered_lsn
        ]

    def _retire(self) -> None:
        """Covered segments without a live text shall leave."""
        live = self._jobs.live.by_segment
        self._leaving = [
            segment.header.number
            for segment in self._covered()
            if segment.header.number not in live
        ]

    # Copying forward ----------------------------------------------------------------------

    def _choose_victim(self) -> None:
        """The covered segment with the smallest share of live bytes, if there is much garbage."""
        self._victim = None
        live = self._jobs.live.by_segment
        cost = self._copied_bytes / self._moved_bytes
        candidates = [
            each
            for each in self._covered()
            if each.header.number in live
            and each.header.number not in self._stuck
            and live[each.header.number] * cost < _COPY_SHARE_MAX * each.end_bytes
        ]
        if candidates and self._has_garbage():
            self._victim = min(
                candidates, key=lambda each: live[each.header.number] / each.end_bytes
            )
            self._victim_offset = SEGMENT_HEADER_BYTES
            self._victim_events.clear()

    def _copy_some(self, now_ms: int) -> None:
        """Copy live texts of the segment, about ``_STEP_BYTES`` of them, in one commit."""
        assert self._victim is not None
        events: list[Event] = []
        records, looked, at_end = 0, 0, False
        self._read_bytes, self._moves = 0, 0
        while (
            self._log.staged_bytes < _STEP_BYTES
            and len(events) < _STEP_EVENTS
            and looked < _STEP_LOOKS
            and self._read_bytes < _STEP_READ_BYTES
        ):
            if self._victim_events:
                looked += 1
                events += self._jobs.moved(self._victim_events[0], self._move)
                if self._is_short:
                    self._is_short = False
                    self._next_ms = now_ms + _RETRY_MS
                    break
                self._victim_events.popleft()
            elif records < _STEP_RECORDS and not at_end:
                at_end = not self._read_victim()
                records += 1
            else:
                break
        if events:
            appended_before = self._log.appended_bytes
            self._log.commit(events, now_ms)
            self._copied_bytes += self._log.appended_bytes - appended_before
            for event in events:
                self._moved_bytes += size_of(position_in(event))
                self._jobs.evolve(event)
        number = self._victim.header.number
        if at_end and number in self._jobs.live.by_segment:
            # Nothing is lost by leaving them where they are; ``verify`` tells more.
            _logger.error(
                "segment %d: %d bytes of texts could not be copied forward; reading it ended at"
                " offset %d",
                number,
                self._jobs.live.by_segment[number],
                self._victim_offset,
            )
            self._stuck[number] = self._victim.file_bytes
        if at_end or number not in self._jobs.live.by_segment:
            self._retire()
            self._choose_victim()

    def _read_victim(self) -> bool:
        """Take the events of its next record; False when there is none."""
        assert self._victim is not None
        number, offset = self._victim.header.number, self._victim_offset
        found = self._log.read_events(number, offset)
        if found is None:
            return False
        body, record_bytes = found
        # Nothing here is checked, and nothing needs to be: an event whose bytes are damaged names
        # no position where its job has a text now, and texts have checksums of their own.
        try:
            events = decode_events(body)
        except msgspec.MsgspecError:
            return False
        self._victim_offset += record_bytes
        self._victim_events.extend(events)
        self._read_bytes += RECORD_HEADER_BYTES + len(body)
        return True

    def _move(self, position: int) -> int | None:
        text_bytes = size_of(position)
        before = RECORD_HEADER_BYTES + self._log.staged_bytes + _EVENT_BYTES * (self._moves + 1)
        if not self._log.reserve(before + text_bytes):
            self._is_short = True
            return None
        self._moves += 1
        self._read_bytes += text_bytes
        try:
            text = self._log.read(position)
        except BlobUnreadableError as error:
            _logger.error("a text is unreadable and stays where it is: %s", error)
            return None
        return self._log.put(text)


def _with_next(log: Log) -> list[tuple[Segment, int]]:
    """``(sealed segment, first lsn of the one after it)``."""
    sealed = list(log.sealed)
    if not sealed:
        return []
    firsts = [each.header.first_lsn for each in sealed[1:]] + [log.tail_first_lsn]
    return list(zip(sealed, firsts, strict=True))
