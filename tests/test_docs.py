"""What the documentation says is run, and what there is, it says."""

from __future__ import annotations

import ast
import json
import os
import re
import textwrap
import typing as t
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import websocket

import flask_websockets
from flask_websockets import config
from flask_websockets import handshake

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]


def python_blocks(page: Path) -> t.Iterator[tuple[int, str]]:
    """Each ``.. code-block:: python`` of a page with the number of its first line."""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip() != ".. code-block:: python":
            continue
        indent = len(line) - len(line.lstrip())
        start = number + 1
        while lines[start].strip():  # the directive's options
            start += 1
        end = start
        while end < len(lines) and (
            not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent
        ):
            end += 1
        yield start, textwrap.dedent("\n".join(lines[start:end]))


def run_page(page: Path) -> dict[str, t.Any]:
    """Run the blocks of a page in order, in one namespace."""
    namespace: dict[str, t.Any] = {"__name__": page.stem}
    for start, block in python_blocks(page):
        # So that a traceback points at the page.
        code = compile("\n" * start + block, str(page), "exec")
        exec(code, namespace)
    if "db" in namespace:
        _databases.append((namespace["app"], namespace["db"]))
    return namespace


#: The apps and databases of the pages that a test has run.
_databases: list[tuple[t.Any, t.Any]] = []


@pytest.fixture(autouse=True)
def _close_databases():
    yield
    while _databases:
        app, db = _databases.pop()
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page):
    run_page(page)


def test_blocks_are_found():
    # A change of the layout must not let the test above pass by finding nothing.
    names = {page.stem for page in PAGES if list(python_blocks(page))}
    assert names >= {"README", "quickstart", "handlers", "connection", "handshake", "contexts"}


def talk(serve, page: str, path: str, *messages: t.Any) -> list[t.Any]:
    """Connect to the page's app, send all *messages*, and return what comes until a close."""
    client = serve(run_page(ROOT / page)["app"]).connect(path)
    for message in messages:
        client.send_binary(message) if isinstance(message, bytes) else client.send(message)
    client.send_close(1000)
    replies = []
    while True:
        opcode, data = client.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return replies
        replies.append(data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else data)


def test_readme_talks(serve):
    messages = ["ECHO hello", b"\x01ab", "COUNT 3"]
    assert talk(serve, "README.rst", "/", *messages) == ["hello", b"ba", "0", "1", "2"]
    assert talk(serve, "README.rst", "/sum", "1", "2") == ["1", "3"]
    said = talk(serve, "README.rst", "/chat/tea?name=Ada", '{"type": "say", "text": "hi"}')
    assert [json.loads(one) for one in said] == [{"name": "Ada", "text": "hi"}]
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        talk(serve, "README.rst", "/chat/staff")


def test_quickstart_talks(serve):
    assert talk(serve, "docs/quickstart.rst", "/games/7/moves", '"a1"') == [
        '{"game": 7, "moved": "a1"}'
    ]


def test_handlers_talk(serve):
    page = "docs/handlers.rst"
    assert talk(
        serve, page, "/games/7", "MOVE 1,2", "MOVE 1,2 ah", "PING", "WHERE", "NOTE a\nb", b"\x01ab"
    ) == [
        "Welcome to game 7.",
        "game 7: 1 across, 2 down, no comment",
        "game 7: 1 across, 2 down, ah",
        "PONG",
        "You are in game 7.",
        "2 lines",
        "2 bytes",
    ]
    messages = ['{"type": "join", "version": 2}', '{"version": true}', "STATE", "COUNT 2"]
    assert talk(serve, page, "/games/7", *messages, 10_001 * "x")[1:] == [
        '{"players": 1, "type": "joined"}',
        '{"game":7,"players":1}\n',
        "0",
        "1",
        "That is too long.",
    ]
    # The loop: its first word, an answer to it, its reply, and the hooks around it.
    client = serve(run_page(ROOT / page)["app"]).connect("/games/7/countdown")
    assert client.recv() == "Welcome to game 7."
    assert client.recv() == "game 7 begins in 3"
    client.send("now")
    assert [client.recv(), client.recv()] == ["go", "Goodbye."]
    assert client.recv_close() == (1000, "")


