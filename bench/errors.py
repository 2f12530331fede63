"""Faults of a benchmark run. Each ends the run with one clear line and exit code 2."""


class BenchError(Exception):
    """The run cannot go on, or its figures would not mean what they say."""


class MalformedAnswerError(BenchError):
    """The node sent bytes that are not an answer we understand, or not to what we asked."""
