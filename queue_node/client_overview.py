"""All queues of a node at one moment, and which partitions had no part in it."""

from collections.abc import Iterable
from typing import Final

import msgspec

from queue_node.client_session import Session
from queue_node_sdk import QueueInfo, UnexpectedAnswer
from queue_node_sdk.calls import QUEUES_CALL


class Overview(msgspec.Struct, frozen=True):
    """The answer of ``GET /queues``."""

    queues: list[QueueInfo]
    unavailable: list[int] = []
    """Partitions that did not answer, so that their jobs are in no count."""

    def only(self, names: Iterable[str]) -> "Overview":
        """The same with these queues alone; with all of them when there are no names."""
        wanted = set(names)
        if not wanted:
            return self
        return Overview([one for one in self.queues if one.queue in wanted], self.unavailable)


_decode: Final = msgspec.json.Decoder(Overview).decode


def look(session: Session) -> Overview:
    """Ask the node. ``Client.queues`` says nothing of the partitions that are missing.

    Raises:
        QueueNodeError: it refused, or could not be reached.
    """
    reply = session.exchange(QUEUES_CALL)
    try:
        return _decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"the answer is not Queue Node's: {error}") from error
