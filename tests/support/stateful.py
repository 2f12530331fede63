"""What fakes of a partition have in common: the real state, and what the actor adds to it.

The log is a list of texts. Hints and the ends of watched jobs are told by the actor's rules, of one
front.
"""

from partitions.hints import Hints
from partitions.job import FINISHED
from partitions.messages import Command, Get, Head, Hint, JobsOver, JobView, Reply, Unwatch
from partitions.slots import first_slot
from partitions.state import PartitionState, Policy
from tests.support.driver import filled

START_MS = 1_700_000_000_000


class Stateful:
    """A partition's jobs."""

    def __init__(self, partition: int = 0, partitions: int = 1) -> None:
        self.partition = partition
        slots = range(first_slot(partition, partitions), first_slot(partition + 1, partitions))
        self.slots = slots
        self.state = PartitionState(Policy(slots=slots))
        self.now_ms = START_MS
        self.watched: set[bytes] = set()
        self._partitions = partitions
        self._hints = Hints(self.state.jobs, partitions)
        self._texts = [b""] * 64  # no text is at so low a position

    def limit(self, jobs_max: int) -> None:
        """Let it hold so many unfinished jobs at most; for a partition without jobs."""
        self.state = PartitionState(Policy(slots=self.slots, jobs_max=jobs_max))
        self._hints = Hints(self.state.jobs, self._partitions)

    def carry_out(self, command: Command) -> Reply:
        """Do what a partition does with ``command``."""
        applied = self.state.apply(command, self.now_ms, self._put)
        reply = filled(applied.reply, self._texts.__getitem__)
        if isinstance(command, Get) and command.watch and isinstance(reply, JobView):
            if reply.finished_at_ms is None:
                self.watched.add(command.job_id)
        elif isinstance(command, Unwatch):
            self.watched.discard(command.job_id)
        return reply

    def greet(self) -> list[Head]:
        """What a front that connects is told of the queues."""
        return self._hints.all(self.now_ms)

    def pushes(self) -> list[Reply]:
        """What the front is to be told since the last time."""
        pushes: list[Reply] = []
        if heads := self._hints.changes(self.now_ms):
            pushes.append(Hint(heads))
        jobs = self.state.jobs.by_id
        over = [each for each in self.watched if each not in jobs or jobs[each].state in FINISHED]
        if over:
            self.watched.difference_update(over)
            pushes.append(JobsOver(over))
        return pushes

    def _put(self, text: bytes) -> int:
        self._texts.append(text)
        return len(self._texts) - 1
