"""Fetches pages of the public web for a model that may be under an attacker's orders (server-side request forgery).

A name is resolved once, every address that it has must be public, and the connection goes to an address that was
checked, so that a name that answers differently the second time gains nothing. Each redirect is a new fetch. No
cookies, no proxy or .netrc of the environment, nothing of an earlier fetch: one connection per hop.
"""

import codecs
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import SOCK_STREAM, gaierror

import anyio
import anyio.to_thread
import httpx2

from runtime.errors import ToolError
from runtime.services.readable import readable

MOST_REDIRECTS = 5
LONGEST_URL = 2048
CONNECT_S = 5.0
USER_AGENT = "agency-fetch/1 (reads one page on behalf of a person)"

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host; the port is a hint. Raises OSError when there is no such host."""

_NOT_PUBLIC_V4 = tuple(
    ip_network(text)
    for text in (
        # https://www.iana.org/assignments/iana-ipv4-special-registry/
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        # Public by number, but inside Azure it is the machine's own platform
        # (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
        "168.63.129.16/32",
    )
)

_GLOBAL_V6 = ip_network("2000::/3")
"""All that is assigned for use on the internet (RFC 4291, section 2.4). Outside it: loopback, private and link-local
addresses, multicast, IPv4 inside IPv6, NAT64 (64:ff9b::/96 and 64:ff9b:1::/48)."""

_NOT_PUBLIC_V6 = tuple(
    ip_network(text)
    for text in (
        # https://www.iana.org/assignments/iana-ipv6-special-registry/
        "2001::/23",  # protocol assignments, among them Teredo, benchmarking and ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address is inside
        "3fff::/20",
    )
)

_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""The interface identifiers that carry an IPv4 address (RFC 5214, section 6.1)."""

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*")
_ENDS_IN_A_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
"""What some resolvers take for an IPv4 address (https://url.spec.whatwg.org/#ends-in-a-number-checker)."""
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\]|[^\S ]")
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_READABLE = re.compile(r"text/[^;]+|application/(json|xhtml\+xml|[^;/]+\+json)")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.ASCII | re.IGNORECASE)
_TEXT_CODEC = re.compile(
    r"ascii|utf-(8|8-sig|16|16-le|16-be)|iso8859-\d+|cp\d+|koi8-[rtu]|shift_jis|euc_.*|gb.*|big5.*"
)
"""Names of Python codecs that are character sets; others are compressions, escapes, or take quadratic time."""


class PageError(ToolError):
    """The page was not fetched. The text says why, and what would be right."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot fetch {_shown(url)}: {reason}")
        self.url = url
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was found at an address, as text. All of it comes from outside."""

    url: str
    """Of the page itself, after redirects."""
    content_type: str
    title: str
    text: str
    truncated: bool
    """Whether the page has more than was read."""


