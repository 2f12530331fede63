"""What fronts send, on its way to the actor: read from their pipes, cut into mails, in order.

Each front has a task that waits for its bytes (``read``) and puts mails into the mailbox. Under
load the next ones are mostly there by the time that a batch is answered. So the actor asks here
before it waits (``at_once``), and the pipes are read where they stand: to have two tasks woken
for each batch took a tenth of a partition's CPU time.

**Order.** What a front asks is applied in the order in which it asked, but for acks, which may have
to wait (``mail``). So ``at_once`` gives what is in the mailbox before anything else, and reads only
pipes whose task waits for bytes: all that it read before is in the mailbox by then.
"""

import logging
from typing import Final

import msgspec
import trio

from partitions.errors import PipeError
from partitions.limits import MAILBOX_MAILS_MAX
from partitions.mail import Mail
from partitions.messages import decode_requests
from partitions.pipe import Pipe

_logger: Final = logging.getLogger("queue_node.partition")


class Intake:
    """The mailbox of one actor, and the pipes that fill it."""

    def __init__(self, mails_max: int = MAILBOX_MAILS_MAX) -> None:
        self.send, self.mailbox = trio.open_memory_channel[Mail](mails_max)
        self._calm: set[Pipe] = set()
        """Pipes whose task waits for bytes."""

    async def read(self, pipe: Pipe) -> None:
        """Put what comes through the pipe into the mailbox, until its end."""
        try:
            while mails := await self._next_mails(pipe):
                for mail in mails:
                    try:
                        self.send.send_nowait(mail)  # costs no pass of the scheduler
                    except trio.WouldBlock:
                        await self.send.send(mail)
        except (PipeError, msgspec.MsgspecError) as error:
            _refuse(error)
        except trio.BrokenResourceError:
            # The actor died while the mailbox was full; its own fault is what is reported.
            return

    def at_once(self) -> list[Mail]:
        """Mails that are here, without waiting."""
        try:
            return [self.mailbox.receive_nowait()]
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        mails: list[Mail] = []
        for pipe in self._calm:
            try:
                mails += _mails(pipe, pipe.receive_now())
            except (PipeError, msgspec.MsgspecError) as error:
                _refuse(error)
                pipe.close()  # its task ends by that
        return mails

    async def _next_mails(self, pipe: Pipe) -> list[Mail]:
        self._calm.add(pipe)
        try:
            bodies = await pipe.receive()
        finally:
            self._calm.discard(pipe)
        return _mails(pipe, bodies)


def _mails(pipe: Pipe, bodies: list[bytes]) -> list[Mail]:
    return [mail for body in bodies for mail in Mail.of(pipe, decode_requests(body))]


def _refuse(error: Exception) -> None:
    # A front is inside the node, but what it sends is still input from outside.
    _logger.error("a front sent what is no request; its pipe is closed: %s", error)
