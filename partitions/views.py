"""Jobs and queues as readers see them; changes nothing. Pure."""

from collections.abc import Callable, Iterable
from typing import Final

from partitions.answers import JobFound, JobsFound
from partitions.job import CREATED_SHIFT, EMPTY_AT, FINISHED, Job, Outcome, Run, State
from partitions.jobs import Jobs
from partitions.kinds import Kind
from partitions.limits import PAGE_BYTES_MAX, SCAN_JOBS_MAX
from partitions.messages import Filter, JobView, List, QueueView
from partitions.positions import size_of
from partitions.queues import Queue

_NO_RUN: Final = Run()
_WORDS: Final = {Outcome.EXPIRED: b"lease expired", Outcome.TTL_OVER: b"expired"}


def view_of_job(job: Job, kind: Kind) -> JobFound:
    """All of it; a text that has to be read is left out."""
    run, state, outcome = job.run or _NO_RUN, job.state, job.outcome
    own = job.own
    view = JobView(
        job.job_id,
        state.name,
        run.attempts,
        kind.max_retries,
        job.created_at_ms,
        job.due_ms if state is State.RUNNING else None,
        None,
        _WORDS.get(outcome),
        kind.owner,
        kind.options,
        job.number,
        job.due_ms if state in (State.SCHEDULED, State.RETRY) and job.due_ms else None,
        job.due_ms if state in FINISHED else None,
        own.expires_at_ms or None if own else None,
        own.group if own else "",
        run.crashes,
        run.progress,
        run.worker,
    )
    return JobFound(view, outcome, run.outcome_at if run.outcome_at > EMPTY_AT else 0)


def page(jobs: Jobs, command: List) -> JobsFound:
    """The jobs behind a number that the filter lets through; looks at a bounded number."""
    matches = _matcher(jobs, command.filter)
    found: list[JobFound] = []
    text_bytes, number = 0, command.after_number
    for looked_at, job in enumerate(jobs.order.after(number)):
        if looked_at == SCAN_JOBS_MAX or len(found) == command.limit or text_bytes > PAGE_BYTES_MAX:
            return JobsFound(found, number)
        number = job.number
        if not matches(job):
            continue
        each = view_of_job(job, jobs.kind(job))
        if each.outcome_at:
            if each.outcome is Outcome.RESULT:
                each = JobFound(each.view, Outcome.NONE, 0)
            else:
                text_bytes += size_of(each.outcome_at)
        found.append(each)
    return JobsFound(found, None)


def _matcher(jobs: Jobs, wanted: Filter) -> Callable[[Job], bool]:
    """A test of one job."""
    # Of the kinds that are met: with tags that differ from job to job there are as many kinds.
    kinds: dict[int, bool] = {}
    tags = _texts(wanted.tags)
    state = State.__members__.get(wanted.state, State.GONE) if wanted.state else None
    group = wanted.group

    def is_wanted(kind: Kind) -> bool:
        is_wanted = wanted.queue in (None, "", kind.queue.name) and tags <= _texts(kind.tags)
        return kinds.setdefault(kind.index, is_wanted)

    def matches(job: Job) -> bool:
        known = kinds.get(job.kind)
        return (
            (is_wanted(jobs.kind(job)) if known is None else known)
            and (state is None or job.state is state)
            and (not group or (job.own is not None and job.own.group == group))
        )

    return matches


def _texts(tags: Iterable[tuple[str, str]]) -> set[str]:
    """As a query writes them: which colon ends the key, it cannot say."""
    return {f"{key}:{value}" for key, value in tags}


def view_of_queue(queue: Queue, now_ms: int) -> QueueView:
    """Its counts are counters: no job is looked at."""
    top = queue.ready.oldest()
    return QueueView(
        queue.name,
        queue.paused,
        {state.name: count for state in State if (count := queue.counts[state])},
        None if top is None else top >> CREATED_SHIFT,
        len(queue.groups),
        {
            "submitted": queue.submitted.per_second(now_ms),
            "leased": queue.leased.per_second(now_ms),
            "acked": queue.acked.per_second(now_ms),
            "failed": queue.failed.per_second(now_ms),
        },
    )
