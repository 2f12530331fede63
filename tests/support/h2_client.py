"""An HTTP/2 client over TLS that can also be told to do the wrong thing."""

import ssl
from collections import defaultdict
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import trio
import trustme

from api.front import tls_context


@dataclass
class H2Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: bool = False


class H2Client:
    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        # Tests send what a good client would not.
        self.connection.config.validate_outbound_headers = False
        self.replies: dict[int, H2Reply] = defaultdict(H2Reply)
        self.closed = False

    async def start(self) -> None:
        self.connection.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        if data := self.connection.data_to_send():
            await self.stream.send_all(data)

    async def request(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        end: bool = True,
    ) -> int:
        stream_id = self.connection.get_next_available_stream_id()
        pseudo = ((":method", method), (":scheme", "https"), (":authority", "a"), (":path", path))
        self.connection.send_headers(
            stream_id, [*pseudo, *headers], end_stream=body is None and end
        )
        if body is not None:
            for i in range(0, len(body), 16384):
                while self.connection.local_flow_control_window(stream_id) < 16384:
                    await self.flush()
                    await self.receive()
                    if self.replies[stream_id].ended or self.closed:
                        return stream_id
                self.connection.send_data(stream_id, body[i : i + 16384])
            if end:
                self.connection.end_stream(stream_id)
        await self.flush()
        return stream_id

    async def receive(self) -> bool:
        """Take what comes; False at the end of the connection."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.connection.receive_data(bytes(data)):
            self._on_event(event)
        await self.flush()
        return True

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                reply = self.replies[event.stream_id]
                reply.status = int(headers.pop(":status"))
                reply.headers = headers
            case h2.events.DataReceived():
                self.replies[event.stream_id].body += event.data
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            case h2.events.StreamEnded():
                self.replies[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.replies[event.stream_id].reset = True

    async def reply(self, stream_id: int) -> H2Reply:
        while not (self.replies[stream_id].ended or self.replies[stream_id].reset):
            if not await self.receive():
                raise EOFError(self.replies[stream_id])
        return self.replies[stream_id]

    async def get(self, path: str, **more: object) -> H2Reply:
        return await self.reply(await self.request(path, **more))  # type: ignore[arg-type]


class Certificates:
    """A server's certificate and a client that trusts it."""

    def __init__(self, directory: str) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.cert, self.key = f"{directory}/cert.pem", f"{directory}/key.pem"
        with open(self.cert, "wb") as file:
            for blob in issued.cert_chain_pems:
                file.write(blob.bytes())
        issued.private_key_pem.write_to_path(self.key)
        self._authority = authority

    def server(self) -> ssl.SSLContext:
        return tls_context(self.cert, self.key)

    def client(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


async def connect_tls(port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return stream
