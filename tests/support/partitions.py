"""Several fake partitions and the clients that a front has to them, connected."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from api.partition_client import PartitionClient
from tests.support.fake_partition import FakePartition
from tests.support.polling import DEADLINE_S, until


class Fleet:
    """``partitions[i]`` is on the other end of ``clients[i]``."""

    def __init__(self, directory: Path, count: int) -> None:
        self.partitions = [FakePartition(directory / f"{i}.sock", i, count) for i in range(count)]
        self.clients = [PartitionClient(i, count, p.path) for i, p in enumerate(self.partitions)]
        self._lives: list[trio.CancelScope | None] = [None] * count

    async def run(self, nursery: trio.Nursery) -> None:
        """Start all; returns when every client is connected."""
        for number, client in enumerate(self.clients):
            await self.start(number, nursery)
            nursery.start_soon(client.run)
            with trio.fail_after(DEADLINE_S):
                await client.wait_serving()

    async def start(self, number: int, nursery: trio.Nursery) -> None:
        """Bring a partition to life (again)."""
        self._lives[number] = await nursery.start(self._live, number)

    async def kill(self, number: int) -> None:
        """End a partition; returns when its client has noticed."""
        life = self._lives[number]
        assert life is not None, "it does not live"
        life.cancel()
        await until(lambda: not self.clients[number].serving)

    async def _live(self, number: int, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.partitions[number].run)
                task_status.started(scope)


@asynccontextmanager
async def fleet_of(directory: Path, count: int) -> AsyncIterator[tuple[Fleet, trio.Nursery]]:
    """A running fleet, and a nursery to start partitions in again."""
    fleet = Fleet(directory, count)
    async with trio.open_nursery() as nursery:
        await fleet.run(nursery)
        yield fleet, nursery
        nursery.cancel_scope.cancel()
