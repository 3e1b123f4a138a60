"""What the pages on coming over from Flask's other ways to WebSockets build, does what they say."""

from __future__ import annotations

import json

import pytest
import websocket
from flask import session
from pages import ROOT
from pages import run_page
from pages import talk
from support import wait_until


def test_flask_sock(serve):
    page = "docs/coming/flask-sock.rst"
    server = serve(run_page(ROOT / page)["app"])
    client = server.connect("/echo/Ada")
    client.send("hello")
    assert client.recv() == "Ada: hello"
    client.send("close")
    assert client.recv_close() == (1000, "")
    client = server.connect("/talk/Ada")
    client.send("hello")
    assert client.recv() == "Ada: hello"
    # What before_request put into g reaches the loop by ws.state.
    client = server.connect("/whoami?user=Ada")
    assert client.recv() == "Ada"
    with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
        server.connect("/whoami")


def test_flask_sockets(serve):
    server = serve(run_page(ROOT / "docs/coming/flask-sockets.rst")["app"])
    client = server.connect("/wires/echo")
    client.send("hello")
    assert client.recv() == "hello"
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"
    ada, bob = server.connect("/rooms/tea"), server.connect("/rooms/milk")
    ada.send("tea")
    bob.send("milk")
    assert [ada.recv(), bob.recv()] == ["tea", "milk"]


def test_flask_sockets_urls():
    app = run_page(ROOT / "docs/coming/flask-sockets.rst")["app"]
    with app.test_request_context():
        assert app.url_for("wires.echo") == "ws://localhost/wires/echo"
    assert app.test_client().get("/pages/").text == "Hello"


def test_flask_sockets_while_not_closed(app, sockets, serve):
    # The page says that this loop of Flask-Sockets's works as it is.
    ended = []

    @sockets.route("/loop")
    def loop(ws):
        try:
            while not ws.closed:
                message = ws.receive()
                if message is not None:
                    ws.send(message)
        finally:
            ended.append(ws.close_code)

    client = serve(app).connect("/loop")
    client.send("hello")
    assert client.recv() == "hello"
    client.send_close(1000)
    assert client.recv_close() == (1000, "")
    wait_until(lambda: ended == [1000], "the loop has ended")


def test_events(serve):
    page = "docs/coming/events.rst"
    move = '{"event": "move", "data": {"x": 1}}'
    assert [json.loads(one) for one in talk(serve, page, "/ws", move, "sing", "[1]")] == [
        {"event": "moved", "data": {"x": 2}}
    ]
    messages = [move, '{"event": "sing"}', "[1]", "sing", b"sing", '{"event": "move", "data": {}}']
    unknown = {"event": "error", "data": "There is no such event."}
    assert [json.loads(one) for one in talk(serve, page, "/game", *messages)] == [
        {"event": "moved", "data": {"x": 2}},
        *4 * [unknown],
        {"event": "error", "data": "The data lacks 'x'."},
    ]


def connect(server, path="/"):
    """Connect to the page's chat; the client and its id."""
    client = server.connect(path)
    assert receive(client) == ("hello", "welcome")
    return client, receive(client)[1]


def receive(client):
    message = json.loads(client.recv())
    return message["event"], message["data"]


def emit(client, event, data):
    client.send(json.dumps({"event": event, "data": data}))


def test_flask_socketio_rooms(serve):
    server = serve(run_page(ROOT / "docs/coming/flask-socketio.rst")["app"])
    (ada, _), (bob, _) = connect(server), connect(server)
    emit(ada, "join", {"room": "tea"})
    assert receive(ada) == ("joined", {"room": "tea"})
    emit(bob, "join", {"room": "tea"})
    assert receive(ada) == receive(bob) == ("joined", {"room": "tea"})
    emit(ada, "say", {"room": "tea", "text": "hi"})  # to all but Ada
    assert receive(bob) == ("said", {"room": "tea", "text": "hi"})
    emit(bob, "leave", {"room": "tea"})
    assert receive(ada) == ("left", {"room": "tea"})
    emit(ada, "shout", "all")
    assert receive(ada) == receive(bob) == ("shouted", "all")


def test_flask_socketio_one_client(serve):
    server = serve(run_page(ROOT / "docs/coming/flask-socketio.rst")["app"])
    (ada, _), (bob, _) = connect(server), connect(server)
    ada.send('{"event": "rename", "data": "Ada", "id": 7}')
    assert json.loads(ada.recv()) == {"event": "ack", "id": 7, "data": "Ada"}
    emit(ada, "work", 1000)
    assert receive(ada) == ("done", 499500)
    emit(bob, "shout", "all")
    assert receive(ada) == receive(bob) == ("shouted", "all")  # nothing of the above for Bob
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        server.connect("/admin")
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        server.connect("/", origin="http://elsewhere.example")


def test_flask_socketio_views_and_namespaces(serve):
    app = run_page(ROOT / "docs/coming/flask-socketio.rst")["app"]

    @app.get("/log-in")
    def log_in():
        session["staff"] = True
        return ""

    server = serve(app)
    ada, number = connect(server)
    browser = app.test_client()
    assert browser.post(f"/tell/{number}/hello").status_code == 204
    assert receive(ada) == ("told", "hello")
    browser.get("/log-in")
    admin = server.connect("/admin", cookie=f"session={browser.get_cookie('session').value}")
    emit(admin, "kick", number)
    assert ada.recv_close() == (4001, "kicked")


def test_flask_socketio_test_of_the_page():
    page = run_page(ROOT / "docs/coming/flask-socketio.rst")
    page["test_join"]()
