"""Who sends what when many submit at once: while one request is out, the next collects. Pure.

There is no task or thread behind it, and no timer. The first submit leads: its own caller
sends it, at once and alone. Those that come meanwhile wait; when the request is back, one of
them is woken first and leads all that have come together, then the ones that were answered
are woken. So an idle client waits for nothing, and a busy one sends few requests.

A leader whose caller is cancelled in the middle gives its followers back, and another leads
them: with their idempotency keys, sending them again is safe. A leader that has to pause (some
of its jobs must be sent again) lets the next one go meanwhile, wakes whoever is answered
already, and when it is itself, hands the delivery on: jobs for a partition that is away hold up
no others. Where the node takes no batches everyone leads, alone.

The shell calls these methods one at a time and wakes whom they return, in this order.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from queue_node_sdk.delivery import BATCH_BYTES_MAX, BATCH_JOBS_MAX, Abilities, Delivery

if TYPE_CHECKING:
    from queue_node_sdk.errors import QueueNodeError

STUMBLING_MAX: Final = 8
"""Leaders that repeat their requests at the same time (guess: more would only add to the
trouble); beyond, what comes collects."""

_Bell = TypeVar("_Bell")


class Item(Generic[_Bell]):
    """One submit and its caller."""

    __slots__ = (
        "batch",
        "bell",
        "body",
        "delivery",
        "give_up_at",
        "gone",
        "outcome",
        "sent",
        "stumbled",
    )

    def __init__(self, body: bytes, give_up_at: float, bell: _Bell) -> None:
        self.body: Final = body
        self.give_up_at: Final = give_up_at
        self.bell: Final = bell
        """Wakes the caller; the shell's own kind."""
        self.batch: Sequence[Item[_Bell]] | None = None
        """What its caller is to send, itself included; ``None``: nothing."""
        self.delivery: Delivery | None = None
        """Of a leader: what its request came to so far."""
        self.outcome: str | QueueNodeError | None = None
        self.stumbled: bool = False
        self.gone: bool = False
        """Whether its caller does not wait any more."""
        self.sent: bool = False
        """Whether a leader that is gone may have sent it."""


class Batching(Generic[_Bell]):
    """The submits of one client."""

    def __init__(self, node: Abilities) -> None:
        self._node = node
        self._waiting: deque[Item[_Bell]] = deque()
        self._out = 0
        """Leaders that have not stumbled: 0 or 1, or more when they all stumble or all lead."""
        self._stumbling = 0

    def add(self, item: Item[_Bell]) -> bool:
        """A new submit. Whether its caller leads, now; else it waits for its bell."""
        if self._must_wait():
            self._waiting.append(item)
            return False
        self._out += 1
        self._lead(item, (item,))
        return True

    def settle(self, leader: Item[_Bell]) -> list[Item[_Bell]]:
        """The leader is back. Whom to wake: the next leader, then its followers."""
        answered = self._answered(leader)
        leader.batch = leader.delivery = None
        return [*self._leave_the_lead(leader), *answered]

    def pause(self, leader: Item[_Bell]) -> list[Item[_Bell]]:
        """The leader has to send again, after a pause. Whom to wake: leaders first.

        Afterwards it leads no more when its own job is answered; the delivery goes on with
        another, in the pause.
        """
        woken = self._answered(leader)
        if not leader.stumbled and self._stumbling < STUMBLING_MAX:
            leader.stumbled = True
            self._stumbling += 1
            self._out -= 1
        if leader.outcome is not None:
            woken = [*self._hand_on(leader), *woken]
        return [*self._promote(), *woken]

    def abandon(self, item: Item[_Bell]) -> list[Item[_Bell]]:
        """The caller of ``item`` is gone before its outcome. Whom to wake."""
        item.gone = True
        if item.batch is None:
            # In another's request it may be stored: so it is with what is cancelled.
            if item in self._waiting:
                self._waiting.remove(item)
            return []
        # What is answered already is not sent again, for not every node knows the keys.
        answered = self._answered(item)
        followers = [other for other in item.batch if not other.gone and other.outcome is None]
        for other in followers:
            other.sent = True
        item.batch = item.delivery = None
        # They have waited longest.
        self._waiting.extendleft(reversed(followers))
        return [*self._leave_the_lead(item), *answered]

    def _answered(self, leader: Item[_Bell]) -> list[Item[_Bell]]:
        """The followers that have an outcome now and had none before."""
        assert leader.batch is not None, "this one does not lead"
        assert leader.delivery is not None, "this one does not lead"
        answered: list[Item[_Bell]] = []
        for item, outcome in zip(leader.batch, leader.delivery.outcomes, strict=True):
            if outcome is not None and item.outcome is None:
                item.outcome = outcome
                if item is not leader:
                    answered.append(item)
        return answered

    def _hand_on(self, leader: Item[_Bell]) -> list[Item[_Bell]]:
        """The delivery goes on with the first that still waits for it; the leader is done."""
        batch, delivery = leader.batch or (), leader.delivery
        leader.batch = leader.delivery = None
        for item in batch:
            if item.outcome is None and not item.gone:
                item.batch, item.delivery = batch, delivery
                item.stumbled, leader.stumbled = leader.stumbled, False
                return [item]
        return self._leave_the_lead(leader)

    def _leave_the_lead(self, leader: Item[_Bell]) -> list[Item[_Bell]]:
        if leader.stumbled:
            leader.stumbled = False
            self._stumbling -= 1
        else:
            self._out -= 1
        return self._promote()

    def _must_wait(self) -> bool:
        return self._out > 0 and self._node.batches

    def _promote(self) -> list[Item[_Bell]]:
        """Give the lead to who waits longest, with all that fit into its request."""
        promoted: list[Item[_Bell]] = []
        while self._waiting and not self._must_wait():
            promoted.append(self._next_leader())
        return promoted

    def _next_leader(self) -> Item[_Bell]:
        self._out += 1
        leader = self._waiting.popleft()
        batch = [leader]
        size_bytes = len(leader.body)
        jobs_max = BATCH_JOBS_MAX if self._node.batches else 1
        while self._waiting and len(batch) < jobs_max:
            size_bytes += len(self._waiting[0].body)
            if size_bytes > BATCH_BYTES_MAX:
                break
            batch.append(self._waiting.popleft())
        self._lead(leader, batch)
        return leader

    def _lead(self, leader: Item[_Bell], batch: Sequence[Item[_Bell]]) -> None:
        leader.batch = batch
        leader.delivery = Delivery(
            [item.body for item in batch],
            sent_before=[item.sent for item in batch],
            node=self._node,
        )
