"""URLs that do not fit what is there: told at once, by type, and never taken for an outage."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import trustme

from queue_node_sdk import BadRequest, Client, ConfigurationError, LeasedJob, TlsError, Worker
from tests.support.polling import DEADLINE_S

NEVER = 10 * DEADLINE_S
"""Patience that no test lives to see: whatever is raised was not retried."""
CLOSING = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Listener:
    """Accepts clients, one after the other, and does to each what it was made with."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.accepted = 0
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client:
                if self.accepted < 0:
                    return
                self.accepted += 1
                with suppress(OSError):
                    self._serve(client)

    def close(self) -> None:
        self.accepted = -1
        with socket.create_connection(self._listener.getsockname()):
            self._thread.join()
        self._listener.close()


@pytest.fixture
def tls_port() -> Iterator[Listener]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    listener = Listener(lambda client: context.wrap_socket(client, server_side=True).close())
    yield listener
    listener.close()


@pytest.fixture
def plain_port() -> Iterator[Listener]:
    def answer(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(CLOSING)

    listener = Listener(answer)
    yield listener
    listener.close()


def test_a_certificate_that_is_not_trusted_is_told_at_once(tls_port: Listener):
    with (
        Client(f"https://{tls_port.address}", "client_x", retry_for=NEVER) as client,
        pytest.raises(TlsError, match=r"submit: .* certificate is not trusted: .*cafile"),
    ):
        client.submit("x")
    assert tls_port.accepted == 1


def test_nor_is_it_waited_for(tls_port: Listener):
    with (
        Client(f"https://{tls_port.address}", "client_x") as client,
        pytest.raises(TlsError),
    ):
        client.wait_for_completion("an-id", timeout=NEVER)


def test_a_worker_ends_with_it(tls_port: Listener):
    def never(_job: LeasedJob) -> None:
        raise AssertionError

    with pytest.raises(TlsError):
        Worker(f"https://{tls_port.address}", "worker_x", never).run()


def test_https_to_a_port_that_speaks_http_says_so(plain_port: Listener):
    with (
        Client(f"https://{plain_port.address}", "client_x", retry_for=NEVER) as client,
        pytest.raises(ConfigurationError, match=r"does not speak TLS: .*http://"),
    ):
        client.submit("x")


def test_http_to_a_node_that_speaks_https_is_refused_in_its_words():
    def https_only(client: socket.socket) -> None:
        client.recv(4096)
        body = b'{"error":"this port speaks HTTPS: use https://"}'
        client.sendall(
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    listener = Listener(https_only)
    with (
        Client(f"http://{listener.address}", "client_x", retry_for=NEVER) as client,
        pytest.raises(BadRequest, match="use https://"),
    ):
        client.submit("x")
    listener.close()
