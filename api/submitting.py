"""Submits, one and many: to which partition, under which id, and what came of it.

The jobs of a batch that may go anywhere go to one partition, in one message and one commit; a
large batch is dealt out in pieces, so that the partitions share the work. What a conflict can
refuse is asked for before anything is stored. The keys of jobs with a group are claimed before that
(``claims``).
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from api import problems
from api.asking import ask_each, ask_one, refused
from api.claims import Claims
from api.partition_client import PartitionClient
from api.placement import Placement
from api.problems import Problem
from api.submit_schemas import Submit
from partitions.messages import (
    AlreadyExists,
    Claimed,
    ClaimKeys,
    Conflict,
    Enqueue,
    Enqueued,
    EnqueuedMany,
    EnqueueMany,
    HeldKey,
    KeyClaim,
    KeysHeld,
    Replayed,
    Reply,
    Submitted,
    TooMany,
)
from partitions.slots import in_slot, slot_of

_PIECE_JOBS: Final = 1_000
_PIECE_BYTES: Final = 4 << 20
_JOB_BYTES: Final = 64
"""What a job takes in a message beside its payload, about."""
_CLAIM_BYTES: Final = 24
_TRIES: Final = 2
"""The second when the keys that were in the way turn out to be free."""
_STORED: Final = (Submitted.STORED, Submitted.REPLAYED)


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A job that is on disk; ``replayed``: it already was."""

    job_id: bytes
    replayed: bool = False


class _Piece(msgspec.Struct):
    """A part of a batch that goes to one partition in one message."""

    client: PartitionClient
    indexes: list[int] = []
    jobs: list[Enqueue] = []
    size: int = 0
    free: bool = False
    """Whether any partition may have it."""
    claims: list[KeyClaim] = []
    """Keys of its jobs that this partition is the home of."""
    by_ms: int = 0
    """When the claims end that other partitions made for its jobs; 0: there are none."""

    def add(self, index: int, job: Enqueue) -> None:
        self.indexes.append(index)
        self.jobs.append(job)
        self.size += len(job.payload) + len(job.options) + _JOB_BYTES

    @property
    def full(self) -> bool:
        return len(self.jobs) >= _PIECE_JOBS or self.size >= _PIECE_BYTES

    def command(self, *, check_only: bool = False) -> EnqueueMany:
        return EnqueueMany(self.jobs, check_only, self.by_ms, self.claims)


class _Dealt(msgspec.Struct):
    """A batch: who gets what."""

    pieces: list[_Piece] = []
    claims: dict[PartitionClient, list[KeyClaim]] = {}
    """Keys that other partitions are the homes of than those that get the jobs."""
    first: dict[bytes, int] = {}
    """``{key id: index of the first job with that key}``."""
    digests: dict[bytes, bytes] = {}

    def claim(self, home: PartitionClient, claim: KeyClaim, piece: _Piece, ends_ms: int) -> None:
        if home is piece.client:
            piece.claims.append(claim)
        else:
            self.claims.setdefault(home, []).append(claim)
            piece.by_ms = ends_ms


