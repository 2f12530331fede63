"""``queue-node top``: the queues of a node, live, until `q` or Ctrl-C.

``--once`` shows one look and ends; with ``--json`` each look is a line, for scripts.
"""

import argparse
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live

from queue_node import client_session
from queue_node.client_arguments import duration
from queue_node.client_exit import ClientExit, ClientUsageError
from queue_node.client_queues_view import BY_BACKLOG, SORTS
from queue_node.client_session import Session
from queue_node.client_top_view import Look, as_json, view
from queue_node_sdk import Overloaded, QueueList, ServerError, Unreachable

_INTERVAL_SECONDS: Final = 2.0
_INTERVAL_SECONDS_MIN: Final = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node top``, its arguments."""
    parser.add_argument("queue", nargs="*", metavar="QUEUE", help="only these (all)")
    parser.add_argument(
        "--interval",
        type=duration,
        default=_INTERVAL_SECONDS,
        metavar="DURATION",
        help="between two looks (2s)",
    )
    parser.add_argument(
        "--sort", choices=SORTS, default=BY_BACKLOG, help=f"which come first ({BY_BACKLOG})"
    )
    parser.add_argument("--once", action="store_true", help="one look, and the end")
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the queues until told to stop; returns the exit code.

    Raises:
        ClientUsageError: the interval would keep the node busy with us.
    """
    if arguments.interval < _INTERVAL_SECONDS_MIN:
        raise ClientUsageError(f"--interval is at least {_INTERVAL_SECONDS_MIN}s")
    return client_session.run(arguments, _top)


def _top(session: Session) -> int:
    looks = Looks(session, time.monotonic)
    if session.arguments.once:
        _print(session, looks.take())
        return ClientExit.DONE
    with key_pressed() as pressed:
        if session.output.json_rows:
            return _lines(session, looks, pressed)
        return _live(session, looks, pressed)


class Looks:
    """Looks at the node, one after the other; the last good one stays while it is away."""

    def __init__(self, session: Session, monotonic: Callable[[], float]) -> None:
        self._session = session
        self._monotonic = monotonic
        self._last: Look | None = None

    def take(self) -> Look:
        """A look now.

        Raises:
            QueueNodeError: the first look failed, or the node refuses: the key is wrong, say.
        """
        try:
            queues = _only(self._session.client.queues(), self._session.arguments.queue)
        except (Unreachable, Overloaded, ServerError) as error:
            if self._last is None:
                raise
            return Look(self._last.queues, self._last.at_seconds, str(error))
        self._last = Look(queues, self._monotonic())
        return self._last


def _only(queues: QueueList, names: Sequence[str]) -> QueueList:
    """Those with these names; all of them when there are no names."""
    if not names:
        return queues
    return QueueList((one for one in queues if one.queue in names), queues.unavailable)


def _print(session: Session, seen: Look) -> None:
    if session.output.json_rows:
        session.output.json(as_json(seen, session.arguments.sort))
    else:
        session.output.console.print(_view(session, seen, 0.0))


def _view(session: Session, seen: Look, age_seconds: float) -> RenderableType:
    return Group(*view(seen, session.arguments.sort, session.target.url, age_seconds))


def _lines(session: Session, looks: Looks, pressed: Callable[[float], str]) -> int:
    while True:
        _print(session, looks.take())
        sys.stdout.flush()
        if pressed(session.arguments.interval) == "q":
            return ClientExit.DONE


def _live(session: Session, looks: Looks, pressed: Callable[[float], str]) -> int:
    seen = looks.take()
    # The other screen of the terminal, as editors and pagers do: what was there comes back.
    with Live(
        _view(session, seen, 0.0), console=session.output.console, screen=True, auto_refresh=False
    ) as live:
        while pressed(session.arguments.interval) != "q":
            seen = looks.take()
            live.update(_view(session, seen, time.monotonic() - seen.at_seconds), refresh=True)
    return ClientExit.DONE


@contextmanager
def key_pressed() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and returns it, or nothing.

    Keys come one by one and unseen where standard input is a terminal; elsewhere there are none.
    """
    if not sys.stdin.isatty():
        yield _sleep
        return
    # Not there on every system that has a terminal.
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _key(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else ""


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""
