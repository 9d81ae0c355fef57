"""A download is whole and in time, or an OSError that names the address."""

import contextlib
import http.client
import http.server
import threading
import urllib.request

import pytest

from experiments import download


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves 1,000 bytes in the manner that the path names."""

    def do_GET(self):
        answer = getattr(self, self.path.strip("/"), None)
        if answer is None:
            self.send_error(404)
        else:
            # A client that has seen enough hangs up in the middle.
            with contextlib.suppress(ConnectionError):
                answer()

    def _start(self, **headers):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def good(self):
        self._start(Content_Length="1000")
        self.wfile.write(bytes(1000))

    def unannounced(self):
        self._start()
        self.wfile.write(bytes(1000))

    def cut_off(self):
        self._start(Content_Length="1000")
        self.wfile.write(bytes(999))

    def endless(self):
        self._start()
        while True:
            self.wfile.write(bytes(1000))

    def silent(self):
        self._start(Content_Length="1000")
        self.wfile.write(bytes(10))
        self.server.released.wait()  # pyright: ignore[reportAttributeAccessIssue]

    def moved_to_https(self):
        self._move("https")

    def moved_to_http(self):
        self._move("http")

    def _move(self, scheme):
        self.send_response(302)
        self.send_header("Location", f"{scheme}://{self.headers['Host']}/good")
        self.end_headers()

    def no_http(self):
        self.wfile.write(b"\x00" * 100)

    def log_message(self, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.released = threading.Event()  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()  # pyright: ignore[reportAttributeAccessIssue]
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(url):
    """Fetch over plain http, past a proxy that the environment may name."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return download.fetch(url, limit=1000, open_url=opener.open)


@pytest.mark.parametrize("path", ["good", "unannounced"])
def test_a_file(address, path):
    assert fetch(f"{address}/{path}") == bytes(1000)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "HTTP Error 404"),
        ("cut_off", "it ended after 999 of 1000 bytes"),
        ("endless", "more than the 1000 bytes"),
        ("no_http", "cannot download"),
    ],
)
def test_a_bad_transfer_names_the_address_and_the_cause(address, path, message):
    with pytest.raises(OSError, match=message) as caught:
        fetch(f"{address}/{path}")
    assert f"cannot download {address}/{path}" in str(caught.value)


def test_a_silent_server_times_out(address, monkeypatch):
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.05)
    with pytest.raises(OSError, match="timed out"):
        fetch(f"{address}/silent")


def test_a_slow_server_times_out(address, monkeypatch):
    monkeypatch.setattr(download, "TOTAL_SECONDS", -1.0)
    with pytest.raises(OSError, match="not finished after"):
        fetch(f"{address}/good")


def test_nobody_there():
    with pytest.raises(OSError, match=r"cannot download http://127\.0\.0\.1:1/"):
        fetch("http://127.0.0.1:1/")


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_only_https_by_default(scheme):
    with pytest.raises(OSError, match=f"unknown url type: {scheme}"):
        download.fetch(f"{scheme}://127.0.0.1:1/", limit=1000)


@pytest.fixture
def https_address(address, monkeypatch):
    """The same server behind https addresses, without the encryption."""

    def open_plainly(self, request):
        return self.do_open(http.client.HTTPConnection, request)

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", open_plainly)
    monkeypatch.setenv("no_proxy", "*")
    return address.replace("http:", "https:")


def test_a_redirection_is_followed_over_https_alone(https_address):
    assert download.fetch(f"{https_address}/moved_to_https", limit=1000) == bytes(1000)
    with pytest.raises(OSError, match="unknown url type: http"):
        download.fetch(f"{https_address}/moved_to_http", limit=1000)
