from __future__ import annotations

import re
import socket
import struct
import threading
import typing as t

import pytest
import websocket
from flask import abort
from flask import Blueprint
from flask import Flask
from flask import g
from flask import jsonify
from flask import make_response
from flask import redirect
from flask import Request
from flask import request
from flask import session
from flask_login import login_required
from flask_login import login_user
from flask_login import LoginManager
from flask_login import UserMixin
from support import Client
from support import Server
from support import wait_until
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder

from flask_websockets import HandshakeError
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.config import Config
from flask_websockets.exceptions import OriginNotAllowed
from flask_websockets.exceptions import Unavailable
from flask_websockets.handshake import check_origin
from flask_websockets.handshake import Places

Serve = t.Callable[[Flask], Server]
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def shake(
    server: Server,
    path: str = "/",
    method: str = "GET",
    protocol: str = "HTTP/1.1",
    **changes: str | None,
) -> tuple[int, str, str]:
    """Send a handshake with some fields changed or, with None, left out.

    Returns the status, the head and the body of the response.
    """
    fields = {
        "Host": f"127.0.0.1:{server.port}",
        **FIELDS,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = [f"{method} {path} {protocol}"]
    for name, value in fields.items():
        if value is not None:  # of a field that is repeated, each line has a value
            lines += [f"{name}: {line}" for line in value.split("\n")]
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            assert piece, data
            data += piece
            # Werkzeug's server says so to whoever expects it, twice.
            data = re.sub(rb"\A(?:HTTP/1.1 100 Continue\r\n\r\n)+", b"", data)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and method != "HEAD" and len(body) < int(length[1]):
            body += sock.recv(65536)
    return int(head.split()[1]), head.decode("latin-1"), body.decode("latin-1")


def field(head: str, name: str) -> list[str]:
    """The values of a field in a response's head."""
    lines = [line.partition(":") for line in head.split("\r\n")[1:]]
    return [value.strip() for key, _, value in lines if key.lower() == name.lower()]


def drain(client: Client) -> None:
    """Read to the Close frame."""
    while client.recv_data()[0] != websocket.ABNF.OPCODE_CLOSE:
        pass


def test_the_accept_key_answers_the_key(app: Flask, serve: Serve):
    WebSockets(app)
    status, head, _ = shake(serve(app))
    assert status == 101
    assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert field(head, "Sec-WebSocket-Accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
    assert field(head, "Upgrade") == ["websocket"]
    assert field(head, "Connection") == ["Upgrade"]


@pytest.mark.parametrize(
    "changes",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "UPGRADE"},
        {"Connection": "keep-alive\nUpgrade"},
        {"Upgrade": "h2c, websocket"},
        {"Upgrade": "websocket\nh2c", "Connection": "keep-alive, Upgrade"},
        {"Sec_WebSocket_Version": " 13 "},
        {"Content_Length": "0"},
        {"Upgrade": "WebSocket"},
        {"Sec_WebSocket_Key": f"  {KEY}  "},
        {"Sec_WebSocket_Extensions": "foo; bar=1, baz"},
        {"Sec_WebSocket_Protocol": "one, two"},
    ],
)
def test_what_the_rfc_allows_is_accepted(app: Flask, serve: Serve, changes: dict[str, str]):
    WebSockets(app)
    assert shake(serve(app), **changes)[0] == 101


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"method": "POST"}, 400, "A WebSocket handshake is a GET request, not POST."),
        ({"method": "HEAD"}, 400, None),
        ({"protocol": "HTTP/1.0"}, 400, "A WebSocket handshake needs HTTP/1.1, not HTTP/1.0."),
        (
            {"Connection": "close"}, 400,
            "The Connection field of a WebSocket handshake must contain the token Upgrade.",
        ),
        (
            {"Connection": "upgradexyz"}, 400,
            "The Connection field of a WebSocket handshake must contain the token Upgrade.",
        ),
        (
            {"Connection": None}, 400,
            "The Connection field of a WebSocket handshake must contain the token Upgrade.",
        ),
        (
            {"Upgrade": None}, 426,
            "This URL serves WebSockets only: the request must ask for Upgrade: websocket.",
        ),
        (
            {"Upgrade": "h2c"}, 426,
            "This URL serves WebSockets only: the request must ask for Upgrade: websocket.",
        ),
        (
            {"Sec_WebSocket_Version": None}, 426,
            "The Sec-WebSocket-Version field is missing; it must be 13.",
        ),
        (
            {"Sec_WebSocket_Version": "8"}, 426,
            "Sec-WebSocket-Version must be 13; this server speaks no other.",
        ),
        ({"Sec_WebSocket_Key": None}, 400, "The Sec-WebSocket-Key field is missing."),
        *(
            (
                {"Sec_WebSocket_Key": key}, 400,
                "Sec-WebSocket-Key must be the base64 form of 16 bytes.",
            )
            for key in ("", "short", KEY[:-1], KEY + "=", "dGhlIHNhbXBsZSBub25j!Q==", KEY + KEY)
        ),
        (
            {"Sec_WebSocket_Protocol": "a b"}, 400,
            "The Sec-WebSocket-Protocol field is malformed.",
        ),
        (
            {"Sec_WebSocket_Extensions": "permessage-deflate;"}, 400,
            "The Sec-WebSocket-Extensions field is malformed.",
        ),
    ],
)  # fmt: skip
def test_a_malformed_request_gets_a_sentence(
    app: Flask, serve: Serve, changes: dict[str, t.Any], status: int, sentence: str | None
):
    WebSockets(app)
    got, head, body = shake(serve(app), **changes)
    assert got == status
    assert body == ("" if sentence is None else sentence + "\n")
    assert field(head, "Content-Type") == ["text/plain; charset=utf-8"]
    if status == 426:
        assert field(head, "Sec-WebSocket-Version") == ["13"]
        assert field(head, "Upgrade") == ["websocket"]


