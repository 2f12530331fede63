"""A client that sends any bytes it is told to, and reads answers strictly."""

from typing import NamedTuple

import trio


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Closed(Exception):
    """The server closed where an answer was expected."""


class RawClient:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        self._buffer += data
        return bool(data)

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            if not await self._more():
                raise Closed(self._buffer)
        found, _, self._buffer = self._buffer.partition(end)
        return found

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not await self._more():
                raise Closed(self._buffer)
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    async def reply(self, method: str = "GET") -> Reply:
        """The next answer, to its end."""
        head = (await self._until(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.split("\r\n")
        version, code, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        status = int(code)
        body = await self._body(method, status, headers)
        return Reply(status, headers, body)

    async def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status in (100, 204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._until(b"\r\n"), 16):
                body += await self._exactly(size)
                assert await self._exactly(2) == b"\r\n"
            assert await self._exactly(2) == b"\r\n"
            return body
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        while await self._more():
            pass
        body, self._buffer = self._buffer, b""
        return body

    async def is_closed(self) -> bool:
        """Wait for the end; False when bytes come instead."""
        return not self._buffer and not await self._more()

    async def end(self) -> bytes:
        """Everything up to the end of the connection."""
        while await self._more():
            pass
        return self._buffer
