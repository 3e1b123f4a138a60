"""What the pages for one job each build does what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from pathlib import Path
from urllib.request import Request
from urllib.request import urlopen

import pytest
import websocket
from pages import blocks
from pages import ROOT
from pages import run_page
from pages import talk
from support import wait_until

JSON = "docs/json.rst"
ROOMS = "docs/rooms.rst"
STREAMING = "docs/streaming.rst"


def says(client: websocket.WebSocket, *messages: str) -> t.Any:
    """Send *messages*, and return what the next one that comes says as JSON."""
    for message in messages:
        client.send(message)
    return json.loads(client.recv())


def hear(client: websocket.WebSocket, *messages: t.Any, last: t.Any) -> list[t.Any]:
    """Send *messages*, and return what comes until *last*, with it.

    Where ``talk`` would say too early that it leaves: a stream ends then.
    """
    for message in messages:
        client.send_binary(message) if isinstance(message, bytes) else client.send(message)
    said = []
    while last not in said:
        said.append(client.recv())
    return said


def post(url: str, data: str = "", **fields: str) -> bytes:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    with urlopen(Request(url, data.encode(), headers), timeout=10) as response:
        return t.cast(bytes, response.read())


# JSON


def test_json_talks(serve):
    said = talk(
        serve,
        JSON,
        "/games/7",
        '{"type": "join", "version": 2, "name": "Ada"}',
        '{"type": "join", "version": true}',
        "null",
        '{"type": "move", "x": 1, "y": 2}',
        '{"type": "move", "y": 1}',
        "no JSON",
        b"{}",
    )
    unknown = {"type": "error", "text": "I do not know this type."}
    assert [json.loads(one) for one in said] == [
        {"type": "joined", "game": 7, "players": 1},
        unknown,
        unknown,
        {"x": 1},
        {"type": "error", "text": "x is a whole number from 0 to 7"},
        {"type": "error", "text": "Send JSON."},
        {"type": "error", "text": "Send JSON."},
    ]
    assert said[0].startswith('{"type"')  # the provider of the page does not sort


def test_json_loop_takes_other_loads_and_dumps(serve):
    said = talk(serve, JSON, "/bills", "0.1", "1.10")
    assert [json.loads(one)["amount"] for one in said] == ["0.1", "1.10"]
    assert json.loads(said[0])["day"] == "2030-01-31"


def test_json_before_message_is_strict(serve):
    server = serve(run_page(ROOT / JSON)["app"])
    for message in ("no JSON", b"\xff"):
        client = server.connect("/strict")
        assert says(client, "7") == [7, 7]
        client.send_binary(message) if isinstance(message, bytes) else client.send(message)
        assert client.recv_close() == (1003, "only JSON is spoken here")


def test_json_questions_are_answered_by_id(serve):
    client = serve(run_page(ROOT / JSON)["app"]).connect("/rpc")
    assert says(client, '{"id": 1, "call": "add", "a": 2, "b": 3}') == {"id": 1, "result": 5}

    def error(path, description):
        return {"path": path, "description": description}

    assert says(client, '{"id": "x", "call": "add", "a": "2"}') == {
        "id": "x",
        "error": error("$.a", "expected int, got str"),
    }
    assert says(client, '{"id": 3, "call": "no"}') == {
        "id": 3,
        "error": error("$.call", 'expected "add" or "divide", got "no"'),
    }
    assert says(client, '{"id": 4, "call": "divide", "a": 1, "b": 0}') == {
        "id": 4,
        "error": error("$.b", "expected another number, got 0"),
    }
    assert says(client, "[]") == {"error": error("$", "expected object, got array")}


def test_json_types(serve):
    server = serve(run_page(ROOT / JSON)["app"])
    client = server.connect("/shop")
    client.send('{"type": "order", "items": [{"price": 2.5}]}')
    assert client.recv() == '{"type":"sum","total":2.5}'
    client.send('{"id": 7, "type": "cancel", "number": 1}')
    assert client.recv() == '{"id":7,"cancelled":1}'
    items = '[{"price": 1}, {"price": 1}, {"price": "1"}]'
    assert says(client, f'{{"type": "order", "items": {items}}}') == {
        "error": {"path": "$.items[2].price", "description": "expected float, got str"}
    }
    assert says(client, '{"type": "buy"}')["error"] == {
        "path": "$.type",
        "description": 'expected "order" or "cancel", got "buy"',
    }
    client = server.connect("/board")
    assert says(client, '{"x": 1, "y": 2}') == {"x": 2, "y": 1}
    assert [says(client, f'{{"x": {x}, "y": 0}}') for x in (8, 0)] == [
        {"type": "error", "where": "$", "what": "x and y are from 0 to 7"},
        {"type": "error", "where": "$.x", "what": "expected a free square, got a taken one"},
    ]


# Rooms


def test_rooms_reach_those_who_are_meant(serve):
    server = serve(run_page(ROOT / ROOMS)["app"])
    red, blue, other = server.connect(), server.connect(), server.connect()
    for client, room in ((red, "red"), (blue, "blue"), (blue, "red")):
        client.send(f"JOIN {room}")
        assert client.recv().startswith("in ")
    red.send("TELL red hello")
    assert blue.recv() == "hello"
    post(server.http("/shout/all"))
    assert says(red) == says(blue) == {"text": "all"}  # once, though it is in both
    blue.send("LEAVE red")
    blue.send("JOIN green")
    assert blue.recv() == "in blue, green"
    other.send("ALARM 0 red")
    assert red.recv() == "It is time."
    red.send("ID")
    post(server.http("/notes"), f"text=saved&id={red.recv()}")
    assert blue.recv() == other.recv() == "saved"
    token = {"X_Token": "change me too"}
    assert json.loads(post(server.http("/internal/broadcast?to=red"), "out", **token)) == {
        "listeners": 3
    }
    assert red.recv() == "out"
    with pytest.raises(OSError, match="403"):
        post(server.http("/internal/broadcast"), "out")


def test_rooms_list_and_disconnect(serve):
    server = serve(run_page(ROOT / ROOMS)["app"])
    client = server.connect()
    client.send("JOIN red")
    assert client.recv() == "in red"
    with urlopen(server.http("/people"), timeout=10) as response:
        (person,) = json.load(response)
    assert person["rooms"] == ["red"]
    post(server.http(f"/people/{person['id']}/disconnect"))
    assert client.recv_close() == (1008, "asked to leave")


def test_rooms_say_who_is_there(serve):
    server = serve(run_page(ROOT / ROOMS)["app"])
    ada = server.connect("/chat/tea?name=Ada")
    assert says(ada) == {"people": ["Ada"]}
    bob = server.connect("/chat/tea?name=Bob")
    assert says(ada) == says(bob) == {"people": ["Ada", "Bob"]}
    bob.close()
    assert says(ada) == {"people": ["Ada"]}


def test_rooms_of_a_user_are_private(serve):
    app = run_page(ROOT / ROOMS)["app"]
    server = serve(app)
    with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
        server.connect("/inbox")

    def connect(user):
        cookie = app.session_interface.get_signing_serializer(app).dumps({"user": user})
        return server.connect("/inbox", cookie=f"session={cookie}")

    ada, tab, bob, eve = connect("ada"), connect("ada"), connect("bob"), connect("eve")
    bob.send('{"type": "private", "to": "ada", "text": "hi"}')
    hi = {"from": "bob", "to": "ada", "text": "hi"}
    assert says(ada) == says(tab) == says(bob) == hi
    assert says(eve, '{"type": "private", "to": "eve", "text": "me"}')["from"] == "eve"


def test_a_flask_command_has_none_of_the_connections(serve, tmp_path: Path):
    # It is a process of its own; the page says that it has to ask the server.
    app = run_page(ROOT / ROOMS)["app"]
    server = serve(app)
    client = server.connect()
    client.send("JOIN red")
    assert client.recv() == "in red"
    code = (
        "import sys; sys.path.insert(0, 'tests/docs'); import pages\n"
        "page = pages.run_page(pages.ROOT / 'docs/rooms.rst')\n"
        "page['sockets'].broadcast('lost', to='red'); print(len(page['sockets'].clients))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    client.send("JOIN blue")
    assert client.recv() == "in blue, red"


# Streams


def test_streams_say_when_they_end(serve):
    client = serve(run_page(ROOT / STREAMING)["app"]).connect()
    assert hear(client, "PRIMES 12", last="done") == ["2", "3", "5", "7", "11", "done"]


def test_a_generator_is_stopped_by_a_message(serve):
    client = serve(run_page(ROOT / STREAMING)["app"]).connect()
    client.send("ROLL")
    assert client.recv() == "0"
    client.send("STOP")
    while (said := client.recv()).isdecimal():
        pass
    assert re.fullmatch(r"stopped at \d+", said)


def test_progress_comes_before_the_result(serve):
    client = serve(run_page(ROOT / STREAMING)["app"]).connect()
    client.send('{"type": "convert"}')
    assert [says(client)["percent"] for _ in range(4)] == [25, 50, 75, 100]


def test_a_task_lets_the_client_be_heard(serve):
    client = serve(run_page(ROOT / STREAMING)["app"]).connect()
    assert says(client, '{"type": "start", "id": 5}') == {"id": 5, "percent": 1}
    client.send('{"type": "stop", "id": 5}')
    while "percent" in (said := says(client)):
        pass
    assert said == {"id": 5, "stopped": True}


def test_a_loop_ends_when_the_client_leaves(serve):
    page = run_page(ROOT / STREAMING)
    client = serve(page["app"]).connect("/clock")
    assert re.fullmatch(r"\d\d:\d\d:\d\d", client.recv())
    client.close()
    wait_until(lambda: not page["sockets"].clients, "the loop has ended")


def test_a_feed_begins_with_the_first_and_ends_after_the_last(serve, monkeypatch):
    page = run_page(ROOT / STREAMING)
    server = serve(page["app"])
    for _ in range(2):
        first, second = server.connect("/news"), server.connect("/news")
        assert first.recv().startswith("It is ")
        assert second.recv().startswith("It is ")
        first.close()
        second.close()
        wait_until(lambda: not page["running"], "the feed has ended")


def test_a_stream_tidies_up_when_the_client_leaves(serve, log):
    page = run_page(ROOT / STREAMING)
    page["app"].logger.setLevel("INFO")
    client = serve(page["app"]).connect()
    client.send("LEASE")
    assert client.recv() == "100 left"
    (connection,) = page["sockets"].clients
    assert connection.state.leased
    client.close()
    wait_until(lambda: not page["sockets"].clients, "the connection is over")
    assert not connection.state.leased


def test_large_data_travels_in_pieces(serve):
    client = serve(run_page(ROOT / STREAMING)["app"]).connect()
    said = hear(client, "GET zeros", last=bytes(300_000 % 65536))
    assert said[0] == "300000 bytes"
    assert [len(one) for one in said[1:]] == [65536] * 4 + [37856]
    no_file = "there is no such file"
    assert hear(client, "GET no", last=no_file) == [no_file]
    taken = hear(client, "PUT new 5", b"abc", b"de", "GET new", last=b"abcde")
    assert taken == ["5 bytes taken", "5 bytes", b"abcde"]
    given_up = "the upload is given up"
    assert hear(client, "PUT new 5", b"abc", "text", last=given_up) == [given_up]


def test_a_clock_ends_a_search(serve):
    client = serve(run_page(ROOT / STREAMING)["app"]).connect()
    client.send("SEARCH")
    said = client.recv()
    assert said == "looked at 0"
    while said.startswith("looked at"):
        said = client.recv()
    assert said in ("that took too long", "done")


# Testing: what the page shows is run as pytest runs it


def pytest_says(folder: Path, *command: str) -> str:
    """The last line of pytest on the files of *folder*, started by *command*."""
    done = subprocess.run(
        [sys.executable, *command, "-q", "-p", "no:cacheprovider", "-W", "error"]
        + ["-p", "pytest_flask_websockets", "--live-server-wait", "30"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("conftests", "command"),
    [(2, ["-m", "pytest"]), (3, ["-m", "gevent.monkey", "--module", "pytest"])],
    ids=["threads", "gevent"],
)
def test_the_tests_of_the_page_pass(tmp_path: Path, conftests: int, command: list[str]):
    files: dict[str, list[str]] = {}
    for block in blocks(ROOT / "docs/testing.rst"):
        if block.caption:
            files.setdefault(block.caption, []).append(block.text)
    assert len(files["conftest.py"]) == 3  # the last one has the server of gevent
    for name, texts in files.items():
        if name == "conftest.py":
            texts = texts[:conftests]
        (tmp_path / name).write_text("\n\n".join(texts))
    assert "21 passed" in pytest_says(tmp_path, *command)
