"""What clients saw of a node in a whole run, and whether it may be so. Pure.

A run of a test is short: all of it is kept, and judged at its end. The judge of one job is
the product's (``queue_node.soak.history``); what concerns several jobs stands here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from queue_node.soak.history import JobHistory, Lease, Report, Submit, View, judge

__all__ = ["History", "Lease", "Report", "Submit", "View", "violations"]


@dataclass
class History:
    """Everything that was noted; several threads may add to it."""

    submits: list[Submit]
    leases: list[Lease]
    reports: list[Report]
    views: list[View]

    @classmethod
    def empty(cls) -> "History":
        return cls([], [], [], [])

    def jobs(self) -> list[JobHistory]:
        """What was seen of each job that was submitted or leased."""
        jobs: dict[str, JobHistory] = {}
        by_payload = {each.payload: each for each in self.submits}
        for submit in self.submits:
            if submit.job_id is not None:
                jobs[submit.job_id] = JobHistory(submit.job_id, submit)
        for lease in self.leases:
            job = jobs.setdefault(
                lease.job_id, JobHistory(lease.job_id, by_payload.get(lease.payload))
            )
            job.leases.append(lease)
        for report in self.reports:
            jobs[report.job_id].reports.append(report)
        for view in self.views:
            if view.job_id in jobs:
                jobs[view.job_id].views.append(view)
        return [jobs[job_id] for job_id in sorted(jobs)]


def violations(history: History, *, lease_ms: int, lost_leases_max: int) -> list[str]:
    """What must not be, in words; empty when the node kept its promises.

    Args:
        history: with a view of every job that was submitted or leased.
        lease_ms: how long each lease was.
        lost_leases_max: leases whose answer may have been lost: they use up an attempt
            that nobody saw.
    """
    found = [*_ids(history)]
    unseen = 0
    for job in history.jobs():
        judgement = judge(job, lease_ms=lease_ms)
        found += map(str, judgement.violations)
        unseen += judgement.unseen_leases
    if unseen > lost_leases_max:
        found.append(
            f"{unseen} attempts were used up by leases that nobody saw,"
            f" at most {lost_leases_max} answers were lost"
        )
    return found


def _ids(history: History) -> Iterable[str]:
    for job_id, count in Counter(each.job_id for each in history.submits if each.job_id).items():
        if count > 1:
            yield f"{job_id}: {count} submits got this id"
    jobs_of_payload = defaultdict(set)
    for lease in history.leases:
        jobs_of_payload[lease.payload].add(lease.job_id)
    for payload, job_ids in jobs_of_payload.items():
        if len(job_ids) > 1:
            yield f"{sorted(job_ids)}: one submit ({payload[:20]!r}) became several jobs"
