"""Texts that come from standard input or from a file: payloads, results, errors."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from queue_node.client_exit import ClientUsageError

STDIN: Final = "-"


def text_of(word: str) -> str:
    """``word`` itself; of ``-`` all of standard input.

    Raises:
        ClientUsageError: it is not text.
    """
    return read_text(STDIN) if word == STDIN else word


def read_text(path: str) -> str:
    """All of a file, or of standard input (``-``).

    Raises:
        ClientUsageError: it cannot be read, or is not text.
    """
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return content.decode()
    except OSError as error:
        raise ClientUsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _not_text(path) from error


def read_lines(path: str) -> Iterator[str]:
    """Lines without their ends, as they come; of a file, or of standard input (``-``).

    Raises:
        ClientUsageError: they cannot be read, or are not text.
    """
    try:
        with sys.stdin.buffer if path == STDIN else Path(path).open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except OSError as error:
        raise ClientUsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _not_text(path) from error


def _not_text(path: str) -> ClientUsageError:
    where = "standard input" if path == STDIN else path
    return ClientUsageError(f"{where} is not UTF-8, and a text of a job is: encode it (base64)")