class Submitting:
    """Stores new jobs."""

    def __init__(self, clients: Sequence[PartitionClient], placement: Placement) -> None:
        self._clients = tuple(clients)
        self._placement = placement
        self._claims = Claims(clients, placement)

    async def sweep_claims(self) -> None:
        """Let go of claims whose jobs are gone, until cancelled."""
        await self._claims.run()

    async def submit(self, owner: str, job: Submit) -> Accepted | Problem:
        """Store a job; when this returns ``Accepted``, it is on disk."""
        placement = self._placement
        if job.group or job.idempotency_key:
            if job.group and job.idempotency_key:
                return await self._submit_claimed(owner, job)
            job_id = placement.mint_bound(owner, job)
            client = placement.owner_of(job_id)
            command = placement.command(owner, job, job_id)
            reply = await ask_one(client, command, len(command.payload))
            if type(reply) is KeysHeld:
                if (dispute := await self._claims.dispute(reply.held)) is not None:
                    return dispute[1]
                reply = await ask_one(client, command, len(command.payload))
            return _accepted(reply, job_id)
        chosen = placement.choose()
        if chosen is None:
            return problems.PARTITION_DOWN
        job_id = placement.mint(chosen.partition)
        command = placement.command(owner, job, job_id)
        reply = await ask_one(chosen, command, len(command.payload))
        if type(reply) is Enqueued:
            return Accepted(job_id)
        if isinstance(reply, TooMany) and len(self._clients) > 1:
            # Its share is used up; that of another one may not be.
            for other in self._clients:
                if other is chosen or not other.serving:
                    continue
                job_id = placement.mint(other.partition)
                command = placement.command(owner, job, job_id)
                reply = await ask_one(other, command, len(command.payload))
                if not isinstance(reply, TooMany):
                    break
        return _accepted(reply, job_id)

    async def _submit_claimed(self, owner: str, job: Submit) -> Accepted | Problem:
        """The same for a job that has a group and an idempotency key."""
        placement = self._placement
        key_id, slot = placement.key_id(owner, job), placement.group_slot(job)
        job_id = in_slot(key_id, slot)
        home, client = placement.owner_of(key_id), placement.owner_of(job_id)
        command = placement.command(owner, job, job_id)
        if not client.serving:
            # A claim would be made for nothing, and stay for as long as nobody there can say so.
            return problems.PARTITION_DOWN
        claims = [KeyClaim(key_id, slot)]
        for _ in range(_TRIES):
            store = EnqueueMany([command], claims=claims)
            reply: Reply | Problem = Claimed()
            if home is not client:
                store = EnqueueMany([command], by_ms=placement.claim_ends_ms())
                reply = await ask_one(home, ClaimKeys(claims))
            if type(reply) is Claimed:
                reply = await ask_one(client, store, len(command.payload))
            if type(reply) is not KeysHeld:
                return _accepted(reply, job_id)
            if (dispute := await self._claims.dispute(reply.held)) is not None:
                return dispute[1]
        return problems.KEY_CLAIMED

    async def submit_many(
        self, owner: str, jobs: Sequence[Submit]
    ) -> list[bytes] | list[bytes | Problem] | Problem:
        """Store jobs; their ids in order, when all of them are on disk.

        When some are not, there is a ``Problem`` in the place of each; a ``Problem`` alone: it is
        that of all, and nothing was stored, or nobody knows of any.
        """
        for _ in range(_TRIES):
            dealt = self._deal(owner, jobs)
            if isinstance(dealt, Problem):
                return dealt
            outcome = await self._store(owner, jobs, dealt)
            if not isinstance(outcome, KeysHeld):
                return outcome
            if (dispute := await self._claims.dispute(outcome.held)) is not None:
                key_id, problem = dispute
                return problems.at("jobs", dealt.first[key_id], problem)
        return problems.KEY_CLAIMED

    async def _store(
        self, owner: str, jobs: Sequence[Submit], dealt: _Dealt
    ) -> list[bytes] | list[bytes | Problem] | Problem | KeysHeld:
        """As ``submit_many``; ``KeysHeld``: nothing was stored because of these."""
        pieces = dealt.pieces
        if not all(client.serving for client in {*dealt.claims, *(each.client for each in pieces)}):
            return problems.PARTITION_DOWN
        if dealt.claims and (refusal := await self._claim(dealt.claims)) is not None:
            return refusal
        if len(pieces) > 1 and (conflict := await self._conflict(pieces)) is not None:
            return conflict
        replies = await ask_each([(piece.client, piece.command(), piece.size) for piece in pieces])
        if len(pieces) == 1 and (held := _held(replies[0])):
            return KeysHeld(held)
        outcomes: list[bytes | Problem] = [b""] * len(jobs)
        stored = False
        for piece, reply in zip(pieces, replies, strict=True):
            if piece.free and isinstance(reply, TooMany):
                piece, reply = await self._store_elsewhere(owner, jobs, piece, reply)
            for index, job, outcome in zip(
                piece.indexes, piece.jobs, _outcomes(piece, reply), strict=True
            ):
                outcomes[index] = job.job_id if outcome is None else outcome
                stored = stored or outcome is None
        failed = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
        unknown = failed.count(problems.OUTCOME_UNKNOWN)
        if failed and not stored and unknown in (0, len(failed)):
            return failed[0]
        return outcomes

    def _deal(self, owner: str, jobs: Sequence[Submit]) -> _Dealt | Problem:
        """Who gets what."""
        placement = self._placement
        dealt = _Dealt()
        pieces = dealt.pieces
        claims_end_ms = placement.claim_ends_ms()
        bound: dict[int, _Piece] = {}
        free: _Piece | None = None
        serving = [client for client in self._clients if client.serving]
        first = placement.choose()
        if first is None:
            return problems.PARTITION_DOWN
        turn = serving.index(first)
        for index, job in enumerate(jobs):
            if placement.is_bound(job):
                job_id = placement.mint_bound(owner, job)
                if job.digest:
                    key_id = placement.key_id(owner, job) if job.group else job_id
                    # The pieces of one partition are looked at one by one, and not for this.
                    if dealt.digests.setdefault(key_id, job.digest) != job.digest:
                        return problems.at("jobs", index, problems.IDEMPOTENCY_CONFLICT)
                    dealt.first.setdefault(key_id, index)
                client = placement.owner_of(job_id)
                piece = bound.get(client.partition)
                if piece is None or piece.full:
                    piece = bound[client.partition] = _Piece(client)
                    pieces.append(piece)
                if job.digest and job.group:
                    # Also of a job that comes twice: its two pieces share no fate.
                    claim = KeyClaim(key_id, slot_of(job_id))
                    dealt.claim(placement.owner_of(key_id), claim, piece, claims_end_ms)
            else:
                if free is None or free.full:
                    free = _Piece(serving[turn % len(serving)], free=True)
                    turn += 1
                    pieces.append(free)
                piece = free
                job_id = placement.mint(piece.client.partition)
            piece.add(index, placement.command(owner, job, job_id))
        return dealt

    async def _claim(
        self, claims: dict[PartitionClient, list[KeyClaim]]
    ) -> Problem | KeysHeld | None:
        """Claim keys at their homes; None: they all are."""
        replies = await ask_each(
            [(home, ClaimKeys(own), _CLAIM_BYTES * len(own)) for home, own in claims.items()]
        )
        for reply in replies:
            if not isinstance(reply, Claimed | KeysHeld):
                return refused(reply)
        held = [each for reply in replies for each in _held(reply)]
        return KeysHeld(held) if held else None

    async def _store_elsewhere(
        self, owner: str, jobs: Sequence[Submit], piece: _Piece, reply: TooMany
    ) -> tuple[_Piece, Reply | Problem]:
        """A piece whose partition has used up its share, as another one took it; or as it was."""
        for other in self._clients:
            if other is piece.client or not other.serving:
                continue
            moved = _Piece(other)
            for index in piece.indexes:
                job_id = self._placement.mint(other.partition)
                moved.add(index, self._placement.command(owner, jobs[index], job_id))
            answer = await ask_one(other, EnqueueMany(moved.jobs), moved.size)
            if not isinstance(answer, TooMany):
                return moved, answer
        return piece, reply

    async def _conflict(self, pieces: Sequence[_Piece]) -> Problem | KeysHeld | None:
        """Whether some job of a batch that is stored in pieces would be refused."""
        with_keys = [piece for piece in pieces if any(job.digest for job in piece.jobs)]
        replies = await ask_each(
            [(piece.client, piece.command(check_only=True), piece.size) for piece in with_keys]
        )
        if held := [each for reply in replies for each in _held(reply)]:
            return KeysHeld(held)
        for piece, reply in zip(with_keys, replies, strict=True):
            for outcome in _outcomes(piece, reply):
                if outcome is not None:
                    return outcome
        return None