NO_UPGRADE = "This URL serves WebSockets only: the request must ask for Upgrade: websocket."
NO_CONNECTION = "The Connection field of a WebSocket handshake must contain the token Upgrade."
NO_VERSION = "Sec-WebSocket-Version must be 13; this server speaks no other."
NO_KEY = "Sec-WebSocket-Key must be the base64 form of 16 bytes."
NO_HOST = "The Host field must name one host, with or without a port."
CONTROLS = "A header field contains control characters."
NO_BODY = "A WebSocket handshake has no body."
NO_EXPECTATION = "A WebSocket handshake has no body to expect an answer for."
NO_GET = "A WebSocket handshake is a GET request."

#: What is wrong with each field, and what is said of it.
REFUSALS: list[tuple[str, list[str | None], int, str]] = [
    ("Upgrade", ["websocketx", "xwebsocket", "websocket/13", "web\0socket"], 426, NO_UPGRADE),
    ("Connection", ["upgradexyz", "xupgrade", "up grade", "Upgrade;", ""], 400, NO_CONNECTION),
    ("Sec-WebSocket-Version", ["", "13x", "0x0d", "013", "13, 13", "13\n13", "13\n8"], 426,
     NO_VERSION),
    ("Sec-WebSocket-Key", [f"{KEY}, {KEY}", f"{KEY}\n{KEY}", f"\xa0{KEY[1:]}", f"{KEY}\xa0a",
     "dGhlIHNhbXBs ZSBub25jZQ==", "dGhlIHNhb==XBsZSBub25jZQ", "A" * 60_000], 400, NO_KEY),
    ("Host", [None], 400, "The Host field is missing."),
    ("Host", ["", "a b", "a/b", "a@b", "<b>", "a,b", "a\nb", "a:b", "a:0", "a:65536", "[::1",
     "\xff"], 400, NO_HOST),
    ("X-Junk", ["a\0b", "a\x1b[31mb", "a\x7f"], 400, CONTROLS),
    ("Content-Length", ["5", "00001"], 400, NO_BODY),
    ("Transfer-Encoding", ["chunked", "gzip"], 400, NO_BODY),
    ("Expect", ["100-continue", "something"], 417, NO_EXPECTATION),
    ("Sec-WebSocket-Protocol", ["a b", "a/b", "a\tb", "\xe9"], 400,
     "The Sec-WebSocket-Protocol field is malformed."),
    ("Sec-WebSocket-Protocol", ["," * 8193, "a," * 30_000], 400,
     "The Sec-WebSocket-Protocol field is longer than 8192 characters."),
    ("Sec-WebSocket-Extensions", ["foo=1", 'foo; a="1', "foo bar"], 400,
     "The Sec-WebSocket-Extensions field is malformed."),
    ("Sec-WebSocket-Extensions", ["," * 8193, "foo;a" * 10_000], 400,
     "The Sec-WebSocket-Extensions field is longer than 8192 characters."),
]  # fmt: skip


