"""``python -m bench``: the same as ``queue-node bench``."""

import argparse
import sys

from bench import cli


def main() -> int:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=cli.DESCRIPTION)
    cli.add_arguments(parser)
    try:
        return cli.run(parser.parse_args())
    except KeyboardInterrupt:
        # Outside of a measurement, which sees to it itself: nothing to tidy.
        return 130


if __name__ == "__main__":
    sys.exit(main())
