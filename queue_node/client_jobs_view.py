"""Jobs in tables: a line each, or one of them with all that is known of it."""

from collections.abc import Sequence
from typing import Final

from queue_node.client_output import Cell, plain, short, state_cell, when
from queue_node_sdk import Job, LeasedJob

HEADINGS: Final = ("JOB", "STATE", "QUEUE", "ATTEMPTS", "CREATED", "TAGS", "ERROR")
LEASE_HEADINGS: Final = ("JOB", "LEASE TOKEN", "QUEUE", "ATTEMPT", "LEASE UNTIL", "PAYLOAD")


def job_cells(job: Job) -> Sequence[Cell]:
    """Under ``HEADINGS``."""
    return (
        job.job_id,
        state_cell(job.state),
        job.queue,
        f"{job.attempts}/{_attempts_in_all(job)}",
        when(job.created_at),
        tags_text(job.tags),
        short(job.result_error),
    )


def lease_cells(job: LeasedJob) -> Sequence[Cell]:
    """Under ``LEASE_HEADINGS``."""
    return (
        job.job_id,
        job.lease_token or "-",
        job.queue,
        str(job.attempt),
        when(job.lease_until),
        short(job.payload),
    )


def job_fields(job: Job) -> list[tuple[str, Cell]]:
    """Name and value of all that there is; an empty value says nothing."""
    return [
        ("job", job.job_id),
        ("state", state_cell(job.state)),
        ("queue", job.queue),
        ("attempts", f"{job.attempts} of {_attempts_in_all(job)}"),
        ("crashes", str(job.crashes) if job.crashes else ""),
        ("priority", str(job.priority) if job.priority else ""),
        ("group", plain(job.group or "")),
        ("tags", tags_text(job.tags)),
        ("created", when(job.created_at)),
        ("not before", when(job.run_at)),
        ("expires", when(job.expires_at)),
        ("worker", plain(job.worker or "")),
        ("leased until", when(job.lease_until)),
        ("progress", "" if job.progress is None else _progress(job.progress)),
        ("finished", when(job.finished_at)),
        # Whole, for this is where one looks for it.
        ("result", _harmless_lines(job.result)),
        ("error", _harmless_lines(job.result_error)),
    ]


def tags_text(tags: dict[str, str] | None) -> str:
    """``customer=42 kind=invoice``."""
    return " ".join(f"{plain(name)}={plain(value)}" for name, value in (tags or {}).items())


def _attempts_in_all(job: Job) -> int:
    return max(job.max_retries, 1)


def _progress(progress: str | float) -> str:
    return plain(progress) if isinstance(progress, str) else f"{progress:g} %"


def _harmless_lines(text: str | None) -> str:
    return "\n".join(plain(line) for line in (text or "").split("\n"))