def test_every_field_is_checked(app: Flask, serve: Serve, log):
    WebSockets(app)
    server = serve(app)
    for name, values, status, sentence in REFUSALS:
        for value in values:
            got, head, body = shake(server, **{name: value})
            assert (got, body) == (status, f"{sentence}\n"), (name, value)
            if name != "Upgrade":  # else it is no handshake
                assert field(head, "Connection")[-1] == "close", (name, value)
    for method in ("X" * 20, "<b>", "M-SEARCH"):
        assert shake(server, method=method)[::2] == (400, f"{NO_GET}\n"), method
    assert shake(server)[0] == 101
    assert log == []


# Origins

OWN = "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("base", "origin", "allowed", "status"),
    [
        (OWN, None, None, 101),
        (OWN, OWN, None, 101),
        (OWN, "HTTP://127.0.0.1:5000", None, 101),
        (OWN, "http://127.0.0.1", None, 403),
        (OWN, "http://127.0.0.1:50000", None, 403),
        (OWN, "http://127.0.0.1:500", None, 403),
        (OWN, "https://127.0.0.1:5000", None, 403),
        (OWN, "http://localhost:5000", None, 403),
        (OWN, "http://127.0.0.1:5000.example.org", None, 403),
        (OWN, "http://example.org/127.0.0.1:5000", None, 403),
        (OWN, f"{OWN}/", None, 403),
        (OWN, f"{OWN}, {OWN}", None, 403),
        (OWN, f"{OWN}, http://evil.example", None, 403),
        (OWN, "null", None, 403),
        (OWN, "", None, 403),
        (OWN, "\r\nX-Evil: 1", None, 403),
        (OWN, "http://" + "a" * 60_000, None, 403),
        ("http://Example.ORG", "http://example.org", None, 101),
        ("http://example.org", "http://example.org:80", None, 101),
        ("http://example.org:80", "http://example.org", None, 101),
        ("https://example.org", "https://example.org:443", None, 101),
        ("https://example.org:443", "https://example.org", None, 101),
        ("https://example.org", "http://example.org", None, 403),
        ("https://example.org", "https://example.org:80", None, 403),
        ("https://example.org:80", "https://example.org", None, 403),
        ("https://example.org", "https://www.example.org", None, 403),
        ("https://example.org", "https://example.org.evil.example", None, 403),
        ("https://example.org", "https://notexample.org", None, 403),
        ("wss://example.org", "https://example.org", None, 101),  # some proxies say wss
        ("ws://example.org:80", "http://example.org", None, 101),
        ("http://[::1]:5000", "http://[::1]:5000", None, 101),
        ("http://[::1]:5000", "http://[0:0:0::1]:5000", None, 101),
        ("http://[::1]:80", "http://[::1]", None, 101),
        ("http://[::1]:5000", "http://[::2]:5000", None, 403),
        (OWN, OWN, ["https://example.org"], 101),
        (OWN, "https://example.org", ["https://example.org"], 101),
        (OWN, "https://example.org:443", ["https://Example.org"], 101),
        (OWN, "https://example.org", ["https://example.org:443"], 101),
        (OWN, "https://example.org:8443", ["https://example.org"], 403),
        (OWN, "http://example.org", ["https://example.org"], 403),
        (OWN, "https://xexample.org", ["https://example.org"], 403),
        (OWN, "https://example.org.evil.example", ["https://example.org"], 403),
        (OWN, "https://example.org, https://example.org", ["https://example.org"], 403),
        (OWN, "null", ["null"], 101),
        (OWN, "file://", ["file://"], 101),
        (OWN, "null", ["https://example.org"], 403),
        (OWN, "null", "*", 101),
        (OWN, "http://evil.example", "*", 101),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_origin_is_that_of_the_request_or_listed(
    base: str, origin: str | None, allowed: t.Any, status: int
):
    config = Config.from_mapping({"WEBSOCKETS_ALLOWED_ORIGINS": allowed})
    asked = Request(EnvironBuilder(base_url=base).get_environ())
    if origin is not None:
        asked.environ["HTTP_ORIGIN"] = origin
    if status == 101:
        check_origin(asked, config.allowed_origins)
        return
    with pytest.raises(OriginNotAllowed) as refused:
        check_origin(asked, config.allowed_origins)
    assert refused.value.code == 403
    assert refused.value.description == REFUSED_ORIGIN


REFUSED_ORIGIN = (
    "The Origin field is not the scheme, host and port that this request came to, and "
    "WEBSOCKETS_ALLOWED_ORIGINS does not list it. Behind a proxy, ProxyFix has to tell the app "
    "what the browser asked for."
)


def test_a_page_of_another_site_gets_403(app: Flask, serve: Serve, log):
    sockets = WebSockets(app)
    asked = []
    sockets.before_open(lambda: asked.append(request.headers["Origin"]))
    sockets.route("/loop")(lambda ws: None)
    server = serve(app)
    evil = "http://evil.example"
    for path in ("/", "/loop"):
        status, head, body = shake(server, path, Origin=evil)
        assert (status, body) == (403, f"{REFUSED_ORIGIN}\n")
        assert evil not in head
        assert shake(server, path, Origin=f"{server.http('')}\n{evil}")[0] == 403
    assert (asked, log) == ([], [])
    assert shake(server, Origin=server.http(""))[0] == 101
    assert shake(server, "/loop", Origin=server.http(""))[0] == 101
    assert set(asked) == {server.http("")}


def test_a_page_of_another_site_may_be_let_in(app: Flask, serve: Serve):
    app.config["WEBSOCKETS_ALLOWED_ORIGINS"] = ["https://example.org"]
    WebSockets(app)
    server = serve(app)
    assert shake(server, Origin="https://example.org")[0] == 101
    assert shake(server, Origin=server.http(""))[0] == 101
    assert shake(server, Origin="https://example.com")[0] == 403


@pytest.mark.parametrize("first", [True, False])
def test_behind_a_proxy_the_origin_is_the_proxy_s(app: Flask, serve: Serve, first: bool):
    if first:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1)
    WebSockets(app)
    if not first:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1)
    server = serve(app)
    forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "example.org"}
    assert shake(server, Origin="https://example.org", **forwarded)[0] == 101
    assert shake(server, Origin=server.http(""), **forwarded)[0] == 403
    # A proxy that tells nothing: the app knows only what the proxy has asked for.
    assert shake(server, Origin="https://example.org")[0] == 403


