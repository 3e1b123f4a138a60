"""The frame leads to every page and example; the handshake's and contexts' pages hold."""

from __future__ import annotations

import re
from urllib.request import Request
from urllib.request import urlopen

import pytest
import websocket
from pages import PAGES
from pages import ROOT
from pages import run_page

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.rst").read_text()
#: The pages in the toctrees of the landing page.
LISTED = re.findall(r"(?m)^   (?:.* <)?([\w/-]+)>?$", INDEX[INDEX.index(".. toctree::") :])


def test_every_page_is_in_one_toctree():
    pages = [str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if DOCS in page.parents]
    assert sorted(LISTED) == sorted(set(pages) - {"index"})


def test_the_landing_page_leads_to_every_page():
    linked = set(re.findall(r":doc:`(?:.* <)?([\w/-]+)>?`", INDEX))
    assert linked == set(LISTED)


def test_every_example_is_in_the_gallery():
    page = (DOCS / "examples.rst").read_text()
    for program in (ROOT / "examples").glob("*/*.py"):
        path = program.relative_to(ROOT)
        if program.name == "app.py" or "__main__" in program.read_text():
            assert f"``python {path}``" in page
        assert f"literalinclude:: ../{path}" in page or "first" in path.parts, path
    for image in (DOCS / "images").glob("*.png"):
        if (ROOT / "examples" / image.stem).exists():
            assert f":img-top: images/{image.name}" in page


def test_images_are_there():
    for page in PAGES:
        for name in re.findall(r"(?:image::|figure::|:img-top:) (\S+)", page.read_text()):
            assert (page.parent / name).exists(), f"{page}: {name}"


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"<docs/([\w/-]+)\.rst>`_", (ROOT / "README.rst").read_text()))
    assert linked == set(LISTED) - {"changes"}


# The handshake and authentication


def refused(server, path: str, **options) -> int:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        server.connect(path, **options)
    return caught.value.status_code


def test_tokens(serve):
    page = run_page(DOCS / "handshake.rst")
    server = serve(page["app"])
    token = page["tokens"].dumps("Ada")
    # In a subprotocol, which is not the one that is answered.
    client = server.connect("/api", subprotocols=["api.v1", f"token.{token}"])
    assert client.subprotocol == "api.v1"
    client.send("hello")
    assert client.recv() == "Ada says hello"
    # In a header field.
    client = server.connect("/api", header={"Authorization": f"Bearer {token}"})
    client.send("hello")
    assert client.recv() == "Ada says hello"
    # In the first message.
    assert talk_to(server, "/late", token, "hello") == ["Ada says hello"]


def test_tokens_that_are_wrong(serve):
    page = run_page(DOCS / "handshake.rst")
    server = serve(page["app"])
    assert refused(server, "/api") == 401
    assert refused(server, "/api", subprotocols=["api.v1", "token.wrong"]) == 401
    assert refused(server, "/api", header={"Authorization": "Bearer wrong"}) == 401
    client = server.connect("/late")
    client.send("wrong")
    assert client.recv_close() == (4401, "no valid token")


def talk_to(server, path: str, *messages: str) -> list[str]:
    client = server.connect(path)
    for message in messages:
        client.send(message)
    return [client.recv() for _ in messages[1:]]


# Sessions, users and databases


def test_teardown_and_sessions(serve):
    page = run_page(DOCS / "contexts.rst")
    server = serve(page["app"])
    client = server.connect()
    client.send("VERSION")
    assert re.fullmatch(r"[\d.]+", client.recv())
    # What a message changes, the connection sees and the browser does not.
    client.send("COLOUR red")
    client.send("COLOUR?")
    assert client.recv() == "red"
    assert talk_to(server, "/", "", "COLOUR?") == ["none"]
    # What a view changes, later connections see.
    with urlopen(Request(server.http("/colour/blue"), method="POST"), timeout=10) as response:
        cookie = response.headers["Set-Cookie"].partition(";")[0]
    client = server.connect("/", cookie=cookie)
    client.send("COLOUR?")
    assert client.recv() == "blue"


def test_a_user_who_is_locked_or_logs_out(serve, tmp_path):
    # In memory, all threads have one connection to the database, and its transaction.
    page = run_page(DOCS / "contexts.rst", '"sqlite://"', f'"sqlite:///{tmp_path}/users"')
    app, db, User = page["app"], page["db"], page["User"]

    @app.post("/login/<int:id>")
    def login(id):
        page["login_user"](db.session.get(User, id))
        return "", 204

    with app.app_context():
        db.session.add_all([User(name="Ada"), User(name="Bob")])
        db.session.commit()
    server = serve(app)
    assert refused(server, "/members") == 401
    cookies, clients = [], []
    for id, name in ((1, "Ada"), (2, "Bob")):
        with urlopen(Request(server.http(f"/login/{id}"), method="POST"), timeout=10) as response:
            cookies.append(response.headers["Set-Cookie"].partition(";")[0])
        clients.append(server.connect("/members", cookie=cookies[-1]))
        clients[-1].send("hello")
        assert clients[-1].recv() == f"{name}: hello"
    with app.app_context():
        db.session.get(User, 1).locked = True
        db.session.commit()
    clients[0].send("hello")
    assert clients[0].recv_close() == (4401, "logged out")
    urlopen(
        Request(server.http("/logout"), method="POST", headers={"Cookie": cookies[1]}), timeout=10
    ).close()
    assert clients[1].recv_close() == (4401, "logged out")
