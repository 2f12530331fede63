"""``queue-node bench micro``: the state machine, the codecs or the log, alone."""

import argparse


def add_arguments(modes: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand and its options."""
    modes.add_parser("micro", help="parts of a partition alone")


def run(arguments: argparse.Namespace) -> int:
    """Measure one part; the exit code."""
    raise NotImplementedError