# Places


FULL = "There are as many connections as this server takes.\n"


def places(app: Flask) -> Places:
    return app.extensions["websockets"].places


def test_places_are_taken_and_given_back():
    some = Places(2)
    some.take()
    some.take()
    for _ in range(2):
        with pytest.raises(Unavailable):
            some.take()
    some.give_back()
    some.take()
    with pytest.raises(Unavailable):
        some.take()


def test_threads_never_take_more_places_than_there_are():
    some, taken, lock = Places(7), [0, 0, 0], threading.Lock()
    start = threading.Barrier(8)

    def work():
        start.wait(10)
        for _ in range(2000):
            try:
                some.take()
            except Unavailable:
                continue
            with lock:
                taken[0] += 1
                taken[1] = max(taken[1], taken[0])
                taken[2] += 1
            with lock:
                taken[0] -= 1
            some.give_back()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert taken[0] == some._taken == 0
    assert taken[1] <= 7
    assert taken[2] >= 2000


def test_past_the_limit_a_handshake_gets_503(app: Flask, serve: Serve, log):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 2
    WebSockets(app)
    other = WebSockets(app, path="/other", endpoint="other")
    other.before_open(lambda: pytest.fail("it is called past the limit"))
    app.add_url_rule("/page", view_func=lambda: "page", endpoint="page")
    server = serve(app)
    first, second = server.connect(), server.connect()
    for path in ("/", "/other"):  # the limit is the app's
        status, head, body = shake(server, path)
        assert (status, body) == (503, FULL)
        assert field(head, "Retry-After") == ["5"]
    assert shake(server, "/page", Upgrade=None)[::2] == (200, "page")
    assert shake(server, Sec_WebSocket_Key=None)[0] == 400
    assert places(app)._taken == 2
    first.close()
    wait_until(lambda: places(app)._taken == 1, "the place is given back")
    server.connect()
    assert shake(server)[0] == 503
    second.shutdown()
    wait_until(lambda: places(app)._taken == 1, "the place is given back")
    assert log == []


