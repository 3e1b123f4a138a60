"""The symptoms that the page on troubleshooting names are had as it says."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import subprocess
import threading
from wsgiref.simple_server import make_server
from wsgiref.simple_server import WSGIRequestHandler

import pytest
import websocket
from flask_login import login_required
from flask_login import LoginManager
from flask_sqlalchemy import SQLAlchemy
from pages import databases
from pages import ROOT
from pages import run_page
from sqlalchemy.pool import QueuePool
from support import GeventServer
from support import wait_until

from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets
from flask_websockets import ws

TEXT = (ROOT / "docs/troubleshooting.rst").read_text()
PAGE = " ".join(re.sub(r"=+ +=+|``", " ", TEXT).split())
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def ask(port: int, path: str = "/", version: str = "1.1", **changes: str | None) -> tuple[int, str]:
    """Shake hands by hand, with *changes* to the fields. Returns the status and the rest."""
    fields = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"GET {path} HTTP/{version}", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while piece := sock.recv(65536):
            data += piece
    head, _, body = data.decode().partition("\r\n\r\n")
    return int(head.split()[1]), f"{head}\r\n\r\n{body}"


def drain(client: websocket.WebSocket) -> None:
    """Take what comes, Pings too, until nothing comes in time or the connection is lost."""
    while client.recv_data(control_frame=True)[0] != websocket.ABNF.OPCODE_CLOSE:
        pass


# How to see what happens


def test_curl_prints_what_the_page_says(app, sockets, serve):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    port = serve(app).port
    command = re.search(r"\$ (curl .*\n.*\n.*)/\n", TEXT)
    assert command is not None
    done = subprocess.run(
        command[1].replace("-m 2", "-sm 0.5").replace("127.0.0.1:5000", f"127.0.0.1:{port}/"),
        shell=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    shown = re.search(r"   HTTP/1.1 101 (?:.*\n)*?\n", TEXT)
    assert shown is not None
    assert set(shown[0].split("\n   ")[1:3]) <= set(done.stdout.splitlines())
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in done.stdout


def test_look_prints_close_codes(app, sockets, serve, capsys):
    @sockets.on_message("QUIT")
    def leave():
        ws.send("soon")
        ws.close(4000, "as you wish")

    look = run_page(ROOT / "docs/troubleshooting.rst")["look"]
    look(serve(app).url(), "QUIT")
    assert capsys.readouterr().out == "b'soon'\nclosed with 4000 as you wish\n"


def test_logs_say_who_came_and_went(serve, caplog):
    page = run_page(ROOT / "docs/troubleshooting.rst")
    page["app"].logger.setLevel("INFO")
    caplog.set_level(logging.INFO)
    client = serve(page["app"]).connect()
    client.send_close(4001, b"bye")
    client.recv_close()
    wait_until(lambda: "closed with 4001 'bye'" in caplog.text, "on_close has logged")
    assert "opened from 127.0.0.1" in caplog.text


# It does not connect


def test_redirects_are_302_and_308(app, serve):
    sockets = WebSockets(app, path="/chat/")
    login = LoginManager(app)
    login.login_view = "login"
    login.user_loader(lambda id: None)
    app.add_url_rule("/login", "login", lambda: "a page")
    sockets.before_open(login_required(lambda: None))
    port = serve(app).port
    status, response = ask(port, "/chat")
    assert status == 308
    assert re.search(r"Location: ws://127.0.0.1:\d+/chat/", response)
    assert ask(port, "/chat/")[0] == 302


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Connection": "close"}, "The Connection field of a WebSocket handshake must contain the"),
        ({"version": "1.0"}, "A WebSocket handshake needs HTTP/1.1, not HTTP/1.0."),
        ({"Sec_WebSocket_Key": None}, "The Sec-WebSocket-Key field is missing."),
        ({"path": "/page"}, "Bad Request"),
    ],
)
def test_400_says_why(app, sockets, serve, change, sentence):
    app.add_url_rule("/page", view_func=lambda: "a page")
    status, response = ask(serve(app).port, **change)
    assert status == 400
    assert sentence in response
    assert sentence in PAGE


def test_403_and_503_say_why(app, serve):
    app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 1
    WebSockets(app)
    server = serve(app)
    client = server.connect()
    for origin, expected, sentence in (
        ("http://localhost:3000", 403, "The Origin field is not the scheme, host and port that"),
        (None, 503, "There are as many connections as this server takes"),
    ):
        status, response = ask(server.port, Origin=origin)
        assert (status, sentence in response, sentence in PAGE) == (expected, True, True)
    client.close()


def test_what_a_proxy_took_away_is_426_or_the_page(app, sockets, serve):
    shared = WebSockets(app, path="/shared", endpoint="shared")
    app.add_url_rule("/shared", view_func=lambda: "a page")
    server = serve(app)
    plain = {"Connection": "close", "Upgrade": None}
    status, response = ask(server.port, **plain)
    assert (status, "This URL serves WebSockets only" in response) == (426, True)
    assert ask(server.port, "/shared", **plain)[0] == 200
    assert ask(server.port, Sec_WebSocket_Version="8")[0] == 426
    assert not shared.clients


def test_a_server_without_a_socket_to_lend_is_501(app, sockets, log):
    class Quiet(WSGIRequestHandler):
        def log_message(self, *args):
            pass

    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(("127.0.0.1", server.server_port), 10) as sock:
            fields = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
            sock.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
            assert b" 501 " in sock.recv(65536)
        thread.join(10)
    assert app.test_client().get("/", headers=HANDSHAKE).status_code == 501
    assert "serves one request at a time" in log[0].getMessage()
    assert [record.levelname for record in log] == ["ERROR", "ERROR"]


# It closes


def test_a_busy_handler_sends_no_pings(app, serve):
    app.config["WEBSOCKETS_PING_INTERVAL"] = 0.05
    sockets = WebSockets(app)
    go_on = threading.Event()

    @sockets.on_message("BUSY")
    def busy():
        go_on.wait(10)
        return "done"

    client = serve(app).connect()
    assert client.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_PING
    client.send("BUSY")
    client.settimeout(0.3)
    with pytest.raises(websocket.WebSocketTimeoutException):
        drain(client)
    go_on.set()
    client.settimeout(10)
    while client.recv_data(control_frame=True)[1] != b"done":
        pass


def test_1006_without_an_answer_to_a_ping(app, serve):
    app.config.update(WEBSOCKETS_PING_INTERVAL=0.05, WEBSOCKETS_PING_TIMEOUT=0.05)
    sockets = WebSockets(app)
    seen = []
    sockets.on_close(lambda code, reason: seen.append((code, reason)))
    serve(app).connect()  # a client that reads nothing answers no Ping
    wait_until(lambda: seen, "the connection counts as lost")
    assert seen == [(1006, "no answer to a ping")]
    assert "no answer to a ping" in PAGE


def test_1008_is_1006_on_the_other_side(app, serve):
    app.config["WEBSOCKETS_SEND_BUFFER"] = 1000
    sockets = WebSockets(app)
    seen = []
    sockets.on_close(lambda code, reason: seen.append((code, reason)))
    client = serve(app).connect()
    wait_until(lambda: sockets.clients, "it is connected")
    while sockets.clients and not seen:
        sockets.broadcast(bytes(1 << 20))
    wait_until(lambda: seen, "the connection is over")
    assert seen == [(1008, "too slow")]
    with pytest.raises((websocket.WebSocketException, ConnectionError)):
        drain(client)
    assert "too slow" in PAGE


def test_1009_says_how_much(app, sockets, serve):
    client = serve(app).connect()
    client.send("x" * ((1 << 20) + 1))
    code, reason = client.recv_close()
    assert code == 1009
    assert reason in PAGE


def test_1011_says_no_more(app, sockets, serve, log):
    @sockets.on_message
    def fail(message):
        raise LookupError("why")

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    assert re.fullmatch(r"Exception on socket \w+ of /", log[0].getMessage())


# Nothing arrives


def test_what_no_handler_fits_is_no_error(app, sockets, serve, log):
    heard = []

    @sockets.before_message
    def see(message):
        heard.append(message)

    sockets.on_message("hello")(lambda message: "not meant")
    sockets.on_message("A.B$")(lambda message: "not meant")
    sockets.on_message("END")(lambda message: "the end")
    sockets.on_json(id="7")(lambda message: "not meant")
    client = serve(app).connect()
    messages = ["say hello", b"hello", "A\nB", "{'id': '7'}", "[object Object]", '{"id": 7}', "END"]
    for message in messages:
        client.send_binary(message) if isinstance(message, bytes) else client.send(message)
    assert client.recv() == "the end"
    assert heard == messages
    assert not log


# It is slow or grows


def test_a_handler_that_waits_otherwise_stops_gevent(app, sockets):
    begun, go_on = threading.Event(), threading.Event()

    @sockets.on_message("BLOCK")
    def block():
        begun.set()
        go_on.wait(10)

    sockets.on_message("HELLO")(lambda message: "hello")
    server = GeventServer(app)
    try:
        one, other = server.connect(), server.connect()
        one.send("BLOCK")
        assert begun.wait(10)
        other.send("HELLO")
        other.settimeout(0.2)
        with pytest.raises(websocket.WebSocketTimeoutException):
            other.recv()
        go_on.set()
        other.settimeout(10)
        assert other.recv() == "hello"
    finally:
        go_on.set()
        server.close_clients()
        server.stop()


def test_loops_hold_database_connections(app, serve, log):
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///file:jobs?mode=memory&uri=true"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "poolclass": QueuePool,
        "pool_size": 1,
        "max_overflow": 0,
        "pool_timeout": 0.05,
        "connect_args": {"check_same_thread": False},
    }
    db = SQLAlchemy(app)
    databases.append((app, db))
    sockets = WebSockets(app, path=None)

    @sockets.route("/hold")
    def hold(connection):
        for _ in connection:
            connection.send(str(db.session.execute(db.text("select 1")).scalar()))

    @sockets.route("/give-back")
    def give_back(connection):
        for _ in connection:
            with app.app_context():
                number = db.session.execute(db.text("select 1")).scalar()
            connection.send(str(number))

    server = serve(app)
    kind, other = server.connect("/give-back"), server.connect("/give-back")
    for client in (kind, other, kind):
        client.send("x")
        assert client.recv() == "1"
    holds, waits = server.connect("/hold"), server.connect("/hold")
    holds.send("x")
    assert holds.recv() == "1"
    waits.send("x")
    assert waits.recv_close() == (1011, "")
    assert log[0].exc_info is not None
    assert "QueuePool limit of size 1 overflow 0 reached" in str(log[0].exc_info[1])
    assert "QueuePool limit of size 5 overflow 10 reached" in PAGE


def test_a_loop_that_catches_its_end_spins(app, serve):
    sockets = WebSockets(app, path=None)
    caught = []

    @sockets.route("/wrong")
    def wrong(connection):
        while len(caught) < 1000:
            try:
                connection.send(connection.receive())
            except ConnectionClosed as error:
                caught.append(error.code)

    serve(app).connect("/wrong").close()
    wait_until(lambda: len(caught) == 1000, "it has spun")
