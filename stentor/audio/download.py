"""Knows how to download a file from the public internet and from nowhere else.

What a name resolves to is checked, and then connected to as checked, at every redirect; size, time and media
type have limits.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from stentor.errors import ForbiddenError, RequestError, TooLargeError

if TYPE_CHECKING:
    import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_REDIRECTS = 5
_MEDIA_TYPES = ("application/octet-stream", "binary/octet-stream", "application/ogg")

# IPv6 addresses that a translator turns into IPv4 ones (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# All that has been given out of IPv6 for the internet (RFC 4291).
_UNICAST = ipaddress.IPv6Network("2000::/3")


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host, best first; takes as long as the system's resolver. Raises OSError if none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether the address is in the public internet, also in its IPv4 meaning if it has one."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
        return address in _UNICAST and address.is_global
    return address.is_global and not (address.is_multicast or address.is_reserved)


class Downloader:
    """Downloads audio files of at most `max_bytes` within `timeout_s`; safe to use from several threads.

    `resolve` and `may_connect` stand for the name service and for the rule about addresses.
    """

    def __init__(
        self,
        max_bytes: int,
        timeout_s: float,
        *,
        resolve: Callable[[str, int], list[Address]] = resolve,
        may_connect: Callable[[Address], bool] = is_public,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._may_connect = may_connect

    def get(self, url: str) -> bytes:
        """The body behind an http(s) URL. Blocks for at most `timeout_s` and one second.

        Raises:
            RequestError: it cannot be fetched, or is not of an audio type.
            ForbiddenError: it is not at a public address.
            TooLargeError: it has more than `max_bytes`.
        """
        import httpx2

        try:
            return _run(self._follow(url), self._timeout_s)
        except TimeoutError:
            raise RequestError(
                f"the reference did not arrive within {self._timeout_s:g} seconds: send it as base64"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            detail = str(error) or type(error).__name__
            raise RequestError(f"the reference cannot be fetched: {detail}") from None

    async def _follow(self, text: str) -> bytes:
        import httpx2

        url = httpx2.URL(text)
        # One request per connection: a kept one belongs to an address, but was opened for another name.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(timeout=self._timeout_s, limits=limits, trust_env=False) as client:
            for _ in range(_MAX_REDIRECTS + 1):
                response = await self._get(client, url)
                try:
                    if not response.has_redirect_location:
                        return await self._body(response)
                    url = url.join(response.headers["location"])
                finally:
                    await response.aclose()
        raise RequestError(f"the reference redirects more than {_MAX_REDIRECTS} times")

    async def _get(self, client: "httpx2.AsyncClient", url: "httpx2.URL") -> "httpx2.Response":
        """Ask the first address that answers, all of them checked: the name is not resolved a second time."""
        import httpx2

        if url.scheme not in ("http", "https") or not url.host:
            raise RequestError(f"the reference's address {str(url)[:200]!r} is no http(s) URL")
        host = url.raw_host.decode("ascii")
        failure: Exception = OSError(f"{host!r} has no address")
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await asyncio.to_thread(self._resolve, host, port)
        if not all(self._may_connect(address) for address in addresses):
            raise ForbiddenError(
                f"{host!r} is no public address, and this server fetches from no other: send base64"
            )
        for address in addresses:
            request = client.build_request(
                "GET",
                url.copy_with(host=str(address)),
                headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},
            )
            try:
                return await client.send(request, stream=True)
            except httpx2.ConnectError as error:
                failure = error
        raise failure

    async def _body(self, response: "httpx2.Response") -> bytes:
        if response.status_code != 200:
            raise RequestError(f"the reference's address answers with status {response.status_code}")
        check_media_type(response.headers.get("content-type", ""))
        check_size(int(response.headers.get("content-length", 0)), self._max_bytes)
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            check_size(len(body), self._max_bytes)
        return bytes(body)


def check_media_type(stated: str) -> None:
    """Raise RequestError unless the content type is one that audio files come with."""
    media_type = stated.partition(";")[0].strip().lower()
    if not media_type.startswith("audio/") and media_type not in _MEDIA_TYPES:
        raise RequestError(
            f"the reference is of type {media_type or 'unknown'!r}, but must be audio/* or "
            "application/octet-stream: send the address of an audio file itself"
        )


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Raise TooLargeError if a reference is over the limit."""
    if size_bytes > max_bytes:
        raise TooLargeError(
            f"the reference has more than {max_bytes} bytes: send a shorter one, or raise --max-bytes"
        )


def _run(coroutine: Coroutine[Any, Any, bytes], timeout_s: float) -> bytes:
    """Run to the end in a thread of its own (the caller's may have a loop already), or raise TimeoutError.

    The inner timeout closes the connection; the outer one is for a name service that does not answer.
    """
    outcome: Future[bytes] = Future()

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(asyncio.wait_for(coroutine, timeout_s)))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="fetch-reference", daemon=True).start()
    return outcome.result(timeout_s + 1.0)
