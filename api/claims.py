"""Idempotency keys of jobs with a group: claimed where the key belongs, before the job is stored.

A key belongs to its owner and queue: its hash names one partition, its **home**. The jobs of a
group are in the group's partition. So a submit with both takes two steps: the home claims the key
for the slot of the group (``ClaimKeys``), then the group's partition stores the job. Both are one
message where both are one partition. Of the groups that a key is used with the home lets one
through; a submit without a group is stored at the home, and meets the claim.

**A claim without a job** is left by a front that died between the two steps, by a job that the
second step refused, and by a job that was forgotten. Whether there is a job, only its partition
knows; so whoever is refused asks it (``dispute``), and front 0 asks for all claims now and then
(``run``). A claim is let go when

1. its home said that it is older than ``CLAIM_FREE_MS``, and *then*
2. the job's partition said that the job is not there: no submit may store it any more, for it has
   ``CLAIM_MS`` from before its claim, and the partition refuses it later, however long the message
   was on its way (``EnqueueMany.by_ms``);
3. and nobody has made the claim anew since (``FreeKeys`` compares it).

Until then another body under the key hears 503, and to try again.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import trio

from api import problems
from api.asking import ask_each, ask_one, refused
from api.calls import driven
from api.partition_client import PartitionClient
from api.placement import Placement
from api.problems import Problem
from partitions.limits import CLAIM_FREE_MS, CLAIMS_PAGE_MAX
from partitions.messages import (
    ClaimPage,
    Command,
    FindGone,
    FreeKeys,
    HeldKey,
    JobsGone,
    ListClaims,
    Reply,
)
from partitions.slots import JOB_ID_BYTES, claim_slot, in_slot

_T = TypeVar("_T")

_EVERY_S: Final = 60.0
_PAGE_PAUSE_S: Final = 0.25
"""Between two pages of claims most of which have their jobs: a million claims take four minutes
(guess: that costs a hundredth of a processor)."""


_MANY: Final = 0.5
"""Where such a share of a page is let go the next follows at once: there may be very many."""


class Claims:
    """Finds out whether claimed keys are rightly so, and lets go of the others."""

    def __init__(self, clients: Sequence[PartitionClient], placement: Placement) -> None:
        self._clients = tuple(clients)
        self._placement = placement

    async def run(self) -> None:
        """Let go of claims whose jobs are gone, until cancelled; of all fronts, one does."""
        while True:
            await trio.sleep(_EVERY_S)
            for client in self._clients:
                while True:
                    share = await driven(self.sweep_some(client))
                    if share is None:
                        break
                    if share < _MANY:
                        await trio.sleep(_PAGE_PAUSE_S)

    async def dispute(self, held: Sequence[HeldKey]) -> tuple[bytes, Problem] | None:
        """The first key that is not to be had, and why; None: try again, they are free now."""
        for each, gone in zip(held, await self._are_gone(held), strict=True):
            if isinstance(gone, Problem):
                return each.key_id, gone
            if not gone:
                return each.key_id, problems.IDEMPOTENCY_CONFLICT
            if each.age_ms < CLAIM_FREE_MS:
                return each.key_id, problems.KEY_CLAIMED
        await self._free(held)
        return None

    async def sweep_some(self, client: PartitionClient) -> float | None:
        """Look at the next claims of a partition; which share was let go, None: that was all."""
        page = await ask_one(client, ListClaims())
        if not isinstance(page, ClaimPage):
            return None
        old = [each for each in page.held if each.age_ms >= CLAIM_FREE_MS]
        answers = await self._are_gone(old)
        # Of those whose partition does not answer nobody knows.
        gone = [each for each, answer in zip(old, answers, strict=True) if answer is True]
        await self._free(gone)
        return None if page.last else len(gone) / max(len(page.held), 1)

    async def _are_gone(self, held: Sequence[HeldKey]) -> list[bool | Problem]:
        """Whether the job of each is not there."""
        job_ids = [in_slot(each.key_id, claim_slot(each.claim)) for each in held]
        missing: set[bytes] = set()
        silent: dict[bytes, Problem] = {}
        asked = self._dealt([(job_id, job_id) for job_id in job_ids])
        replies = await _ask([(client, FindGone(own), len(own)) for client, own in asked])
        for (_, own), reply in zip(asked, replies, strict=True):
            if isinstance(reply, JobsGone):
                missing.update(reply.job_ids)
            else:
                silent.update(dict.fromkeys(own, refused(reply)))
        return [silent.get(job_id, job_id in missing) for job_id in job_ids]

    async def _free(self, held: Sequence[HeldKey]) -> None:
        asked = self._dealt([(each.key_id, each) for each in held])
        await _ask([(client, FreeKeys(own), 2 * len(own)) for client, own in asked])

    def _dealt(self, items: Sequence[tuple[bytes, _T]]) -> list[tuple[PartitionClient, list[_T]]]:
        """``[(id, item)]`` by the partitions of the ids, no more at once than a message takes."""
        dealt: list[tuple[PartitionClient, list[_T]]] = []
        last: dict[PartitionClient, list[_T]] = {}
        for its_id, item in items:
            client = self._placement.owner_of(its_id)
            own = last.get(client)
            if own is None or len(own) == CLAIMS_PAGE_MAX:
                own = last[client] = []
                dealt.append((client, own))
            own.append(item)
        return dealt


async def _ask(asked: Sequence[tuple[PartitionClient, Command, int]]) -> list[Reply | Problem]:
    """``[(partition, command, ids in it)]``."""
    return await ask_each([(client, command, JOB_ID_BYTES * n) for client, command, n in asked])
