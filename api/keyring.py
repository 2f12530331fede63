"""Who is calling: parses what was presented, looks it up, remembers it. One per front.

A key that was found is remembered for ``cache_ttl_ms``; ``recall`` answers from there without
waiting. Then it is asked for again, and while the store cannot be reached the last answer
holds for ``grace_ms`` since it was given. A key that is not remembered gets 503 meanwhile:
never a 401 about a key that may be good, never a yes about one that may be revoked.

Revocations arrive by subscription and are effective at once. Whenever a subscription begins,
all that is remembered must be asked for again, since what was said before it is lost; it is
kept for the grace time, though, for the next moment may show that the store is gone again.

Memory is bounded (``KNOWN_MAX``, ``REFUSED_MAX``), so are threads (``LOOKUPS_MAX``) and the
time a request waits for the store (``LOOKUP_TIMEOUT_S``). What a store does blocks, so it runs
in worker threads; the state here belongs to the event loop.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from api.caller import Caller, KeyType
from api.keys import Token, is_key_id, mint, parse_token
from api.keystore.base import (
    Everything,
    KeyIdTakenError,
    KeyRecord,
    KeyStore,
    KeyStoreUnreachableError,
    NewKey,
    Revocations,
    wall_s,
)
from api.problems import (
    BAD_AUTHORIZATION,
    EMPTY_KEY,
    INVALID_KEY,
    KEY_NOT_FOUND,
    KEYSTORE_UNREACHABLE,
    MISSING_AUTHORIZATION,
    NOT_THE_OWNER,
    REVOKED_KEY,
    Problem,
)

KNOWN_MAX: Final = 100_000
"""Keys remembered; about 600 bytes each (guess: more than anybody has)."""
REFUSED_MAX: Final = 10_000
"""Refusals remembered. A checksum must fit to get in here, so a flood of noise does not."""
REFUSED_TTL_S: Final = 1.0
LOOKUPS_MAX: Final = 16
"""Look-ups at the store at once, each in a thread (guess)."""
LOOKUP_TIMEOUT_S: Final = 2.0
"""One look-up, its wait for a thread included."""
DOWN_PAUSE_S: Final = 1.0
"""After a failure the store is left alone for so long, then one request tries it."""
FLUSH_EVERY_S: Final = 2.0
"""How soon a first use shows in lists."""
TOUCH_EVERY_S: Final = 60.0
"""``last_used_at`` of one key is written at most so often."""
FLUSH_DEADLINE_S: Final = 2.0
"""For the last write while draining."""

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Known:
    """A key that the store said yes to. Mutable: ``recall`` notes the use without an allocation."""

    __slots__ = ("caller", "fresh_until_s", "grace_until_s", "touched_s", "used_s")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.fresh_until_s = 0.0
        self.grace_until_s = 0.0
        self.used_s: float | None = None
        self.touched_s: float | None = None


class _Flight:
    """One look-up that every request with this key waits for."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.outcome: Caller | Problem | None = None
        self.overtaken = False
        """A revocation arrived meanwhile: the answer holds for those who wait, not longer."""