def is_public(address: str | IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is that of a host on the internet, and of nothing nearer.

    `ipaddress.is_global` is no answer: in Python 3.11 it lets NAT64, 6to4, multicast and 192.0.0.0/24 through. An
    operator's own NAT64 prefix cannot be told from the internet by its number.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in network for network in _NOT_PUBLIC_V4)
    if found.scope_id is not None or found not in _GLOBAL_V6:
        return False
    has_ipv4_inside = (int(found) >> 32) & 0xFFFFFFFF in _ISATAP
    return not has_ipv4_inside and not any(found in network for network in _NOT_PUBLIC_V6)


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Return the addresses that this machine knows for a host."""
    found = await anyio.getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(entry[4][0] for entry in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFetcher:
    """Fetches pages under one set of rules; it keeps nothing between two fetches."""

    resolve: Resolver = system_resolver
    allowed_origins: frozenset[str] = frozenset()
    """Such as `http://127.0.0.1:8080`: where the rules about scheme, port and address do not hold."""
    tls: ssl.SSLContext | None = None
    """Whom to trust; None: the certificate authorities of httpx2."""
    deadline_s: float = 20.0
    """For everything together, redirects included."""
    largest_bytes: int = 2 * 1024 * 1024

    async def fetch(self, url: str) -> Page:
        """Return the page at an https address.

        Raises:
            PageError: the address is not one of the public web, the page is none that can be read, or the server fails.
        """
        try:
            with anyio.fail_after(self.deadline_s):
                return await self._follow(url)
        except TimeoutError as error:
            raise PageError(url, f"it took longer than {self.deadline_s:g} s") from error
        except httpx2.TransportError as error:
            raise PageError(url, f"the connection failed ({type(error).__name__})") from error

    async def _follow(self, url: str) -> Page:
        target = self._checked(url)
        for _ in range(MOST_REDIRECTS + 1):
            async with self._open(target) as response:
                if not response.has_redirect_location:
                    return await self._read(target, response)
                target = self._checked(_next(target, response.headers["location"]))
        raise PageError(url, f"it redirects more than {MOST_REDIRECTS} times")

    def _checked(self, url: str) -> httpx2.URL:
        """Return a URL whose form is allowed; where its host is, is checked when it is opened."""
        if len(url) > LONGEST_URL:
            raise PageError(url, f"the address is longer than {LONGEST_URL:,} characters")
        if _NOT_IN_A_URL.search(url):
            raise PageError(url, "the address has a space, a backslash or a control character; percent-encode it")
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise PageError(url, "it is no valid address; give one such as https://example.com/page") from error
        self._check_origin(url, parsed)
        return parsed.copy_with(fragment=None)

    def _check_origin(self, url: str, parsed: httpx2.URL) -> None:
        if parsed.scheme not in {"https", "http"} or not parsed.host:
            raise PageError(url, "give an address such as https://example.com/page")
        if parsed.userinfo or "@" in url.split("//", 1)[1].split("/", 1)[0]:
            raise PageError(url, "it carries credentials; leave them out")
        _check_host(url, parsed)
        if self._is_allowed(parsed):
            return
        if parsed.scheme != "https":
            raise PageError(url, "only https is fetched; try https://")
        if parsed.port not in {None, 443}:
            raise PageError(url, f"port {parsed.port} is not one of the web; only 443 is fetched")

    def _is_allowed(self, url: httpx2.URL) -> bool:
        return _origin(url) in {_origin(httpx2.URL(allowed)) for allowed in self.allowed_origins}

    async def _addresses(self, url: httpx2.URL) -> Sequence[str]:
        """Return where to connect to; the host is looked up here and nowhere else."""
        host = _ascii_host(url)
        if _is_literal(host):
            found: Sequence[str] = [host]
        else:
            try:
                found = await self.resolve(host, url.port or 443)
            except (gaierror, OSError, UnicodeError) as error:
                raise PageError(str(url), f"there is no host {host!r}") from error
        if not found:
            raise PageError(str(url), f"there is no host {host!r}")
        if not self._is_allowed(url) and not all(is_public(address) for address in found):
            raise PageError(str(url), f"{host!r} is not on the public internet")
        return found

    @asynccontextmanager
    async def _open(self, url: httpx2.URL) -> AsyncGenerator[httpx2.Response]:
        addresses = await self._addresses(url)
        # A transport has no cookies, no credentials and follows nothing, unlike a client.
        async with httpx2.AsyncHTTPTransport(verify=self.tls or True, trust_env=False) as transport:
            response = await _send(transport, url, addresses)
            try:
                yield response
            finally:
                await response.aclose()

    async def _read(self, url: httpx2.URL, response: httpx2.Response) -> Page:
        if not response.is_success:
            raise PageError(str(url), f"the server answered with status {response.status_code}")
        header = response.headers.get("content-type", "")
        content_type = header.split(";")[0].strip().lower()
        if not _READABLE.fullmatch(content_type):
            raise PageError(str(url), f"it is {content_type[:80] or 'of no stated type'!r}, not text, HTML or JSON")
        # What is sent compressed in spite of our header may be a bomb.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise PageError(str(url), "the server insists on compression")
        body, truncated = await self._body(response)
        text = _decoded(body, header if "charset" in header.lower() else _declared(content_type, body))
        title = ""
        if content_type in _HTML:
            title, text = await anyio.to_thread.run_sync(readable, text, str(url))
        return Page(
            url=str(url), content_type=content_type, title=_clean(title), text=_clean(text), truncated=truncated
        )

    async def _body(self, response: httpx2.Response) -> tuple[bytes, bool]:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self.largest_bytes:
                return bytes(body[: self.largest_bytes]), True
        return bytes(body), False


async def _send(transport: httpx2.AsyncHTTPTransport, url: httpx2.URL, addresses: Sequence[str]) -> httpx2.Response:
    """Ask the first of the addresses that can be connected to."""
    *others, last = addresses
    for address in others:
        try:
            return await transport.handle_async_request(_request(url, address))
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            continue
    return await transport.handle_async_request(_request(url, last))


def _request(url: httpx2.URL, address: str) -> httpx2.Request:
    """Return a request to an address in the name of the host; its certificate must be that host's."""
    headers = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": USER_AGENT,
        "Accept": "text/html, application/xhtml+xml, application/json, text/*;q=0.9",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    timeout = httpx2.Timeout(None, connect=CONNECT_S).as_dict()
    extensions = {"sni_hostname": _ascii_host(url), "timeout": timeout}
    return httpx2.Request("GET", url.copy_with(host=address), headers=headers, extensions=extensions)


def _next(url: httpx2.URL, location: str) -> str:
    try:
        return str(url.join(location))
    except httpx2.InvalidURL as error:
        raise PageError(str(url), "it redirects to something that is no address") from error


def _check_host(url: str, parsed: httpx2.URL) -> None:
    host = _ascii_host(parsed)
    if _is_literal(host):
        return
    if not _HOST.fullmatch(host):
        raise PageError(url, f"{host[:80]!r} is no host name")
    if _ENDS_IN_A_NUMBER.fullmatch(host):
        raise PageError(url, f"{host[:80]!r} is an address in disguise; write it as four decimal numbers")


def _ascii_host(url: httpx2.URL) -> str:
    """Return the host as it is looked up: lower case, internationalised names encoded, IPv6 without brackets."""
    return url.raw_host.decode("ascii").strip("[]")


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, _ascii_host(url), url.port or {"https": 443, "http": 80}[url.scheme]


def _declared(content_type: str, body: bytes) -> str:
    """Return what an HTML page says about its own characters, where the server says nothing."""
    return body[:2048].decode("latin-1") if content_type in _HTML else ""


def _decoded(body: bytes, stated: str) -> str:
    """Return the text of a body; characters of no stated and known set are read as UTF-8."""
    found = _CHARSET.search(stated)
    try:
        codec = codecs.lookup(found[1]).name if found else "utf-8"
    except LookupError:
        codec = "utf-8"
    return body.decode(codec if _TEXT_CODEC.fullmatch(codec) else "utf-8", errors="replace")


def _clean(text: str) -> str:
    """Return the text without what Postgres cannot store."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def _shown(url: str) -> str:
    """Return an address for a message: no credentials, not too long."""
    return repr(re.sub(r"//[^/?#]*@", "//…@", url)[:200])
