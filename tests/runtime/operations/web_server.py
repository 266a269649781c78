"""A web server that says exactly what a test wants, over plain sockets or TLS, and notes what it was asked."""

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
from anyio import TypedAttributeProvider
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Script = Callable[[str], bytes]
"""Gets the path that is asked for, and returns the whole answer."""


class WebServer:
    """Where it listens, and the heads of the requests that it has had."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[str] = []

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [request.split(" ")[1] for request in self.requests]


def port_of(listener: TypedAttributeProvider) -> int:
    return listener.extra(SocketAttribute.local_port)  # noqa: S610 -- anyio's, not Django's


def answer(body: str | bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", more: str = "") -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{more}\r\n"
    return head.encode() + content


def redirect(location: str, status: str = "302 Found") -> bytes:
    return f"HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@asynccontextmanager
async def web_server(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[WebServer]:
    """Serve on loopback until the block ends."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = WebServer(port_of(listener))

    async def converse(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            server.requests.append(head.decode())
            try:
                await stream.send(script(server.paths[-1]))
            except (anyio.BrokenResourceError, ssl.SSLError):
                return  # the client has read enough

    async def quietly(stream: anyio.abc.ByteStream) -> None:
        try:
            await converse(stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
            return

    serving = TLSListener(listener, ssl_context=tls, standard_compatible=False) if tls else listener
    async with listener, anyio.create_task_group() as group:
        group.start_soon(serving.serve, quietly)
        yield server
        group.cancel_scope.cancel()


def certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server that may call itself `name` uses, and what a client uses that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)  # noqa: TID251 -- TLS compares it with the clock of this machine
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    bundle = folder / "server.pem"
    bundle.write_bytes(private + public)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(bundle)
    return server, ssl.create_default_context(cadata=public.decode())
