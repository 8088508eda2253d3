"""What tests rely on: the network that breaks when told to, and what a missing server means."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from patience import PATIENCE_S, wait_until
from servers import Proxy, ServerMissing
from servers.fixtures import report_missing
from servers.process import find_program


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    def take() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    threads = [threading.Thread(target=take)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads[0].start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(PATIENCE_S)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)


def say(client: socket.socket, text: bytes = b"hello") -> bytes:
    client.sendall(text)
    return client.recv(4096)


def test_it_forwards_cuts_and_refuses(proxy: Proxy) -> None:
    with connect(proxy) as first:
        assert say(first) == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionError):
            say(first)
            say(first)
    with connect(proxy) as second:
        assert say(second) == b"hello"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.accept()
    with connect(proxy) as third:
        assert say(third) == b"hello"
    assert proxy.accepted == 3
    wait_until(lambda: proxy.open == 0, "closed with its client")


def test_it_holds_bytes_back(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert say(client) == b"hello"
        proxy.stall("down")
        client.sendall(b"later")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(4096)
        proxy.flow()
        client.settimeout(PATIENCE_S)
        assert client.recv(4096) == b"later"


@pytest.mark.parametrize("pass_on", [False, True])
def test_it_cuts_at_a_moment(proxy: Proxy, pass_on: bool) -> None:
    seen: list[tuple[str, bytes]] = []

    def moment(way: str, data: bytes) -> bool:
        seen.append((way, data))
        return way == "down" and b"now" in data

    happened = proxy.cut_when(moment, pass_on=pass_on)
    with connect(proxy) as client:
        assert say(client) == b"hello"
        assert not happened.is_set()
        client.sendall(b"now")
        assert happened.wait(PATIENCE_S)
    assert seen[-2:] == [("up", b"now"), ("down", b"now")]
    with connect(proxy) as client:
        assert say(client, b"now") == b"now"


def test_the_address_in_a_url(proxy: Proxy) -> None:
    there = f"127.0.0.1:{proxy.port}"
    assert proxy.through("redis://u:p@host:1/2?x=y") == f"redis://u:p@{there}/2?x=y"
    assert proxy.through("amqp://host//") == f"amqp://{there}//"


def test_a_missing_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerMissing, match="apt-get install no-such-server") as raised:
        find_program("no-such-server")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="make servers"):
        report_missing(raised.value)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make servers"):
        report_missing(raised.value)
