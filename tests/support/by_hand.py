"""Partitions without a pipe, and operations without a task: every step is the test's.

A ``HandPartition`` has the real client; what that would send waits until the test lets it be
carried out, and the replies are then read as if they had come through the pipe. A ``Run`` is an
operation that is brought on in place, as a connection does it.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from api.calls import Call, NeedsTask
from api.partition_client import PartitionClient
from partitions.messages import (
    PUSH_ID,
    Command,
    Hello,
    Hint,
    Reply,
    Request,
    Response,
    encode_responses,
)
from tests.support.stateful import Stateful


class HandPartition(Stateful):
    """One partition, and a front's client to it, connected."""

    def __init__(self, partition: int = 0, partitions: int = 1) -> None:
        super().__init__(partition, partitions)
        self._partitions = partitions
        self.client = PartitionClient(partition, partitions, "")
        self.commands: list[Command] = []
        """What was carried out."""
        self.answer: Callable[[Command], Reply] = self.carry_out
        self.connect()

    def connect(self) -> None:
        """Greet the front."""
        replies: list[Reply] = [Hello(self.partition, self._partitions)]
        if heads := self.greet():
            replies.append(Hint(heads))
        self._say([Response(PUSH_ID, reply) for reply in replies])

    @property
    def asked(self) -> list[Command]:
        """What waits to be carried out."""
        return [request.command for request in self.client._outgoing.values()]

    def take(self) -> list[Request]:
        """What the front sent: it is on its way now."""
        client = self.client
        requests = list(client._outgoing.values())
        client._outgoing.clear()
        client._outgoing_bytes = 0
        return requests

    def carry_out_all(self, requests: Sequence[Request]) -> list[Response]:
        """Carry requests out; what is to be said to them."""
        responses = []
        for request in requests:
            self.commands.append(request.command)
            responses.append(Response(request.request_id, self.answer(request.command)))
        return responses

    def serve(self) -> bool:
        """Carry out all that was sent, and say so; whether there was any."""
        requests = self.take()
        self.say(self.carry_out_all(requests))
        return bool(requests)

    def say(self, responses: list[Response]) -> None:
        """Let the front hear replies, and behind them what is pushed."""
        self._say(responses)
        self.tell()

    def tell(self) -> None:
        """Push what is due."""
        self._say([Response(PUSH_ID, push) for push in self.pushes()])

    def tell_all(self) -> None:
        """Tell of every queue, whatever was told before."""
        self._say([Response(PUSH_ID, Hint(self.greet()))])

    def lose(self) -> None:
        """Break the connection."""
        self.watched.clear()
        self.client._disconnected()

    def _say(self, responses: list[Response]) -> None:
        if responses:
            self.client._take(encode_responses(responses))


def partitions_of(count: int) -> list[HandPartition]:
    """All partitions of a node."""
    return [HandPartition(number, count) for number in range(count)]


def settle(partitions: Sequence[HandPartition]) -> None:
    """Serve until nothing is asked any more."""
    while any(partition.serve() for partition in partitions):
        pass


class Run:
    """An operation, begun at once."""

    def __init__(self, steps: Coroutine[Any, Any, Any]) -> None:
        self._steps = steps
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.needs_task = False
        self._go_on()

    def hang_up(self) -> None:
        """The client has gone: nothing comes of it any more."""
        self._steps.close()
        self.done = True

    def _go_on(self) -> None:
        try:
            trap = self._steps.send(None)
        except StopIteration as done:
            self.done, self.result = True, done.value
        except Exception as error:
            self.done, self.error = True, error
        else:
            if isinstance(trap, NeedsTask):
                self.needs_task = True
            else:
                assert isinstance(trap, Call)
                trap.then = self._go_on
