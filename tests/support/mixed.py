"""A client that asks for all that a partition can do, at random, and remembers what it holds."""

import random

from partitions.limits import OPTIONS_BYTES_MAX
from partitions.messages import (
    Ack,
    Cancel,
    Command,
    Enqueue,
    EnqueueMany,
    Extend,
    Fail,
    Forget,
    Lease,
    Leased,
    LeasedMany,
    LeaseMany,
    Many,
    Pause,
    Release,
    Reply,
    Retry,
)
from partitions.options import Options, encode_options
from partitions.retry import Backoff
from tests.support.driver import job_id

QUEUES = ("default", "mail", "slow")
OPTIONS = (
    Options(),
    Options("mail", 5),
    Options("mail", -5, tags=(("from", "shop"), ("of", "ann"))),
    Options("slow", lease_ms=20_000, retention_ms=700, backoff=Backoff(3, 30, 3.0)),
    Options("default", 1),
)
GROUPS = ("", "", "", "orders", "orders", "mails")
TTLS_MS = (0, 0, 0, 20, 100_000)
DELAYS_MS = (0, 0, 0, 9, 50_000)
PAUSES = 0.04
"""Share of the calls that pause a queue, or let it go on."""


class Mixed:
    """Every kind of call; what it leases it finishes sooner or later."""

    def __init__(
        self, seed: int, lease_ms: int, text_sizes: tuple[int, ...] = (1, 5, 40, 300)
    ) -> None:
        self._random = random.Random(seed)
        self._lease_ms = lease_ms
        self._sizes = text_sizes
        self._submitted: list[bytes] = []
        self._held: list[Leased] = []
        self._paused: list[str] = []
        self.calls: dict[str, int] = {}
        """How often it asked for what."""

    def batch(self, now_ms: int) -> list[Command]:
        """The next few calls; they count as made."""
        commands = [self._call(now_ms) for _ in range(self._random.randint(1, 4))]
        for command in commands:
            name = type(command).__name__
            self.calls[name] = self.calls.get(name, 0) + 1
        return commands

    def hear(self, replies: list[Reply]) -> None:
        """What was leased is held from now on."""
        for reply in replies:
            if isinstance(reply, Leased):
                self._held.append(reply)
            elif isinstance(reply, LeasedMany):
                self._held += reply.jobs

    def _call(self, now_ms: int) -> Command:
        draw = self._random.random()
        if draw < 0.26 or not self._submitted:
            return self._submit(now_ms)
        if draw < 0.34:
            count = self._random.randint(2, 4)
            return EnqueueMany([self._submit(now_ms) for _ in range(count)])
        if draw < 0.50:
            return self._lease()
        if draw < 0.56:
            return LeaseMany(self._lease(), self._random.randint(1, 4))
        if draw < 0.82 and self._held:
            return self._report()
        if draw < 0.86 and len(self._held) > 1:
            return Many([self._report() for _ in range(2)])
        if draw > 1 - PAUSES:
            return self._pause()
        of_job = self._random.choice((Cancel, Cancel, Retry, Retry, Forget))
        return of_job(self._random.choice(self._submitted))

    def _submit(self, now_ms: int) -> Enqueue:
        draw = self._random
        number = len(self._submitted) + 1
        self._submitted.append(job_id(number))
        options = encode_options(draw.choice(OPTIONS))
        assert len(options) < OPTIONS_BYTES_MAX
        delay_ms, ttl_ms = draw.choice(DELAYS_MS), draw.choice(TTLS_MS)
        return Enqueue(
            job_id(number),
            self._text(),
            draw.randint(1, 3),
            draw.choice(("ann", "bob")),
            options,
            now_ms + delay_ms if delay_ms else 0,
            now_ms + ttl_ms if ttl_ms else 0,
            draw.choice(GROUPS),
            b"digest %8d" % number if draw.random() < 0.2 else b"",
        )

    def _lease(self) -> Lease:
        queues = self._random.sample(QUEUES, self._random.randint(1, 3))
        worker = self._random.choice(("", "worker 7"))
        # Some workers are too slow, and what they report then is refused.
        lease_ms = self._lease_ms if self._random.random() < 0.85 else 15
        return Lease(lease_ms, tuple(queues), worker)

    def _report(self) -> Ack | Fail | Extend | Release:
        """About a lease that is held; all but an extension end it."""
        draw = self._random
        held = draw.choice(self._held)
        job, token = held.job_id, held.lease_token
        kind = draw.random()
        if kind < 0.25:
            return Extend(job, token, self._lease_ms + draw.randint(0, 99), b'"half"')
        self._held.remove(held)
        if kind < 0.40:
            return Release(job, token, draw.choice((0, 5, 50_000)))
        if kind < 0.65:
            retry = draw.random() < 0.7
            retry_in_ms = draw.choice((None, 4, 90_000)) if retry else None
            return Fail(job, token, self._text(), retry, retry_in_ms)
        return Ack(job, token, self._text() if draw.random() < 0.7 else None)

    def _pause(self) -> Pause:
        if self._paused and self._random.random() < 0.7:
            return Pause(self._paused.pop(), False)
        queue = self._random.choice(QUEUES)
        self._paused.append(queue)
        return Pause(queue, True)

    def _text(self) -> bytes:
        size = self._random.choice(self._sizes)
        return "".join(self._random.choice("aé€") for _ in range(size)).encode()
