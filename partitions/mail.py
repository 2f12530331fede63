"""What fronts ask for, as the actor takes it in; and acks that wait for their turn."""

from collections import deque
from typing import Final

import msgspec

from partitions.costs import record_bytes
from partitions.limits import BATCH_BYTES_MAX, HELD_BYTES_MAX
from partitions.messages import Ack, Command, Forget, Many, Request, Sweep
from partitions.pipe import Pipe

_FEW: Final = 8
"""Requests about one job each that wait together."""


class Mail(msgspec.Struct, frozen=True, gc=False):
    """What one frame of one front asks for."""

    pipe: Pipe
    requests: list[Request]
    record_bytes: int
    """More than they can add to a record."""

    @staticmethod
    def of(pipe: Pipe, requests: list[Request]) -> list["Mail"]:
        """The mails that hold these, in order: one, unless a record could not hold all."""
        costs = [record_bytes(each.command) for each in requests]
        total = sum(costs)
        if total <= BATCH_BYTES_MAX:
            return [Mail(pipe, requests, total)]
        mails: list[Mail] = []
        size = BATCH_BYTES_MAX
        for request, cost in zip(requests, costs, strict=True):
            if size + cost > BATCH_BYTES_MAX:
                mails.append(Mail(pipe, [], 0))
                size = 0
            mails[-1].requests.append(request)
            size += cost
        return [Mail.made(pipe, mail.requests) for mail in mails]

    @staticmethod
    def made(pipe: Pipe, requests: list[Request]) -> "Mail":
        """The mail that holds these."""
        return Mail(pipe, requests, sum([record_bytes(each.command) for each in requests]))


class WaitingAcks:
    """Acks, and what else takes texts away from jobs at once, in order of arrival.

    They wait here while cleaning is owed (``checkpoint``), and a batch takes only some of them.
    """

    def __init__(self) -> None:
        self._mails: deque[tuple[Mail, int]] = deque()
        """With how many jobs each may end."""
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._mails)

    @property
    def is_full(self) -> bool:
        """So much waits that the first ones must not wait any longer."""
        return self._bytes >= HELD_BYTES_MAX

    def keep(self, mail: Mail) -> Mail | None:
        """Keep what frees texts; the rest, which need not wait."""
        rest = [each for each in mail.requests if not _ends(each.command)]
        if len(rest) == len(mail.requests):
            return mail
        few: list[Request] = []
        for request in mail.requests:
            if (ends := _ends(request.command)) == 1:
                few.append(request)
            elif ends:
                self._add(mail.pipe, [request], ends)
        for first in range(0, len(few), _FEW):
            some = few[first : first + _FEW]
            self._add(mail.pipe, some, len(some))
        return Mail.made(mail.pipe, rest) if rest else None

    def take(self, jobs: int) -> list[Mail]:
        """The first ones, which end so many jobs or a few more; at least one, if there is one."""
        mails: list[Mail] = []
        size = 0
        while self._mails and ((jobs > 0 and size < BATCH_BYTES_MAX) or not mails):
            mail, ends = self._mails.popleft()
            self._bytes -= mail.record_bytes
            jobs -= ends
            size += mail.record_bytes
            mails.append(mail)
        return mails

    def _add(self, pipe: Pipe, requests: list[Request], ends: int) -> None:
        mail = Mail.made(pipe, requests)
        self._mails.append((mail, ends))
        self._bytes += mail.record_bytes


def _ends(command: Command) -> int:
    """How many jobs may have no texts any more after this."""
    if type(command) is Many:
        return len(command.commands) if any(type(each) is Ack for each in command.commands) else 0
    if type(command) is Sweep:
        return command.scan
    return 1 if type(command) in (Ack, Forget) else 0
