"""Faults inside a front; each becomes an answer in ``operations``, in one place."""


class PartitionUnavailableError(Exception):
    """The partition does not serve now.

    ``sent`` says whether it may have got the command, ``hangs`` that it lives and says nothing: it
    may be long until it does.
    """

    def __init__(self, partition: int, *, sent: bool, hangs: bool = False) -> None:
        super().__init__(f"partition {partition} is unavailable")
        self.partition = partition
        self.sent = sent
        self.hangs = hangs


class OverloadedError(Exception):
    """Too much is in flight to this partition; nothing was sent."""

    def __init__(self, partition: int) -> None:
        super().__init__(f"partition {partition} has too many requests in flight")
        self.partition = partition
