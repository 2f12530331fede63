"""What fronts ask for, as the actor takes it in; and acks that wait for their turn."""

from collections import deque
from typing import Final

import msgspec

from partitions.costs import record_bytes
from partitions.limits import BATCH_BYTES_MAX, HELD_BYTES_MAX
from partitions.messages import Ack, Command, Forget, Many, Request, Sweep
from partitions.pipe import Pipe

_FREEING: Final = (Ack, Forget, Sweep)


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
        return [Mail._made(pipe, mail.requests) for mail in mails]

    @staticmethod
    def _made(pipe: Pipe, requests: list[Request]) -> "Mail":
        return Mail(pipe, requests, sum([record_bytes(each.command) for each in requests]))

    def parted(self) -> tuple["Mail | None", "Mail | None"]:
        """What frees no text, and what may; None where there is nothing."""
        freeing = [each for each in self.requests if _may_free(each.command)]
        if not freeing:
            return self, None
        rest = [each for each in self.requests if not _may_free(each.command)]
        return (self._made(self.pipe, rest) if rest else None), self._made(self.pipe, freeing)


class WaitingAcks:
    """Acks, and whatever else frees texts, that wait for cleaning (``checkpoint``): in order."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._mails)

    @property
    def is_full(self) -> bool:
        """So much waits that nothing more should be taken in."""
        return self._bytes >= HELD_BYTES_MAX

    def keep(self, mail: Mail) -> Mail | None:
        """Keep what frees texts; the rest, which need not wait."""
        rest, freeing = mail.parted()
        if freeing is not None:
            self._mails.append(freeing)
            self._bytes += freeing.record_bytes
        return rest

    def next(self) -> Mail:
        """The first, which waits no longer."""
        mail = self._mails.popleft()
        self._bytes -= mail.record_bytes
        return mail


def _may_free(command: Command) -> bool:
    if type(command) is Many:
        return any(type(each) is Ack for each in command.commands)
    return type(command) in _FREEING