def test_connection_talks(serve):
    page = "docs/connection.rst"
    messages = ["JOIN red", "JOIN blue", "DELETE", "yes", "REPORT"]
    assert talk(serve, page, "/", *messages) == [
        "in red",
        "in blue, red",
        "Are you sure?",
        "deleted",
        "this may take a while",
        '{"total": 42}',
    ]
    server = serve(run_page(ROOT / page)["app"])
    red, other = server.connect(), server.connect()
    red.send("JOIN red")
    assert red.recv() == "in red"
    other.send("TELL red hello")
    assert red.recv() == "hello"
    other.send("QUIT")
    assert other.recv_close() == (4000, "as you wish")


def test_handshake_refuses(serve):
    server = serve(run_page(ROOT / "docs/handshake.rst")["app"])
    for path, status in (("/rooms/staff", 403), ("/rooms/closed", 410), ("/private", 401)):
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            server.connect(path)
        assert caught.value.status_code == status
    with pytest.raises(websocket.WebSocketBadStatusException):
        server.connect("/rooms/tea", origin="http://elsewhere.example")
    client = server.connect("/rooms/tea", subprotocols=["chat.v1", "chat.v2"])
    client.send("VERSION")
    assert client.recv() == "chat.v2"
    with pytest.raises(HTTPError) as plain:
        urlopen(server.http("/rooms/tea"), timeout=10)
    with plain.value as response:
        assert response.status == 426
        assert json.load(response)["error"].startswith("This URL serves WebSockets only")


def test_contexts_talk(serve):
    page = "docs/contexts.rst"
    assert talk(serve, page, "/?name=Ada", "NEXT", "NEXT") == ["Ada: 1", "Ada: 2"]
    client = serve(run_page(ROOT / page)["app"]).connect()
    client.send("WORK")
    assert {client.recv(), client.recv()} == {"working on it", "499500 is the sum"}
    client.send("NOTE a")
    client.send("NOTE b")
    assert [client.recv(), client.recv()] == ["1 notes", "2 notes"]
    loop = serve(run_page(ROOT / page)["app"]).connect("/count")
    loop.send("how many")
    assert loop.recv() == "0 notes"


def test_readme_renders():
    try:
        import pygments  # noqa: F401  (docutils colours code with it, or warns)
        from docutils.core import publish_string
        from docutils.writers import get_writer_class
    except ImportError:
        if os.environ.get("TESTS_REQUIRE_ALL"):
            raise
        pytest.skip("docutils is not installed")
    publish_string(
        (ROOT / "README.rst").read_text(),
        writer=get_writer_class("html5")(),
        settings_overrides={"halt_level": 2, "report_level": 2, "file_insertion_enabled": False},
    )


def test_readme_links_exist():
    for target in re.findall(r"<((?:docs/)?\w+\.rst)>`_", (ROOT / "README.rst").read_text()):
        assert (ROOT / target).exists(), target


def test_api_names_all():
    words = set(re.findall(r"\w+", (ROOT / "docs/api.rst").read_text()))
    assert not set(flask_websockets.__all__) - words


def test_all_is_what_can_be_imported():
    for name in flask_websockets.__all__:
        assert getattr(flask_websockets, name) is not None


def test_configuration_names_every_key():
    page = (ROOT / "docs/configuration.rst").read_text()
    keys = {config.PREFIX + name.upper() for name in config.Config.__dataclass_fields__}
    assert set(re.findall(r"\bWEBSOCKETS_[A-Z_]+[A-Z]\b", page)) == keys


def test_handshake_page_has_every_sentence():
    page = " ".join((ROOT / "docs/handshake.rst").read_text().split())
    tree = ast.parse(Path(handshake.__file__).read_text())
    sentences = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("BadHandshake", "UpgradeRequired", "ServerUnsupported")
        for part in ast.walk(node.args[0])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    assert len(sentences) >= 10
    for sentence in sentences:
        assert " ".join(sentence.value.split()) in page


def test_readme_tests_as_ci_does():
    line = next(
        line.strip()
        for line in (ROOT / "README.rst").read_text().splitlines()
        if line.endswith("-m pytest")
    )
    assert line in (ROOT / ".ci/run").read_text()
