"""Every bound of a partition: its unit, and why it has this value.

A number marked *guess* was not measured; the others say where they come from.
"""

from typing import Final

TEXT_BYTES_MAX: Final = 1 << 20
"""A payload, a result or an error message, UTF-8. The contract's 1 MiB (413 beyond it)."""

FRAME_BYTES_MAX: Final = 32 << 20
"""One frame on a pipe. Room for 31 of the largest texts; more means a broken peer."""

FRAME_BYTES_SOFT: Final = 1 << 20
"""A sender starts a new frame once this much is gathered, so one frame stays near 2 MiB."""

FRAME_REQUESTS_MAX: Final = 128
"""Requests in one frame of a front; more that gathered go into the next one.

With ``BATCH_REQUESTS_MAX``: without a bound 256 connections fall into step, all in one batch,
and the front idles while the partition commits and the other way round. Measured, one front,
256 connections: 25,200 submits/s against 21,000."""

REQUESTS_PER_PARTITION_MAX: Final = 4096
"""Requests of one front in flight to one partition; the next one is refused with 503.

Four times the connections that saturate a front (256 measured, guess: 1,024)."""

MAILBOX_MAILS_MAX: Final = 64
"""Frames a partition holds unanswered before it stops reading its pipes (2 MiB each at most,
but for one very large text)."""

LOCK_WAIT_S: Final = 15.0
"""How long a new partition waits for one that lost its supervisor to let go of the files."""

IN_FLIGHT_BYTES_MAX: Final = 64 << 20
"""Texts of one front in flight to one partition; more are refused with 503."""

FREED_BYTES_MAX: Final = 4 << 20
"""Texts that the acks of one batch free, or one call's if that is more: a sixteenth of a segment.
Estimated by what the texts of a job take on average."""

HELD_BYTES_MAX: Final = 32 << 20
"""Acks that wait for cleaning, as bytes of a record: some 300,000, or 60 MB of memory. With more of
them the first ones are taken, though cleaning is owed."""

BATCH_REQUESTS_MAX: Final = 128
"""Requests that share one commit. Keeps a record small against the segment."""

BATCH_BYTES_MAX: Final = 8 << 20
"""What shares one commit: at most this and one more command (of a frame) are in a record. Acks that
waited are counted like all else."""

RECORD_BYTES_MAX: Final = 48 << 20
"""A record longer than this is not one of ours: the header is damaged."""

SEGMENT_BYTES: Final = 64 << 20
"""A record starts in the next segment once this much of the segment is used."""

EXTENT_BYTES: Final = 1 << 20
"""A segment grows by this many zeros at a time (2.5 ms for 1 MiB with its sync, measured).

Commits into zeros that are already on disk change no metadata: 76 us against 108 us."""

RESERVE_BYTES: Final = 512 << 10
"""Of the zeros ahead of the tail, kept for acks and leases when the disk is full.

Must hold ``DUE_PER_TICK_MAX`` small events besides (guess: some thousand acks)."""

DUE_PER_TICK_MAX: Final = 4096
"""Deadlines handled at one moment, so in one batch: a million leases that end together do not
stall the rest, and their events fit a record."""

ATTEMPTS_MAX: Final = 1_000_000
"""Largest ``max_retries`` accepted (guess: beyond it is a typing error)."""

# What a submit may say of a job, beside its payload. Names are kept in memory, once for all jobs
# that are alike (``kinds``).

QUEUE_CHARS_MAX: Final = 128
"""The contract's ``[A-Za-z0-9_.:-]{1,128}``."""

QUEUES_MAX: Final = 10_000
"""Queues of one partition that hold jobs or are paused; a submit to one more is refused (429).

Each costs about 2 KB and a line of ``GET /queues`` (guess: more are a job id used as a name)."""

PAGE_QUEUES_MAX: Final = 250
"""Queues that one ``ViewQueues`` is told of: 2 ms, in which the partition does nothing else. All
10,000 at once took 60."""

PRIORITY_MAX: Final = 100
"""And -100 is the lowest."""

GROUP_CHARS_MAX: Final = 256
"""A group's name (guess: an order number, an e-mail address, a path)."""

WORKER_CHARS_MAX: Final = 128
"""The name that a worker gives itself."""

PROGRESS_BYTES_MAX: Final = 2048
"""What a heartbeat says of the work, as JSON (256 characters of any kind fit); kept in memory
while the job is there."""

OPTIONS_BYTES_MAX: Final = 24 << 10
"""Queue, tags and all the rest of the options of one job, encoded: room for 16 tags of 64
characters with values of 256, four bytes each at worst."""

ENQUEUE_JOBS_MAX: Final = 10_000
"""Jobs of one batch submit, so of one command: 4 MiB of events at the most usual sizes."""

LEASE_JOBS_MAX: Final = 1_000
"""Jobs of one lease call (the contract)."""

LEASE_BYTES_MAX: Final = 8 << 20
"""Payloads and options of one lease call: it gets fewer jobs than it asked for, at least one."""

MANY_MAX: Final = 10_000
"""Commands in one ``Many``: acks or heartbeats of one call."""

SCAN_JOBS_MAX: Final = 2_000
"""Jobs that one page of a list, or one step of a bulk call, looks at: about 1 ms."""

PAGE_BYTES_MAX: Final = 1 << 20
"""Error messages of one page of a list; it ends early beyond it."""

WATCHED_JOBS_MAX: Final = 20_000
"""Jobs that one front can have watched by a partition; beyond it a wait is refused with 503."""

CLAIM_MS: Final = 10_000
"""How long after a front began to claim an idempotency key it may store the key's job. Twice what
it waits for a partition that died under it; while it lasts, nobody else can have the key (503)."""

CLAIM_FREE_MS: Final = CLAIM_MS + 1_000
"""A claim of this age without a job will never have one, and is let go: a second for clocks that
count whole milliseconds is plenty."""

CLAIMS_PAGE_MAX: Final = 1_000
"""Claims that one ``ListClaims``, ``FreeKeys`` or ``FindGone`` is about (guess: below 1 ms)."""
