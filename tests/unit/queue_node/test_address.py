"""The listening socket: bound once, or refused in one line."""

import errno
import socket
import threading

import pytest

from queue_node import address
from queue_node.errors import AddressError, ExitCode


def test_a_free_port_is_found_and_shown_in_the_url():
    with address.listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        assert address.url_of(listener, tls=False) == f"http://127.0.0.1:{port}"
        assert address.url_of(listener, tls=True) == f"https://127.0.0.1:{port}"
        with socket.create_connection((host, port)):
            listener.setblocking(True)
            listener.accept()[0].close()


def test_a_name_is_bound_at_its_ipv4_address_first():
    with address.listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_all_addresses_are_reached_at_the_loopback_one():
    with address.listen("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        assert address.url_of(listener, tls=False) == f"http://127.0.0.1:{port}"
        assert address.beyond(listener) == "every other IPv4 address of this machine (0.0.0.0)"
    with address.listen("127.0.0.1", 0) as listener:
        assert address.beyond(listener) == ""


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_works_and_all_of_it_takes_ipv4_too():
    with address.listen("::1", 0) as listener:
        port = listener.getsockname()[1]
        assert address.url_of(listener, tls=False) == f"http://[::1]:{port}"
    with address.listen("::", 0) as listener:
        port = listener.getsockname()[1]
        assert address.url_of(listener, tls=False) == f"http://[::1]:{port}"
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_in_use_is_refused_with_its_number():
    with address.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressError) as caught:
            address.listen("127.0.0.1", port)
    assert str(caught.value) == (
        f"HOST=127.0.0.1 PORT={port}: port {port} is in use by another process; "
        "set PORT to another one"
    )
    assert caught.value.exit_code is ExitCode.ADDRESS


def test_with_patience_a_port_is_taken_when_its_holder_lets_go():
    holder = address.listen("127.0.0.1", 0)
    port = holder.getsockname()[1]
    release = threading.Timer(0.2, holder.close)
    release.start()
    with address.listen("127.0.0.1", port, patience_s=20) as listener:
        assert listener.getsockname()[1] == port
    release.join()


def test_a_restart_need_not_wait_for_old_connections():
    with address.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        listener.setblocking(True)
        client = socket.create_connection(("127.0.0.1", port))
        # Closed by the server first: its side stays in TIME_WAIT.
        listener.accept()[0].close()
        client.close()
    address.listen("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "is not an address of this machine"),
        ("host.invalid", "can't be resolved"),
        ("." * 80, "can't be resolved"),
    ],
)
def test_a_host_that_is_not_ours_is_refused(host, words):
    with pytest.raises(AddressError, match=words):
        address.listen(host, 0)


def test_other_reasons_are_said_in_the_systems_words(monkeypatch):
    def refuse(family, where):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(address, "_bind", refuse)
    with pytest.raises(AddressError, match="not allowed to listen on port 80; take one above"):
        address.listen("127.0.0.1", 80)
