"""Which partition to ask for a job, out of N.

Partitions push a hint when they begin or cease to have ready jobs. A lease asks those first
that last said yes, beginning with another one each time so that the load spreads, and then
all others: a hint can be late, so "no jobs available" is said only after every partition
itself said so. If one of them cannot be asked, nobody knows, and the caller hears that.
"""

from collections.abc import Sequence

from api.errors import OverloadedError, PartitionUnavailableError
from api.partition_client import PartitionClient
from partitions.messages import Lease, NothingReady, Reply, StorageFull


class Leasing:
    """Leases over all partitions of the node."""

    def __init__(self, clients: Sequence[PartitionClient]) -> None:
        self._clients = tuple(clients)
        self._turn = 0

    async def lease(self, duration_ms: int) -> Reply:
        """The first partition's reply that is not "nothing ready", or that of all.

        Raises:
            PartitionUnavailableError: no job was found, and not every partition could be asked.
            OverloadedError: the same, because too much is in flight to one.
        """
        command = Lease(duration_ms)
        unasked: PartitionUnavailableError | OverloadedError | None = None
        full: StorageFull | None = None
        for client in self._in_order():
            try:
                reply = await client.ask(command)
            except (PartitionUnavailableError, OverloadedError) as error:
                # One that hangs fills up; the jobs of the others can be leased all the same.
                unasked = error
                continue
            if isinstance(reply, StorageFull):
                # Its disk has no room even for a lease; the next one's may.
                full = reply
            elif not isinstance(reply, NothingReady):
                return reply
        if unasked is not None:
            raise unasked
        return full or NothingReady()

    def _in_order(self) -> Sequence[PartitionClient]:
        clients = self._clients
        if len(clients) == 1:
            return clients
        self._turn = (self._turn + 1) % len(clients)
        turned = clients[self._turn :] + clients[: self._turn]
        # Stable: among equals the turn decides.
        return sorted(turned, key=lambda client: not client.ready_hint)
