"""The checker of histories: quiet about what is right, loud about every single wrong."""

from dataclasses import replace

import pytest

from tests.support.history import History, Lease, Report, Submit, View, violations

LEASE_MS = 1000


def check(history: History, lost_leases_max: int = 0) -> list[str]:
    return violations(history, lease_ms=LEASE_MS, lost_leases_max=lost_leases_max)


def lease(token: int, attempt: int, granted_ms: int, job_id: str = "a") -> Lease:
    return Lease(job_id, token, attempt, f"payload of {job_id}", granted_ms + LEASE_MS)


def ack(token: int, asked_ms: int, status: int | None = 200, job_id: str = "a") -> Report:
    return Report(job_id, token, False, f"{job_id}{token}", asked_ms, status)


def fail(token: int, asked_ms: int, status: int | None = 200, job_id: str = "a") -> Report:
    return replace(ack(token, asked_ms, status, job_id), failed=True)


def done(token: int, attempts: int, job_id: str = "a") -> View:
    return View(job_id, "ACKED", attempts, f"{job_id}{token}")


def history(
    leases: list[Lease], reports: list[Report], views: list[View], max_retries: int = 3
) -> History:
    return History([Submit("payload of a", max_retries, "a")], leases, reports, views)


GOOD = {
    "nothing happened": History.empty(),
    "done at once": history([lease(1, 1, 0)], [ack(1, 500)], [done(1, 1)]),
    "failed, then done": history(
        [lease(1, 1, 0), lease(4, 2, 300)], [fail(1, 100), ack(4, 400)], [done(4, 2)]
    ),
    "expired, then done": history(
        [lease(1, 1, 0), lease(2, 2, 1000)], [ack(2, 1100)], [done(2, 2)]
    ),
    "a late ack refused": history(
        [lease(1, 1, 0), lease(2, 2, 1000)], [ack(1, 1050, 409), ack(2, 1100)], [done(2, 2)]
    ),
    "an ack whose answer was lost worked": history(
        [lease(1, 1, 0)], [ack(1, 500, None)], [done(1, 1)]
    ),
    "an ack whose answer was lost did not": history(
        [lease(1, 1, 0), lease(2, 2, 1000)], [ack(1, 500, None), ack(2, 1500)], [done(2, 2)]
    ),
    "an ack with 503 worked and was sent again": history(
        [lease(1, 1, 0)], [ack(1, 500, 503), ack(1, 600)], [done(1, 1)]
    ),
    "a failure whose answer was lost ended the lease": history(
        [lease(1, 1, 0), lease(2, 2, 600)], [fail(1, 500, None), ack(2, 700)], [done(2, 2)]
    ),
    "out of attempts": history(
        [lease(1, 1, 0), lease(2, 2, 200)],
        [fail(1, 100), fail(2, 300)],
        [View("a", "DEAD", 2, None, "a2")],
        max_retries=2,
    ),
    "out of attempts by expiry": history(
        [lease(1, 1, 0)], [], [View("a", "DEAD", 1, None, "lease expired")], max_retries=0
    ),
    "a submit whose answer was lost": History(
        [Submit("payload of a", 3, None)], [lease(1, 1, 0)], [ack(1, 1)], [done(1, 1)]
    ),
    "a submit whose answer was lost with its job": History(
        [Submit("payload of a", 3, None)], [], [], []
    ),
}

RIGHT = GOOD["failed, then done"]

