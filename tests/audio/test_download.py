import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stentor.audio.download import Address, Downloader, is_public
from stentor.errors import ForbiddenError, RequestError, TooLargeError

SOUND = b"RIFF" + bytes(range(256)) * 4


class Site:
    """A web server on 127.0.0.1 whose pages are functions; `requests` are (path, Host) as they came."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests.append((self.path, self.headers["Host"]))
                site.pages[self.path](self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def answer(
    body: bytes = SOUND, content_type: str = "audio/wav", status: int = 200, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if content_type:
            handler.send_header("Content-Type", content_type)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return page


def loader(
    *,
    names: dict[str, list[str]] | None = None,
    allowed: tuple[str, ...] = ("127.0.0.1",),
    max_bytes: int = 10_000,
    timeout_s: float = 5.0,
) -> Downloader:
    """A loader for which `names` is the name service, and the `allowed` loopback addresses are public."""

    def resolve(host: str, _port: int) -> list[Address]:
        if names and host in names:
            return [ipaddress.ip_address(text) for text in names[host]]
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            raise socket.gaierror(-2, "Name or service not known") from None

    def may_connect(address: Address) -> bool:
        return str(address) in allowed or is_public(address)

    return Downloader(max_bytes, timeout_s, resolve=resolve, may_connect=may_connect)


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255
    224.0.0.1 239.1.1.1 240.0.0.1 192.0.2.1 198.18.0.1 ::1 :: fe80::1 fe80::1%1 fc00::1 fd12:3456::1 ff02::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 2002:7f00:1:: 2002:a00:1:: 64:ff9b::7f00:1
    64:ff9b::a9fe:a9fe 2001:db8::1 ::127.0.0.1 fec0::1""".split(),
)
def test_private_and_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    "127.0.0.1 localhost 127.1 2130706433 0x7f000001 017700000001 0.0.0.0 [::1] [::ffff:7f00:1] [::]".split(),
)
def test_no_spelling_of_this_machine_is_fetched(site: Site, host: str) -> None:
    site.pages["/a.wav"] = answer()
    with pytest.raises((ForbiddenError, RequestError)) as caught:
        Downloader(10_000, 5).get(f"http://{host}:{site.port}/a.wav")
    assert site.requests == []
    if host in ("127.0.0.1", "localhost", "[::1]"):
        assert isinstance(caught.value, ForbiddenError)
        assert "no public address" in caught.value.message


def test_a_name_with_one_private_address_among_public_ones_is_forbidden(site: Site) -> None:
    names = {"mixed.example": ["127.0.0.1", "192.168.0.1"]}
    with pytest.raises(ForbiddenError):
        loader(names=names).get(f"http://mixed.example:{site.port}/a.wav")
    assert site.requests == []


def test_a_url_is_fetched_from_the_address_that_was_checked(site: Site) -> None:
    site.pages["/a.wav?x=1"] = answer()
    names = {"voices.example": ["127.0.0.1"]}
    assert loader(names=names).get(f"HTTP://voices.example:{site.port}/a.wav?x=1") == SOUND
    assert site.requests == [("/a.wav?x=1", f"voices.example:{site.port}")]


def test_a_name_is_resolved_once_per_request_so_that_it_cannot_change_its_mind(site: Site) -> None:
    site.pages["/a.wav"] = answer()
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    def resolve(_host: str, _port: int) -> list[Address]:
        return [ipaddress.ip_address(text) for text in answers.pop(0)]

    rebinding = Downloader(10_000, 5, resolve=resolve, may_connect=lambda a: str(a) == "127.0.0.1")
    assert rebinding.get(f"http://rebinding.example:{site.port}/a.wav") == SOUND
    assert answers == [["10.0.0.1"]]


def test_the_next_address_is_tried_where_one_refuses(site: Site) -> None:
    site.pages["/a.wav"] = answer()
    names = {"two.example": ["127.0.0.2", "127.0.0.1"]}
    two = loader(names=names, allowed=("127.0.0.1", "127.0.0.2"))
    assert two.get(f"http://two.example:{site.port}/a.wav") == SOUND


@pytest.mark.parametrize(
    "content_type", ["audio/mpeg", "audio/x-wav; charset=x", "application/octet-stream", "application/ogg"]
)
def test_audio_types_are_taken(site: Site, content_type: str) -> None:
    site.pages["/a"] = answer(content_type=content_type)
    assert loader().get(f"http://127.0.0.1:{site.port}/a") == SOUND


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "video/mp4", ""])
def test_other_types_are_refused(site: Site, content_type: str) -> None:
    site.pages["/a"] = answer(content_type=content_type)
    with pytest.raises(RequestError, match="must be audio"):
        loader().get(f"http://127.0.0.1:{site.port}/a")


