"""Fetch a file over https: bounded in time and memory, whole or not at all."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable

WAIT_SECONDS = 30.0
"""Longest wait for a connection, and then for each packet."""
TOTAL_SECONDS = 900.0
"""Longest wait for a whole file: a server that trickles never exceeds the other limit."""


def fetch(
    url: str, limit: int, open_url: Callable[..., http.client.HTTPResponse] | None = None
) -> bytes:
    """Return what an address serves, whole, held in memory: nothing broken comes to the disk.

    Args:
        url: the address.
        limit: the most bytes to accept.
        open_url: opens an address given `timeout=` seconds. By default over https alone,
            redirections included.

    Raises:
        OSError: no connection, a server's error, more bytes than `limit`, fewer than announced, or
            too slow.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    data = bytearray()
    try:
        with (open_url or _https_only().open)(url, timeout=WAIT_SECONDS) as response:
            announced = response.length
            # read1 returns after one packet, so that the deadline is looked at; read would wait for
            # all.
            while chunk := response.read1(65_536):
                data += chunk
                if len(data) > limit:
                    raise OSError(f"more than the {limit} bytes that it may have")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not finished after {TOTAL_SECONDS:.0f} seconds")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise OSError(f"cannot download {url}: {error}") from error
    if announced is not None and len(data) != announced:
        raise OSError(f"cannot download {url}: it ended after {len(data)} of {announced} bytes")
    return bytes(data)


def _https_only() -> urllib.request.OpenerDirector:
    """Return an opener without a handler for plain http: a redirection to it is an error."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
