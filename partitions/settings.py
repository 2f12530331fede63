"""What a partition process is told when it starts: one line of JSON on standard input."""

import msgspec


class PartitionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a partition process needs to know."""

    partition: int
    """Number of this partition, from 0."""
    partitions: int
    """How many partitions the node has; fixed when the data directory was made."""
    directory: str
    """Its own directory below ``WAL_DIR``; made when missing."""
    socket: str
    """Path of the Unix socket that it binds; short, in a private directory."""
    clock_ahead_ms: int | None = None
    """See ``partitions.clock``; None: read the wall clock."""
    lease_check_interval_ms: int = 5_000
    retry_backoff_ms: int = 1_000
    retry_backoff_max_ms: int = 600_000
    retention_ms: int = 86_400_000
    dead_retention_ms: int = 604_800_000
    lease_duration_ms: int = 30_000
    jobs_max: int | None = None
    """Unfinished jobs of this partition; None: as many as there is room for."""
    disk_free_min_bytes: int = 0
    """Submits are refused when the file system has less free."""
    log_format: str = "text"
    log_level: str = "info"
