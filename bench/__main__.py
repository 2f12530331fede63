"""``python -m bench``: the same as ``queue-node bench``."""

import argparse
import sys

from bench import cli


def main() -> int:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=cli.DESCRIPTION)
    cli.add_arguments(parser)
    return cli.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