def _accepted(reply: Reply | Problem, job_id: bytes) -> Accepted | Problem:
    match reply:
        case Enqueued():
            return Accepted(job_id)
        case EnqueuedMany() if len(reply.outcomes) == 1:
            return _accepted_one(Submitted(reply.outcomes[0]), job_id)
        case AlreadyExists():
            # It was stored the first time that it was sent; only the reply got lost.
            return Accepted(job_id)
        case Replayed():
            return Accepted(job_id, replayed=True)
        case Conflict():
            return problems.IDEMPOTENCY_CONFLICT
        case _:
            return refused(reply)


def _accepted_one(outcome: Submitted, job_id: bytes) -> Accepted | Problem:
    """The same of a job that came under a claim."""
    match outcome:
        case Submitted.STORED:
            return Accepted(job_id)
        case Submitted.REPLAYED:
            return Accepted(job_id, replayed=True)
        case Submitted.CONFLICT:
            return problems.IDEMPOTENCY_CONFLICT
        case _:
            return problems.INTERNAL


def _held(reply: Reply | Problem) -> list[HeldKey]:
    """Keys because of which nothing was stored."""
    return reply.held if isinstance(reply, KeysHeld | EnqueuedMany) else []


def _outcomes(piece: _Piece, reply: Reply | Problem) -> list[Problem | None]:
    """What became of each job of a piece; None: it is on disk, or would be."""
    if not isinstance(reply, EnqueuedMany):
        return [refused(reply)] * len(piece.jobs)
    # One that is there already was stored by the same message, whose reply got lost.
    good = (*_STORED, Submitted.EXISTS)
    bad = [place for place, outcome in enumerate(reply.outcomes) if outcome not in good]
    if not bad:
        return [None] * len(piece.jobs)
    if reply.outcomes[bad[0]] == Submitted.CONFLICT:
        problem = problems.at("jobs", piece.indexes[bad[0]], problems.IDEMPOTENCY_CONFLICT)
    elif reply.outcomes[bad[0]] == Submitted.CLAIMED:
        problem = problems.at("jobs", piece.indexes[bad[0]], problems.KEY_CLAIMED)
    else:
        problem = problems.INTERNAL
    return [problem] * len(piece.jobs)