def test_at_once_no_more_get_in_than_there_is_room_for(app: Flask, serve: Serve):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 5
    WebSockets(app)
    start, server = threading.Barrier(20), serve(app)
    statuses: list[int] = []

    def knock():
        start.wait(10)
        try:
            server.connect()
            statuses.append(101)
        except websocket.WebSocketBadStatusException as error:
            statuses.append(error.status_code)

    threads = [threading.Thread(target=knock) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(statuses) == [101] * 5 + [503] * 15


def test_the_refusal_can_be_handled_by_class(app: Flask, serve: Serve):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 1
    WebSockets(app)
    app.register_error_handler(Unavailable, lambda error: ("later", 503, {"Retry-After": "60"}))
    server = serve(app)
    client = server.connect()
    status, head, body = shake(server)
    assert (status, field(head, "Retry-After"), body) == (503, ["60"], "later")
    client.close()


def test_a_handshake_under_way_has_a_place(app: Flask, serve: Serve):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 1
    sockets = WebSockets(app)
    other: list[int] = []

    @sockets.before_open
    def ask():
        # In the middle of one handshake, another.
        with pytest.raises(Unavailable):
            places(app).take()
        other.append(places(app)._taken)

    server = serve(app)
    assert shake(server)[0] == 101
    assert other == [1]


def test_the_place_is_given_back_whatever_happens(app: Flask, serve: Serve, log):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 1
    sockets = WebSockets(app)
    broken = WebSockets(app, path="/broken", endpoint="broken")
    sockets.route("/loop")(lambda ws: ws.send("at once"))
    sockets.route("/broken-loop", endpoint="broken-loop")(lambda ws: 1 / 0)

    @sockets.before_open
    @broken.before_open
    def judge():
        what = request.args.get("before")
        return ("no", 403) if what == "refuse" else abort(401) if what == "abort" else None

    @app.after_request
    def fail_or_refuse(response):
        what = request.args.get("after")
        return make_response("no", 418) if what == "refuse" else 1 / 0 if what else response

    @broken.on_open
    @broken.on_close
    def broken_hook():
        raise ZeroDivisionError

    @sockets.on_message
    def fail(message):
        raise ZeroDivisionError

    server = serve(app)
    for query, status in [
        ("before=refuse", 403),
        ("before=abort", 401),
        ("after=refuse", 418),
        ("after=raise", 500),
    ]:
        assert shake(server, f"/?{query}")[0] == status
        wait_until(lambda: places(app)._taken == 0, query)
    for path in ("/broken", "/loop", "/broken-loop"):
        client = server.connect(path)
        drain(client)
        client.shutdown()
        wait_until(lambda: places(app)._taken == 0, path)
    client = server.connect()
    client.send("fail")
    assert client.recv_close() == (1011, "")
    client.shutdown()
    wait_until(lambda: places(app)._taken == 0, "a handler failed")
    assert shake(server)[0] == 101  # the client leaves without a Close
    wait_until(lambda: places(app)._taken == 0, "the client has left")


def test_the_place_of_a_client_that_is_gone_before_its_101(app: Flask, serve: Serve):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 1
    sockets = WebSockets(app)
    handshakes, gone = [], threading.Event()

    @sockets.before_open
    def wait():
        handshakes.append(places(app)._taken)
        wait_until(gone.is_set, "the client is gone")

    server = serve(app)
    sock = socket.create_connection(("127.0.0.1", server.port), 10)
    fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    sock.sendall(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
    wait_until(lambda: handshakes == [1], "the handshake is under way")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()  # with an RST
    gone.set()
    wait_until(lambda: places(app)._taken == 0, "the place is given back")
    assert shake(server)[0] == 101
    assert handshakes == [1, 1]


# What a client sends stays what it is


def test_a_path_begins_no_line_of_the_log(app: Flask, serve: Serve, log):
    sockets = WebSockets(app, path="/<name>")

    @sockets.on_message
    def fail(message):
        raise ZeroDivisionError

    client = serve(app).connect("/a%0aERROR:%20b%1b%5b31m%e2%80%a8%c3%a9")
    client.send("x")
    assert client.recv_close() == (1011, "")
    client.shutdown()
    (record,) = log
    message = record.getMessage()
    assert message.partition(" of ")[2] == "/a\\nERROR: b\\x1b[31m\\u2028\u00e9"


def test_a_page_and_a_socket_share_a_url(app: Flask, serve: Serve):
    WebSockets(app)

    @app.route("/", methods=["GET", "POST"])
    def page():
        return f"page {request.method}"

    server = serve(app)
    assert shake(server, Upgrade=None)[::2] == (200, "page GET")
    assert shake(server, Upgrade=None, method="POST")[::2] == (200, "page POST")
    assert shake(server)[0] == 101


def test_a_handshake_with_a_page_is_no_socket(app: Flask, serve: Serve):
    WebSockets(app)
    app.add_url_rule("/page", view_func=lambda: "page", endpoint="page")
    assert shake(serve(app), "/page")[0] == 400


def test_the_app_s_error_handlers_answer(app: Flask, serve: Serve):
    WebSockets(app, path="/socket")

    @app.errorhandler(HTTPException)
    def error(error):
        return {"code": error.code, "description": error.description}, error.code

    server = serve(app)
    assert shake(server, "/socket", Upgrade=None)[2] == (
        '{"code":426,"description":"This URL serves WebSockets only: the request must ask for '
        'Upgrade: websocket."}\n'
    )
    assert shake(server, "/nowhere")[0] == 404
    assert '"code":400' in shake(server, "/socket", Sec_WebSocket_Key=None)[2]


def test_handshake_errors_can_be_handled_by_class(app: Flask, serve: Serve):
    WebSockets(app)
    app.register_error_handler(HandshakeError, lambda error: ("mine", 418))
    assert shake(serve(app), Sec_WebSocket_Key=None)[::2] == (418, "mine")


def test_before_and_after_request_and_teardown_run(app: Flask, serve: Serve):
    sockets = WebSockets(app)
    ran = []

    @app.before_request
    def before():
        g.user = "ada"
        ran.append("before")

    @app.after_request
    def after(response):
        ran.append(f"after {response.status_code}")
        response.set_cookie("seen", "yes")
        return response

    @app.teardown_request
    def teardown_request(error):
        ran.append("teardown_request")

    @app.teardown_appcontext
    def teardown_appcontext(error):
        ran.append("teardown_appcontext")

    @sockets.before_open
    def before_open():
        ran.append(f"before_open {g.user} {ws.connecting}")

    @sockets.on_open
    def opened():
        ran.append(f"on_open {'user' in g}")
        return "ready"

    client = serve(app).connect()
    assert client.getheaders()["set-cookie"] == "seen=yes; Path=/"
    assert client.recv() == "ready"
    assert ran[:6] == [
        "before",
        "before_open ada True",
        "after 101",
        "teardown_request",
        "teardown_appcontext",
        "on_open False",
    ]


def test_before_request_can_refuse(app: Flask, serve: Serve):
    WebSockets(app)
    app.before_request(lambda: redirect("/login"))
    status, head, _ = shake(serve(app))
    assert status == 302
    assert field(head, "Location") == ["/login"]


def test_after_request_can_refuse(app: Flask, serve: Serve):
    WebSockets(app)
    app.after_request(lambda response: make_response("no", 503))
    assert shake(serve(app))[::2] == (503, "no")


@pytest.mark.parametrize(
    ("refusal", "status", "body"),
    [
        (("not you", 403), 403, "not you"),
        (("later", 503, {"Retry-After": "5"}), 503, "later"),
        ({"error": "no"}, 200, '{"error":"no"}\n'),
    ],
)
def test_before_open_refuses_with_what_it_returns(
    app: Flask, serve: Serve, refusal: t.Any, status: int, body: str
):
    sockets = WebSockets(app)
    opened = []
    sockets.before_open(lambda: refusal)
    sockets.on_open(lambda: opened.append(1))
    sockets.on_close(lambda: opened.append(2))
    assert shake(serve(app))[::2] == (status, body)
    assert opened == []


def test_abort_refuses(app: Flask, serve: Serve):
    sockets = WebSockets(app)
    sockets.before_open(lambda: abort(401, "who are you?"))
    app.register_error_handler(401, lambda error: (jsonify(error=error.description), 401))
    assert shake(serve(app))[::2] == (401, '{"error":"who are you?"}\n')


def test_an_exception_in_before_open_is_a_500(app: Flask, serve: Serve, log):
    sockets = WebSockets(app)
    sockets.before_open(lambda: 1 / 0)
    assert shake(serve(app))[0] == 500
    assert [record.exc_info[0] for record in log] == [ZeroDivisionError]


def test_login_required(app: Flask, serve: Serve):
    sockets = WebSockets(app, path="/socket")
    manager = LoginManager(app)

    class User(UserMixin):
        id = "ada"

    manager.user_loader(lambda id: User() if id == "ada" else None)

    @app.get("/login")
    def login():
        login_user(User())
        return "welcome"

    @sockets.before_open
    @login_required
    def check():
        pass

    server = serve(app)
    assert shake(server, "/socket")[0] == 401
    status, head, _ = shake(server, "/login", Upgrade=None)
    assert status == 200
    assert shake(server, "/socket", Cookie=field(head, "Set-Cookie")[0].partition(";")[0])[0] == 101


def test_the_session_is_read_and_saved(app: Flask, serve: Serve):
    sockets = WebSockets(app)

    @sockets.before_open
    def count():
        session["count"] = session.get("count", 0) + 1

    @sockets.on_open
    def tell():
        return str(session["count"])

    server = serve(app)
    client = server.connect()
    assert client.recv() == "1"
    cookie = client.getheaders()["set-cookie"].partition(";")[0]
    assert server.connect(cookie=cookie).recv() == "2"


def test_converters_and_url_variables(app: Flask, serve: Serve):
    sockets = WebSockets(app, path="/game/<int:number>/<name>")

    @sockets.before_open
    def check(number: int):
        return None if number < 100 else ("no such game", 404)

    @sockets.on_open
    def tell(name: str, number: int):
        return f"{name} {number + 1}"

    server = serve(app)
    assert server.connect("/game/7/ada").recv() == "ada 8"
    assert shake(server, "/game/seven/ada")[0] == 404
    assert shake(server, "/game/100/ada")[::2] == (404, "no such game")


def test_hooks_of_a_blueprint_apply(app: Flask, serve: Serve):
    blueprint = Blueprint("api", __name__)
    WebSockets(blueprint, path="/socket")
    blueprint.before_request(lambda: None if request.args else ("blueprint says no", 403))
    app.register_blueprint(blueprint, url_prefix="/api")
    server = serve(app)
    assert shake(server, "/api/socket")[::2] == (403, "blueprint says no")
    assert shake(server, "/api/socket?yes")[0] == 101


def test_the_first_subprotocol_that_both_know_is_chosen(app: Flask, serve: Serve):
    app.config["WEBSOCKETS_SUBPROTOCOLS"] = ["chat", "echo"]
    sockets = WebSockets(app)
    sockets.on_open(lambda: f"{ws.subprotocol} of {ws.subprotocols}")
    server = serve(app)
    client = server.connect(subprotocols=["echo", "chat"])
    assert client.getheaders()["sec-websocket-protocol"] == "chat"
    assert client.recv() == "chat of ('echo', 'chat')"
    status, head, _ = shake(server, Sec_WebSocket_Protocol="xchat, echoes")
    assert (status, field(head, "Sec-WebSocket-Protocol")) == (101, [])


def test_before_open_chooses_the_subprotocol(app: Flask, serve: Serve):
    sockets = WebSockets(app)

    @sockets.before_open
    def choose():
        if not ws.subprotocols:
            abort(400, "offer a subprotocol")
        ws.accept(ws.subprotocols[-1])

    server = serve(app)
    assert shake(server)[0] == 400
    status, head, _ = shake(server, Sec_WebSocket_Protocol="one, two")
    assert (status, field(head, "Sec-WebSocket-Protocol")) == (101, ["two"])


@pytest.mark.parametrize(
    ("compression", "offer", "answer"),
    [
        (False, "permessage-deflate", []),
        (True, "permessage-deflate", ["permessage-deflate; server_max_window_bits=12"]),
        (True, "x-other", []),
        (True, "permessage-deflate; server_max_window_bits=8", []),
        (
            {"window_bits": 15, "context_takeover": False},
            "permessage-deflate; client_max_window_bits",
            [
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
                "client_max_window_bits=15"
            ],
        ),
    ],
)
def test_compression_is_negotiated(
    app: Flask, serve: Serve, compression: t.Any, offer: str, answer: list[str]
):
    app.config["WEBSOCKETS_COMPRESSION"] = compression
    WebSockets(app)
    status, head, _ = shake(serve(app), Sec_WebSocket_Extensions=offer)
    assert (status, field(head, "Sec-WebSocket-Extensions")) == (101, answer)


def generator_middleware(application: t.Any) -> t.Any:
    def middleware(environ, start_response):
        yield from application(environ, start_response)

    return middleware


def wrapping_middleware(application: t.Any) -> t.Any:
    def middleware(environ, start_response):
        def add(status, fields, exc_info=None):
            return start_response(status, [*fields, ("X-Added", "yes")], exc_info)

        return application(dict(environ), add)

    return middleware


@pytest.mark.parametrize("middleware", [generator_middleware, wrapping_middleware, ProxyFix])
@pytest.mark.parametrize("first", [True, False])
def test_other_middleware_goes_before_or_after(
    app: Flask, serve: Serve, middleware: t.Any, first: bool
):
    if first:
        app.wsgi_app = middleware(app.wsgi_app)
    sockets = WebSockets(app)
    if not first:
        app.wsgi_app = middleware(app.wsgi_app)
    sockets.on_message(lambda message: message)
    sockets.before_open(lambda: None if request.args else ("no", 403))
    app.add_url_rule("/", view_func=lambda: "page", endpoint="page")

    server = serve(app)
    client = server.connect("/?yes")
    client.send("hello")
    assert client.recv() == "hello"
    client.close()
    assert shake(server)[::2] == (403, "no")
    assert shake(server, Upgrade=None)[::2] == (200, "page")


@pytest.mark.parametrize("first", [True, False])
def test_behind_a_proxy_urls_are_those_of_the_proxy(app: Flask, serve: Serve, first: bool):
    if first:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1, x_prefix=1)
    sockets = WebSockets(app, path="/socket")
    if not first:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1, x_prefix=1)
    sockets.on_open(lambda: app.url_for("websocket", _external=True))
    forwarded = [
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: example.org",
        "X-Forwarded-Prefix: /x",
    ]
    client = serve(app).connect("/socket", header=forwarded, origin="https://example.org")
    assert client.recv() == "wss://example.org/x/socket"


def test_under_a_dispatcher(app: Flask, serve: Serve):
    sockets = WebSockets(app, path="/socket")
    sockets.on_open(lambda: app.url_for("websocket"))
    outer = DispatcherMiddleware(Flask("other"), {"/mounted": app})
    server = serve(outer)  # type: ignore[arg-type]
    assert (
        server.connect("/mounted/socket").recv() == f"ws://127.0.0.1:{server.port}/mounted/socket"
    )
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        server.connect("/socket")


def test_the_flask_test_client_is_told_that_it_lends_no_socket(app: Flask, log):
    WebSockets(app)
    response = app.test_client().get("/", headers=FIELDS)
    assert response.status_code == 501
    assert response.text.startswith("This WSGI server cannot serve WebSockets as it runs here: ")
    assert len(log) == 1