WRONG = {
    "a 201 lost": (replace(RIGHT, views=[]), "lost"),
    "a 201 answered 404": (replace(RIGHT, views=[View("a", None)]), "lost"),
    "a 201 that nobody ever saw again": (history([], [], []), "lost"),
    "another payload": (
        replace(RIGHT, leases=[replace(each, payload="x") for each in RIGHT.leases]),
        "submitted 'payload of a', leased 'x'",
    ),
    "a payload of nobody": (
        History([], [lease(1, 1, 0)], [ack(1, 1)], [done(1, 1)]),
        "nobody submitted",
    ),
    "an ack lost": (
        replace(RIGHT, views=[View("a", "DEAD", 2, None, "lease expired")]),
        "its ack 'a4' got 200",
    ),
    "a result of another": (
        replace(RIGHT, views=[View("a", "ACKED", 2, "b")]),
        "its ack 'a4' got 200",
    ),
    "leased after its ack": (
        history(
            [lease(1, 1, 0), lease(2, 2, 3000)],
            [ack(1, 500), ack(2, 3100, 409)],
            [done(1, 2)],
        ),
        "leased under 2 after the ack of 1",
    ),
    "two live leases": (
        history([lease(1, 1, 0), lease(2, 2, 900)], [ack(2, 950)], [done(2, 2)]),
        "100 ms before the end of lease 1",
    ),
    "two live leases, and the report came later": (
        history([lease(1, 1, 0), lease(2, 2, 500)], [fail(1, 800), ack(2, 950)], [done(2, 2)]),
        "500 ms before the end of lease 1",
    ),
    "two live leases, and the report was refused": (
        history([lease(1, 1, 0), lease(2, 2, 500)], [fail(1, 100, 409), ack(2, 950)], [done(2, 2)]),
        "500 ms before the end of lease 1",
    ),
    "a token given twice": (
        history([lease(1, 1, 0), lease(1, 2, 1000)], [ack(1, 1100)], [done(1, 2)]),
        "token 1 was given twice",
    ),
    "a token that went back": (
        history([lease(5, 1, 0), lease(4, 2, 2000)], [ack(4, 2100)], [done(4, 2)]),
        "token 5 is greater than the later 4",
    ),
    "an attempt that was given twice": (
        history([lease(1, 1, 0), lease(2, 1, 1000)], [ack(2, 1100)], [done(2, 1)]),
        "attempt 1 after attempt 1",
    ),
    "attempts that jump": (
        history([lease(1, 1, 0), lease(2, 3, 1000)], [ack(2, 1100)], [done(2, 3)]),
        "more attempts than tokens",
    ),
    "attempts that nobody made": (
        history([lease(1, 1, 0), lease(9, 3, 1000)], [ack(9, 1100)], [done(9, 3)]),
        "1 attempts were used up",
    ),
    "a first attempt that was not the first": (
        history([lease(2, 2, 0)], [ack(2, 100)], [done(2, 2)]),
        "1 attempts were used up",
    ),
    "attempts after the last": (
        history([lease(1, 1, 0)], [ack(1, 100)], [done(1, 3)]),
        "2 attempts were used up",
    ),
    "attempts forgotten": (replace(RIGHT, views=[done(4, 1)]), "attempt 2 was leased"),
    "attempts over the limit": (
        history(RIGHT.leases, RIGHT.reports, RIGHT.views, max_retries=1),
        "2 attempts, at most 1",
    ),
    "dead too early": (
        history([lease(1, 1, 0)], [fail(1, 1)], [View("a", "DEAD", 1, None, "a1")]),
        "DEAD after 1 of 3",
    ),
    "a result that was refused": (
        history([lease(1, 1, 0)], [ack(1, 1100, 409)], [done(1, 1)]),
        "nobody's ack that may have worked",
    ),
    "an error of nobody": (
        history([lease(1, 1, 0)], [], [View("a", "DEAD", 1, None, "x")], max_retries=1),
        "nobody reported 'x'",
    ),
    "never finished": (replace(RIGHT, views=[View("a", "RETRY", 2)]), "never finished"),
    "one id for two jobs": (
        replace(RIGHT, submits=[*RIGHT.submits, Submit("other", 3, "a")]),
        "2 submits got this id",
    ),
    "two jobs of one submit": (
        History(
            [Submit("payload of a", 3, "a")],
            [lease(1, 1, 0), replace(lease(2, 1, 0, "b"), payload="payload of a")],
            [ack(1, 1), ack(2, 1, job_id="b")],
            [done(1, 1), done(2, 1, "b")],
        ),
        "became several jobs",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_may_be_is_not_blamed(name: str) -> None:
    assert check(GOOD[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_what_must_not_be_is_found(name: str) -> None:
    wrong, words = WRONG[name]
    found = check(wrong)
    assert any(words in each for each in found), found


def test_leases_whose_answer_was_lost_may_use_up_attempts() -> None:
    skipped = history([lease(1, 1, 0), lease(9, 3, 1000)], [ack(9, 1100)], [done(9, 3)])
    assert check(skipped, lost_leases_max=1) == []