class Keyring:
    """See the module. ``run`` must run while keys are used, or no revocation arrives."""

    def __init__(
        self,
        store: KeyStore,
        *,
        cache_ttl_ms: int,
        grace_ms: int,
        clock: Callable[[], float] = time.monotonic,  # trio's costs a request 0.2 us
    ) -> None:
        self._store = store
        self._cache_ttl_s = cache_ttl_ms / 1000
        self._grace_s = grace_ms / 1000
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._token_of: dict[str, str] = {}
        self._refused: dict[str, tuple[Problem, float]] = {}
        # {key id: time of last use} of keys that are no longer known.
        self._unwritten: dict[str, float] = {}
        self._touch_failed = False
        self._flights: dict[str, _Flight] = {}
        self._limiter = trio.CapacityLimiter(LOOKUPS_MAX)
        self._down_since_s: float | None = None
        self._next_try_s = 0.0
        self._ever_reached = False

    # --- requests ---------------------------------------------------------------------------

    def recall(self, authorization: str | None) -> Caller | None:
        """The caller if a fresh yes is remembered; None says nothing. Does not wait."""
        if authorization is None or authorization[:7] != "Bearer ":
            return None
        known = self._known.get(authorization[7:])
        if known is None:
            return None
        now_s = self._clock()
        if now_s >= known.fresh_until_s:
            return None
        known.used_s = now_s
        return known.caller

    async def identify(self, authorization: str | None) -> Caller | Problem:
        """The caller behind an ``Authorization`` header, or why there is none."""
        text = bearer_text(authorization)
        if isinstance(text, Problem):
            return text
        token = parse_token(text)
        if token is None:
            return INVALID_KEY
        outcome = self._remembered(token)
        if outcome is None:
            outcome = await self._look_up(token)
        if isinstance(outcome, Caller) and (known := self._known.get(token.text)):
            known.used_s = self._clock()
        return outcome

    def _remembered(self, token: Token) -> Caller | Problem | None:
        now_s = self._clock()
        known = self._known.get(token.text)
        if known is not None and now_s < known.fresh_until_s:
            return known.caller
        refused = self._refused.get(token.text)
        if refused is not None and now_s < refused[1]:
            return refused[0]
        if self._down_since_s is None:
            return None
        if self._is_left_alone:
            return self._without_store(token)
        # This request tries the store; the others do not queue up behind it.
        self._next_try_s = now_s + DOWN_PAUSE_S
        return None

    async def _look_up(self, token: Token) -> Caller | Problem:
        while (flight := self._flights.get(token.text)) is not None:
            await flight.landed.wait()
            # Without an outcome it was cancelled with the request that made it: look again.
            if flight.outcome is not None:
                return flight.outcome
        flight = self._flights[token.text] = _Flight()
        try:
            flight.outcome = await self._ask_store(token, flight)
        finally:
            del self._flights[token.text]
            flight.landed.set()
        return flight.outcome

    async def _ask_store(self, token: Token, flight: _Flight) -> Caller | Problem:
        # The answer is true at some moment after this one; its age counts from here.
        asked_s = self._clock()
        try:
            record = await self._read(partial(self._store.find, token))
        except KeyStoreUnreachableError:
            return self._without_store(token)
        if record is None:
            return self._remember_refusal(token, INVALID_KEY)
        if record.revoked_s is not None:
            return self._remember_refusal(token, REVOKED_KEY)
        caller = Caller(record.key_id, record.owner_id, record.type, frozenset(record.scopes))
        if not flight.overtaken:
            self._remember(token, caller, asked_s)
        return caller

    def _without_store(self, token: Token) -> Caller | Problem:
        """The answer while the store cannot be asked."""
        known = self._known.get(token.text)
        if known is not None and self._clock() < known.grace_until_s:
            return known.caller
        refused = self._refused.get(token.text)
        if refused is not None and refused[0] is REVOKED_KEY:
            # Old, but a revocation is for good.
            return REVOKED_KEY
        return KEYSTORE_UNREACHABLE

    # --- memory -----------------------------------------------------------------------------

    def _remember(self, token: Token, caller: Caller, asked_s: float) -> None:
        known = self._known.get(token.text)
        if known is None:
            while len(self._known) >= KNOWN_MAX:
                self._forget(next(iter(self._known.values())).caller.key_id)
            known = self._known[token.text] = _Known(caller)
            self._token_of[caller.key_id] = token.text
        known.caller = caller
        known.fresh_until_s = asked_s + self._cache_ttl_s
        known.grace_until_s = asked_s + self._grace_s
        self._refused.pop(token.text, None)

    def _remember_refusal(self, token: Token, problem: Problem) -> Problem:
        # By token: ids are public, and a made-up key with the id of a good one must not push
        # that out of memory.
        if self._token_of.get(token.key_id) == token.text:
            self._forget(token.key_id)
        self._refused.pop(token.text, None)
        while len(self._refused) >= REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[token.text] = (problem, self._clock() + REFUSED_TTL_S)
        return problem

    def _forget(self, key_id: str) -> None:
        if token_text := self._token_of.pop(key_id, None):
            known = self._known.pop(token_text)
            # The last use of a key that was revoked is what people ask for afterwards.
            if known.used_s is not None and len(self._unwritten) < KNOWN_MAX:
                self._unwritten[key_id] = known.used_s

    def _take_back(self, revocations: Revocations) -> None:
        if isinstance(revocations, Everything):
            for known in self._known.values():
                known.fresh_until_s = 0.0
        else:
            for key_id in revocations:
                self._forget(key_id)
        if isinstance(revocations, Everything) or revocations:
            for flight in self._flights.values():
                flight.overtaken = True

    # --- the store --------------------------------------------------------------------------

    async def _read(self, call: Callable[[], _T]) -> _T:
        """Ask the store, and note how that went: look-ups live by it.

        Raises:
            KeyStoreUnreachableError: also when it took too long.
        """
        try:
            answer = await self._in_thread(call)
        except KeyStoreUnreachableError as error:
            self._note_down(error)
            raise
        self._note_up()
        return answer

    async def _write(self, call: Callable[[], _T]) -> _T:
        """Change the store. A failure says nothing about reading: the disk may just be full.

        Raises:
            KeyStoreUnreachableError: also when it took too long; it may have happened.
        """
        if self._is_left_alone:
            raise KeyStoreUnreachableError(self._store.name, "left alone after a failure")
        return await self._in_thread(call)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        with trio.move_on_after(LOOKUP_TIMEOUT_S):
            # Abandoned threads end by the store's own timeouts, and keep their place in the
            # limiter until then.
            return await trio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=self._limiter
            )
        raise KeyStoreUnreachableError(self._store.name, "no answer in time")

    @property
    def _is_left_alone(self) -> bool:
        return self._down_since_s is not None and self._clock() < self._next_try_s

    def _note_up(self) -> None:
        if self._down_since_s is not None:
            _log.warning("key store %s is reachable again", self._store.name)
        self._down_since_s = None
        self._ever_reached = True

    def _note_down(self, error: KeyStoreUnreachableError) -> None:
        now_s = self._clock()
        if self._down_since_s is None:
            _log.error("%s; known keys go on for %.0f s, trying again", error, self._grace_s)
            self._down_since_s = now_s
        self._next_try_s = now_s + DOWN_PAUSE_S

    @property
    def reachable(self) -> bool:
        """Whether the store answered when it was last asked."""
        return self._ever_reached and self._down_since_s is None

    @property
    def serving(self) -> bool:
        """Whether requests can be told apart: the store answers, or its grace time runs."""
        if not self._ever_reached:
            return False
        down_since_s = self._down_since_s
        return down_since_s is None or self._clock() < down_since_s + self._grace_s

    # --- background -------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch for revocations and write last-used times until cancelled.

        Started at once, also when the store is down: a front without keys still says so.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_now_and_then)
            task_status.started()
            while True:
                try:
                    await self._watch()
                except KeyStoreUnreachableError as error:
                    self._note_down(error)
                await trio.sleep(DOWN_PAUSE_S)

    async def _watch(self) -> None:
        subscription = await trio.to_thread.run_sync(self._store.subscribe)
        try:
            self._take_back(Everything())
            self._note_up()
            while True:
                # Not abandoned: it is short, and ``close`` must not meet it.
                self._take_back(await trio.to_thread.run_sync(subscription.wait))
                if self._down_since_s is not None and self._clock() >= self._next_try_s:
                    # Without requests nobody else would notice that the store is back.
                    await self._read(self._store.ping)
        finally:
            subscription.close()

    async def _flush_now_and_then(self) -> None:
        try:
            while True:
                await trio.sleep(FLUSH_EVERY_S)
                await self._flush(self._clock() - TOUCH_EVERY_S)
        finally:
            with trio.move_on_after(FLUSH_DEADLINE_S, shield=True):
                await self._flush(self._clock())

    async def _flush(self, touched_before_s: float) -> None:
        """Write the uses of keys that were last written before ``touched_before_s``."""
        due = [known for known in self._known.values() if _is_due(known, touched_before_s)]
        forgotten, self._unwritten = self._unwritten, {}
        used_s = forgotten | {known.caller.key_id: known.used_s or 0.0 for known in due}
        if not used_s:
            return
        clock_s = self._clock()
        # By age: the clock of uses is not the one that is shown.
        wall_used_s = {key_id: wall_s(clock_s - used) for key_id, used in used_s.items()}
        try:
            await self._write(partial(self._store.touch, wall_used_s))
        except KeyStoreUnreachableError as error:
            if not self._touch_failed and self._down_since_s is None:
                _log.warning("last uses of keys are not written now: %s", error)
            self._touch_failed = True
            self._unwritten = forgotten | self._unwritten
            return
        self._touch_failed = False
        for known in due:
            known.touched_s = clock_s

    # --- administration ---------------------------------------------------------------------

    async def create(self, key_type: KeyType, name: str, owner_id: str) -> tuple[Token, KeyRecord]:
        """Make and store a key; its token is known here for the only time.

        Raises:
            KeyStoreUnreachableError: and so do the methods below.
        """
        while True:
            new = NewKey(mint(key_type), name, owner_id, wall_s())
            try:
                return new.token, await self._write(partial(self._store.create, new))
            except KeyIdTakenError:
                continue  # Once in 62**8 keys.

    async def list_all(self) -> list[KeyRecord]:
        """Every key, oldest first."""
        return await self._read(self._store.list_all)

    async def list_owned(self, owner_id: str) -> list[KeyRecord]:
        """The keys of an owner, oldest first."""
        return await self._read(partial(self._store.list_owned, owner_id))

    async def revoke(self, text: str, caller: Caller) -> KeyRecord | Problem:
        """Revoke the key with this id or token, if ``caller`` is an admin or its owner."""
        record = await self._named(text)
        if record is None:
            return KEY_NOT_FOUND
        if caller.type != "admin" and caller.owner_id != record.owner_id:
            return NOT_THE_OWNER
        key_id = record.key_id
        revoked = await self._write(partial(self._store.revoke, key_id, wall_s()))
        # Here at once; the other fronts hear it from the store.
        self._take_back(frozenset({key_id}))
        return KEY_NOT_FOUND if revoked is None else revoked

    async def _named(self, text: str) -> KeyRecord | None:
        # Anything else than these two forms never reaches a store.
        if is_key_id(text):
            return await self._read(partial(self._store.get, text))
        token = parse_token(text)
        if token is None:
            return None
        return await self._read(partial(self._store.find, token))


def bearer_text(authorization: str | None) -> str | Problem:
    """What stands behind ``Bearer`` (RFC 9110, 11.1: any case, one space or more).

    The scheme alone is an empty key: HTTP takes the space at the end of a header's value away,
    so ``Bearer `` and ``Bearer`` cannot be told apart.
    """
    if not authorization or authorization.isspace():
        return MISSING_AUTHORIZATION
    scheme, _, text = authorization.lstrip(" ").partition(" ")
    if scheme.lower() != "bearer":
        return BAD_AUTHORIZATION
    return text.strip(" ") or EMPTY_KEY


def _is_due(known: _Known, touched_before_s: float) -> bool:
    if known.used_s is None:
        return False
    if known.touched_s is None:
        return True
    return known.used_s > known.touched_s and known.touched_s <= touched_before_s
