"""A page and a JSON endpoint for a Predictor, on the standard library's http.server.

One request per connection, each with a deadline. Whoever reaches the port may ask; there is no password, no TLS and no
state. What other web sites could do from a visitor's browser is refused: a Host that is a foreign name (DNS rebinding),
an Origin that is another site (cross-site requests).
"""
from __future__ import annotations

import base64
import ipaddress
import json
import math
import re
import socket
import socketserver
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cnn import shapes, streams
from cnn.data import DataFileError
from cnn.prediction.files import classes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

    from cnn.prediction.predictor import Predictor

MAX_MEGABYTES = 16      # of an upload
SECONDS = 10.0          # from accepting a connection to having read its request
CONNECTIONS = 64        # at the same time; one more is told to come back
AT_ONCE = 2             # pictures decoded at the same time: each may take hundreds of MB
_GRACE = 5.0            # seconds after the deadline to compute and to send the answer
_PARTS = 20             # of a form that are looked at
_TOP = 5                # classes in an answer
_ROUTES = {"/": ("GET", "HEAD"), "/health": ("GET", "HEAD"), "/predict": ("POST",)}
_DOT = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"     # a picture of one pixel
_PAGE = Path(__file__).with_name("page.html")


class _Refused(Exception):
    """A request that is answered by an error. status: 4xx or 503. headers: more of the answer's."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(words)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class Server(ThreadingHTTPServer):
    """Answers GET / (a page), GET /health and POST /predict.

    predictor: a Predictor. host: address or name to listen at. port: 0 takes a free one. max_bytes: of an upload.
    seconds: how long a client may take to send its request. names: under which clients may reach the server, besides
    localhost, addresses and `host`. say: gets a line for each request.

    `url` is where it listens. `serve_forever()` serves until `shutdown()`; `close()` lets answers that are under way
    be finished. Raises TypeError or ValueError for wrong numbers and for a model that takes no pictures or has no
    classes, ModuleNotFoundError where Pillow is missing, OSError naming the address where it can't listen.
    """

    request_queue_size, allow_reuse_port = CONNECTIONS, False

    def __init__(self, predictor: Predictor, host: str = "127.0.0.1", port: int = 8000, *,
                 max_bytes: int = MAX_MEGABYTES * 2**20, seconds: float = SECONDS, names: Iterable[str] = (),
                 say: Callable[[str], object] = streams.say) -> None:
        port = shapes.integer("Server", "port", port, 0, 65535)
        self.max_bytes = shapes.integer("Server", "max_bytes", max_bytes, 1)
        self.seconds = shapes.number("Server", "seconds", seconds, above=0, maximum=3600)
        self.own_names = {name.lower() for name in names}
        self.names = {"localhost", host.lower(), *self.own_names}
        self.predictor, self.say = predictor, say
        self.at_once = threading.BoundedSemaphore(AT_ONCE)
        self.page = _PAGE.read_bytes()
        self.policy = _policy(self.page.decode())
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}     # when each connection is cut off
        self._asked: set[socket.socket] = set()         # those whose request has begun to be answered
        predictor.predict_proba(_DOT)       # what could not be answered is refused now, and the model is compiled
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__(address[:2], _Handler)    # type: ignore[arg-type]
        except OSError as error:
            raise OSError(f"{host}, port {port}: {error.strerror or error}") from None

    @property
    def url(self) -> str:
        """Where it listens, such as "http://127.0.0.1:8000/"."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}/"

    def server_bind(self) -> None:
        """Listen, without asking a name server what this machine is called, as HTTPServer would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def close(self, seconds: float = _GRACE) -> None:
        """Stop listening, wait up to so many seconds for answers that are under way, and cut off all else."""
        self.server_close()
        end = time.monotonic() + seconds
        self._cut_off(math.inf, self._asked)
        for _ in range(CONNECTIONS):
            self._free.acquire(timeout=max(0.0, end - time.monotonic()))
        self._cut_off(math.inf)

    def service_actions(self) -> None:
        """Cut off connections that are past their end; `serve_forever` calls it every half second."""
        self._cut_off(time.monotonic())

    def _cut_off(self, now: float, spared: Collection[socket.socket] = ()) -> None:
        with self._lock:
            for connection, end in self._ends.items():
                if end < now and connection not in spared:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)   # its thread's next read or write fails

    # ---------------------------------------------------------------- one thread for each connection

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or refuse it where there are too many."""
        if not self._free.acquire(blocking=False):
            body = _json({"error": "too many requests at the same time; try again"})
            with suppress(OSError):
                request.settimeout(0.1)
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1"
                                b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            self.shutdown_request(request)
            return
        with self._lock:
            self._ends[request] = time.monotonic() + self.seconds + _GRACE
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What the thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def asked(self, request: Any) -> None:
        """A connection's request has come."""
        with self._lock:
            self._asked.add(request)

    def _forget(self, request: Any) -> None:
        with self._lock:
            self._asked.discard(request)
            if self._ends.pop(request, None) is None:   # Ctrl-C while its thread was started: both came here
                return
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error, and others are answered and told by the handler."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version, server_version, sys_version = "HTTP/1.1", "cnn", ""
    server: Server

    def setup(self) -> None:
        """Called first: the clock starts."""
        self.began = time.monotonic()
        self.deadline = self.began + self.server.seconds
        self.unread = True      # whether a body may be on its way
        super().setup()
        self.connection.settimeout(self.server.seconds)

    def handle(self) -> None:
        """One request only, so that each connection has one deadline."""
        self.handle_one_request()
        if self.unread:
            self._drain()

    def _respond(self) -> None:
        headers: dict[str, str] = {}
        self.server.asked(self.connection)
        self.unread = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        try:
            status, kind, body, headers = self._answer()
        except _Refused as error:
            status, kind, body, headers = error.status, "application/json", _json({"error": str(error)}), error.headers
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:     # a mistake of ours or of the model; the client learns no more than that
            streams.complain(f"{self.command} {self.path[:200]}: {type(error).__name__}: {error}")
            status, kind, body = 500, "application/json", _json({"error": "the server failed to answer"})
        self._send(status, kind, body, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _respond

    def _answer(self) -> tuple[int, str, bytes, dict[str, str]]:
        """Status, type, body and more headers."""
        self._check_host()
        try:
            parts = urlsplit(self.path)
        except ValueError:
            raise _Refused(400, "the path cannot be read") from None
        methods = _ROUTES.get(parts.path)
        if methods is None:
            raise _Refused(404, f"no such page; the pages are {', '.join(_ROUTES)}")
        if self.command not in methods:
            raise _Refused(405, f"{parts.path} takes {' or '.join(methods)}", Allow=", ".join(methods))
        if parts.path == "/predict":
            return 200, "application/json", _json(self._predict(parts.query)), {}
        if parts.path == "/":
            return 200, "text/html; charset=utf-8", self.server.page, {"Content-Security-Policy": self.server.policy}
        predictor = self.server.predictor
        dataset = Path(predictor.description.get("dataset") or "").name      # where it lies is nobody's business
        return 200, "application/json", _json({
            "status": "ok", "model": predictor.description.get("model"), "dataset": dataset,
            "image": list(predictor.shape), "classes": list(predictor.classes)}), {}

    def _predict(self, query: str) -> dict[str, Any]:
        origin = self.headers.get("Origin")
        if origin is not None and not self._own(origin):
            raise _Refused(403, f"requests of other sites ({origin[:200]}) are not answered")
        top = parse_qs(query).get("top", [str(_TOP)])[-1]
        if not re.fullmatch(r"[0-9]{1,6}", top) or int(top) < 1:
            raise _Refused(400, f"top must be an integer of at least 1, got {top[:50]!r}")
        picture = self._picture(self._body())
        if not self.server.at_once.acquire(timeout=max(0.0, self.deadline - time.monotonic())):
            raise _Refused(503, "too many requests at the same time; try again", Retry_After="1")
        try:
            found = self.server.predictor.predict(picture, int(top))
        except DataFileError as error:
            raise _Refused(415, str(error).removeprefix("x: ")) from None
        finally:
            self.server.at_once.release()
        return {"label": found.label, "probability": found.probability, "top": classes_of(found)}

    # ---------------------------------------------------------------- reading

    def _check_host(self) -> None:
        """Refuse a Host that is the name of another site: it may lead here, to read what only we should."""
        hosts = self.headers.get_all("Host", [])
        try:
            name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
        except ValueError:
            name = None
        if not name:
            raise _Refused(400, "the header Host is missing or cannot be read")
        if name not in self.server.names:
            try:
                ipaddress.ip_address(name)
            except ValueError:
                raise _Refused(421, f"this server does not answer for {name[:200]} (cnn serve --name)") from None

    def _own(self, origin: str) -> bool:
        """Whether the page that asks came from here, by the name that its browser knows."""
        try:
            place = urlsplit(origin)
        except ValueError:
            return False
        return place.netloc.lower() == self.headers["Host"].lower() or place.hostname in self.server.own_names

    def _length(self) -> int:
        """Bytes of the body, by its header."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not lengths:
            raise _Refused(411, "the header Content-Length is missing: send the whole picture at once")
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,18}", lengths[0]):
            raise _Refused(400, "the header Content-Length must be one number")
        if int(lengths[0]) > self.server.max_bytes:
            raise _Refused(413, f"the upload must be at most {self.server.max_bytes:,} bytes, got {int(lengths[0]):,}")
        return int(lengths[0])

    def handle_expect_100(self) -> bool:
        """Invite the body, or refuse it before it is sent."""
        try:
            self._length()
        except _Refused as error:
            self._send(error.status, "application/json", _json({"error": str(error)}), error.headers)
            return False
        return super().handle_expect_100()

    def _body(self) -> bytes:
        """The whole body; memory is taken as it comes in, not as it is announced."""
        length, body = self._length(), bytearray()
        while len(body) < length:
            left = self.deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self.connection.settimeout(left)
                chunk = self.rfile.read1(min(length - len(body), 2**16))
            except TimeoutError:
                raise _Refused(408, f"the upload took more than {self.server.seconds:g} seconds") from None
            if not chunk:
                raise _Refused(400, f"the upload ended after {len(body):,} of {length:,} bytes")
            body += chunk
        self.unread = False
        return bytes(body)

    def _picture(self, body: bytes) -> bytes:
        """The picture in a body: the first file of a form, or all of it."""
        if self.headers.get_content_type() == "multipart/form-data":
            found = re.search(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', self.headers["Content-Type"])
            if found is None:
                raise _Refused(400, "the form's Content-Type must name its boundary")
            body = _first_file(body, (found[1] or found[2]).encode("latin-1", "replace"))
        if not body:
            raise _Refused(400, "the upload is empty: send a picture as the body or as the file of a form")
        return body

    def _drain(self) -> None:
        """Read on for a moment after an answer: a connection closed on unread bytes is reset, and the answer lost."""
        end = time.monotonic() + 1
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(2**16):
                    break

    # ---------------------------------------------------------------- writing

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.connection.settimeout(_GRACE)
        self.request_version = self.protocol_version    # to what is no HTTP, too
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close",
                            "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
                            "Referrer-Policy": "no-referrer", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """How http.server refuses what is no HTTP, or a method it does not know."""
        self.command = self.command or ""
        words = message or self.responses.get(code, ("error",))[0]
        self._send(405 if code == 501 else code, "application/json", _json({"error": words}), {})

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """A line for each answer: client, request, status, milliseconds."""
        request = getattr(self, "requestline", "")[:200]
        took = 1000 * (time.monotonic() - self.began)
        self.server.say(f"{self.client_address[0]} {request!r} {int(code)} {took:.0f} ms")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing else is logged."""


def _first_file(body: bytes, boundary: bytes) -> bytes:
    """The content of the first part of a form that is a file; b"" where there is none (RFC 7578)."""
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary, _PARTS)[1:]:
        head, gap, content = part.partition(b"\r\n\r\n")
        if gap and re.search(rb"\r\ncontent-disposition:[^\r\n]*;\s*filename\*?=", head[:4096], re.IGNORECASE):
            return content
    return b""


def _policy(page: str) -> str:
    """The page may run its own script, style itself, show the picture chosen and ask this server; nothing else."""
    import hashlib

    def allowed(tag: str) -> str:
        text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]   # type: ignore[index]
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; img-src blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
