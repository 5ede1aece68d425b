"""A real HTTP proxy in front of a real object store, which fails as the test wants it to."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 16 * 1024
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Fault:
    """What happens to requests instead of being answered as they should be.

    `status` answers them, half of them unread and half after the store has done as they said; None lets them through.
    `hole` never answers. `cut` breaks uploads off, those too that are under way. `bytes_per_s` is how fast what is sent
    gets through. `of` chooses the requests by method and path.
    """

    status: int | None = None
    share: float = 1.0
    latency_s: float = 0.0  # at most, evenly distributed
    hole: bool = False
    cut: bool = False
    bytes_per_s: float | None = None
    of: Callable[[str, str], bool] = lambda method, path: True
    ignores: str = ""  # a header that is taken off, as by a store that does not know it
    refuses: str = ""  # a header: requests that have it are answered with `status`


HEALTHY = Fault(share=0.0)
FLAKY = Fault(status=503, share=0.3, latency_s=2.0)
AWAY = Fault(status=503)
FORBIDDEN = Fault(status=403)
HOLE = Fault(hole=True)
CUT = Fault(cut=True)
UNCONDITIONAL = Fault(share=0.0, ignores="If-None-Match")
NOT_IMPLEMENTED = Fault(status=501, refuses="If-None-Match")


@dataclass
class Proxy:
    """The proxy as a test holds it: set `fault` at any time; `requests` counts them, `failed` those that met it."""

    endpoint: str = ""
    fault: Fault = HEALTHY
    requests: int = 0
    failed: int = 0
    uploading: list[str] = field(
        default_factory=list
    )  # paths of which a part has gone through, and the rest is to come
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def before(endpoint: str) -> Iterator[Proxy]:
    """A proxy before the server at `endpoint`, as long as it is needed."""
    proxy = Proxy()
    handler = type("Handler", (_Handler,), {"proxy": proxy, "store": endpoint.removeprefix("http://")})
    server = _Server(("127.0.0.1", 0), handler)
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 100


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    store: str

    def _handle(self) -> None:
        proxy, fault, luck = self.proxy, self.proxy.fault, random.random()
        proxy.requests += 1
        if not fault.of(self.command, self.path):
            fault = HEALTHY
        if fault.latency_s:
            proxy.over.wait(random.uniform(0.0, fault.latency_s))
        if fault.hole:
            proxy.failed += 1
            proxy.over.wait()
            self.close_connection = True
            return
        failing = (
            fault.status is not None and luck < fault.share and (not fault.refuses or fault.refuses in self.headers)
        )
        if failing:
            proxy.failed += 1
        if failing and (fault.share == 1.0 or luck < fault.share / 2):
            self._drain()
            self._answer(fault.status or 0, "", [], b"")
            return
        try:
            status, reason, headers, body = self._forward(fault.bytes_per_s)
        except OSError:  # one of the two has gone away
            self.close_connection = True
            return
        if failing:
            self._answer(fault.status or 0, "", [], b"")
        else:
            self._answer(status, reason, headers, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 # the names http.server looks for

    def _drain(self) -> None:
        for _ in self._body(None):
            pass

    def _body(self, bytes_per_s: float | None) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            chunk = self.rfile.read(min(CHUNK, left))
            if not chunk:
                raise ConnectionError("the client has gone")
            left -= len(chunk)
            yield chunk
            if bytes_per_s:
                self.proxy.over.wait(len(chunk) / bytes_per_s)
            if self.proxy.fault.cut:
                raise ConnectionError("cut off")

    def _forward(self, bytes_per_s: float | None) -> tuple[int, str, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.store, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {self.proxy.fault.ignores.lower()}:
                    connection.putheader(name, value)
            connection.endheaders()
            self.proxy.uploading.append(self.path)
            try:
                for chunk in self._body(bytes_per_s):
                    connection.send(chunk)
            finally:
                self.proxy.uploading.remove(self.path)
            answer = connection.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, reason: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status, reason or None)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(body)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """As always, but a client that goes away is nothing to shout about."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True