def test_redirects_are_followed_and_each_target_is_checked(site: Site) -> None:
    names = {"a.example": ["127.0.0.1"], "b.example": ["127.0.0.1"], "evil.example": ["127.0.0.2"]}
    site.pages["/good"] = answer(b"", status=302, Location=f"http://b.example:{site.port}/a.wav")
    site.pages["/relative"] = answer(b"", status=307, Location="/a.wav")
    site.pages["/bad"] = answer(b"", status=301, Location=f"http://evil.example:{site.port}/a.wav")
    site.pages["/metadata"] = answer(b"", status=301, Location="http://169.254.169.254/latest/meta-data")
    site.pages["/file"] = answer(b"", status=301, Location="file:///etc/passwd")
    site.pages["/loop"] = answer(b"", status=302, Location="/loop")
    site.pages["/a.wav"] = answer()
    fetcher = loader(names=names)
    start = f"http://a.example:{site.port}"
    assert fetcher.get(f"{start}/good") == fetcher.get(f"{start}/relative") == SOUND
    assert ("/a.wav", f"b.example:{site.port}") in site.requests
    before = len(site.requests)
    for path in ("/bad", "/metadata"):
        with pytest.raises(ForbiddenError):
            fetcher.get(f"{start}{path}")
    assert len(site.requests) == before + 2
    with pytest.raises(RequestError, match="no http"):
        fetcher.get(f"{start}/file")
    with pytest.raises(RequestError, match="more than 5 times"):
        fetcher.get(f"{start}/loop")


def test_a_body_over_the_limit_is_refused_whether_it_is_announced_or_not(site: Site) -> None:
    site.pages["/announced"] = answer(Content_Length=str(10**9))
    site.pages["/silent"] = answer(body=bytes(5_000))
    for path in ("/announced", "/silent"):
        with pytest.raises(TooLargeError):
            loader(max_bytes=2_000).get(f"http://127.0.0.1:{site.port}{path}")


def test_a_compressed_body_is_not_unpacked(site: Site) -> None:
    site.pages["/a"] = answer(body=b"not gzip", Content_Encoding="gzip")
    assert loader().get(f"http://127.0.0.1:{site.port}/a") == b"not gzip"


def drip_body(handler: BaseHTTPRequestHandler) -> None:
    answer(body=b"")(handler)
    drip(handler)


def drip(handler: BaseHTTPRequestHandler) -> None:
    try:
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize("page", [drip_body, drip])
def test_a_server_that_drips_is_given_up_in_time(
    site: Site, page: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    site.pages["/a"] = page
    started_s = time.perf_counter()
    with pytest.raises(RequestError, match=r"within 0\.5 seconds"):
        loader(timeout_s=0.5).get(f"http://127.0.0.1:{site.port}/a")
    assert time.perf_counter() - started_s < 3


def test_a_name_service_that_does_not_answer_is_given_up_in_time() -> None:
    release = threading.Event()

    def resolve(_host: str, _port: int) -> list[Address]:
        release.wait(20)
        return []

    started_s = time.perf_counter()
    with pytest.raises(RequestError, match=r"within 0\.2 seconds"):
        Downloader(10_000, 0.2, resolve=resolve).get("http://slow.example/a")
    assert time.perf_counter() - started_s < 5
    release.set()


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.wav", "http://none.example/a.wav", "http://a\x00b/", "http://127.0.0.1:1/"]
)
def test_what_cannot_be_fetched_is_a_clear_refusal(url: str) -> None:
    with pytest.raises(RequestError, match=r"cannot be fetched|no http"):
        loader().get(url)


def test_a_bad_status_is_a_refusal(site: Site) -> None:
    site.pages["/gone"] = answer(b"", status=404)
    with pytest.raises(RequestError, match="status 404"):
        loader().get(f"http://127.0.0.1:{site.port}/gone")


def test_tls_asks_for_the_name_and_not_for_the_address() -> None:
    greetings = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                greetings.append(connection.recv(4_096))

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(RequestError, match="cannot be fetched"):
            loader(names={"voices.example": ["127.0.0.1"]}).get(
                f"https://voices.example:{server.getsockname()[1]}/a.wav"
            )
    assert b"voices.example" in greetings[0]
