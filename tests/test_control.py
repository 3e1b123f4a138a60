from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from pathlib import Path

import pytest
from flask import Flask
from support import wait_until

from flask_websockets import control
from flask_websockets import WebSockets
from flask_websockets import ws

THREAD = "flask-websockets-control"

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def app(app: Flask) -> Flask:
    app.config["WEBSOCKETS_CONTROL"] = True
    return app


@pytest.fixture
def folder(runtime: Path) -> Path:
    return runtime / "flask-websockets"


@pytest.fixture
def chat(app: Flask) -> WebSockets:
    chat = WebSockets(app, path="/chat/<room>", endpoint="chat")

    @chat.on_open
    def enter(room: str) -> str:
        ws.join(room)
        return ws.id

    return chat


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def ask(app: Flask, **request: t.Any) -> dict[str, t.Any]:
    """The answer of the only process, which is this one."""
    [(process, answer)] = control.ask(app, request)
    assert process == os.getpid()
    return answer


def talk(folder: Path, data: bytes) -> bytes:
    """What the only socket answers to *data*, up to its end."""
    [name] = names(folder)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(folder / name))
        answer = b""
        with contextlib.suppress(ConnectionError):  # it did not read all of it
            sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65536):
                answer += piece
    return answer


# Opening


def test_the_first_connection_opens_it_for_its_user_only(app, sockets, serve, folder) -> None:
    server = serve(app)
    assert names(folder) == []
    for _ in range(2):
        server.connect()
    [name] = names(folder)
    assert name.startswith(f"{control.identify(app)}-{os.getpid()}-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_refused_handshake_opens_none(app, sockets, serve, folder) -> None:
    sockets.before_open(lambda: ("no", 403))
    with pytest.raises(Exception, match="403"):
        serve(app).connect()
    assert names(folder) == []


def test_the_configuration_switches_it_off(app, serve, folder) -> None:
    app.config["WEBSOCKETS_CONTROL"] = False
    WebSockets(app)
    serve(app).connect()
    assert names(folder) == []
    assert control.ask(app, {"command": "clients"}) == []


def test_an_app_that_is_tested_has_none(app, sockets, serve, folder) -> None:
    app.testing = True
    serve(app).connect()
    assert names(folder) == []


def test_it_does_not_keep_the_app(folder) -> None:
    app = Flask("tests")
    WebSockets(app)
    control.open_control(app, app.extensions["websockets"])
    before = [thread for thread in threading.enumerate() if thread.name == THREAD]
    assert len(names(folder)) == 1
    del app
    gc.collect()
    assert names(folder) == []
    wait_until(lambda: not any(thread.is_alive() for thread in before[-1:]), "its thread ends")


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_folder_that_is_not_ours_alone_is_not_used(
    app, sockets, serve, log, folder, runtime, monkeypatch, kind
) -> None:
    # Neither the one for the user's sockets nor that for temporary files.
    temporary = runtime / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    second = temporary / f"flask-websockets-{os.geteuid()}"
    for one in (folder, second):
        if kind == "open":
            one.mkdir()
            one.chmod(0o750)
        elif kind == "link":
            one.symlink_to(temporary)
        else:
            one.touch()
    client = serve(app).connect()
    assert client.connected
    [record] = log
    assert record.getMessage() == (
        "Commands such as flask websockets clients cannot reach this process: [Errno 1] This "
        f"must be a folder of mode 0700 that belongs to you: '{second}'. "
        "WEBSOCKETS_CONTROL = False leaves them out."
    )
    assert control.ask(app, {"command": "clients"}) == []


def test_without_a_runtime_folder_it_is_among_temporary_files(
    app, sockets, serve, runtime, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    serve(app).connect()
    assert len(names(runtime / f"flask-websockets-{os.geteuid()}")) == 1
    wait_until(lambda: ask(app, command="clients")["total"] == 1, "it is listed")


def test_a_folder_whose_name_is_too_long_is_left_out(
    app, sockets, serve, runtime, monkeypatch
) -> None:
    long = runtime / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    serve(app).connect()
    assert len(names(runtime / f"flask-websockets-{os.geteuid()}")) == 1


def test_sockets_of_dead_processes_are_removed(app, sockets, serve, folder) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder.mkdir(0o700)

    def leave(name: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(folder / name))

    other, own = f"00000000-{dead.pid}-aa.sock", f"{control.identify(app)}-{dead.pid}-aa.sock"
    leave(own)
    assert control.ask(app, {"command": "clients"}) == []
    assert names(folder) == []
    leave(other)
    leave(own)
    serve(app).connect()
    assert len(names(folder)) == 1
    wait_until(lambda: ask(app, command="clients")["total"] == 1, "it is listed")


def test_a_server_and_its_commands_find_the_same_name(tmp_path) -> None:
    (tmp_path / "hello.py").write_text(
        "from flask import Flask\nfrom flask_websockets.control import identify\n"
        "app = Flask(__name__)\nprint(identify(app))\n"
    )
    run = [
        subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        for arguments in (["hello.py"], ["-c", "import hello"])
    ]
    assert run[0].stdout == run[1].stdout != ""
    assert control.identify(Flask("hello", root_path=str(tmp_path))) == run[0].stdout.strip()
    assert control.identify(Flask("other", root_path=str(tmp_path))) != run[0].stdout.strip()


# Commands


def test_clients_are_described(app, chat, serve) -> None:
    client = serve(app).connect("/chat/red?token=secret")
    id = client.recv()
    answer = ask(app, command="clients")
    [one] = answer["clients"]
    assert answer["total"] == 1
    assert one.pop("since") == pytest.approx(time.time(), abs=60)
    assert one == {
        "id": id,
        "endpoint": "chat",
        "path": "/chat/red",
        "address": "127.0.0.1",
        "rooms": ["red"],
        "latency": None,
    }


def test_a_list_that_is_too_long_is_cut(app, chat, serve, monkeypatch) -> None:
    monkeypatch.setattr(control, "_MAX_LIST", 1)
    server = serve(app)
    for room in ("red", "blue"):
        server.connect(f"/chat/{room}").recv()
    answer = ask(app, command="clients")
    assert (len(answer["clients"]), answer["total"]) == (1, 2)


def test_a_broadcast_goes_to_all_to_rooms_or_to_an_endpoint(app, sockets, chat, serve) -> None:
    server = serve(app)
    plain, red, blue = (server.connect(path) for path in ("/", "/chat/red", "/chat/blue"))
    sockets.on_message(lambda message: message)
    plain.send("there")
    for client in (plain, red, blue):
        client.recv()  # it is open

    def broadcast(text: str, to: list[str] | None = None, endpoint: str | None = None) -> int:
        return int(ask(app, command="broadcast", text=text, to=to, endpoint=endpoint)["sent"])

    assert broadcast("all") == 3
    assert broadcast("red", ["red", "green"]) == 1
    assert broadcast("chat", None, "chat") == 2
    assert broadcast("nobody", ["red"], "websocket") == 0
    assert broadcast("end") == 3
    assert [plain.recv() for _ in range(2)] == ["all", "end"]
    assert [red.recv() for _ in range(4)] == ["all", "red", "chat", "end"]
    assert [blue.recv() for _ in range(3)] == ["all", "chat", "end"]


def test_a_connection_is_closed_by_its_id(app, chat, serve) -> None:
    server = serve(app)
    client, other = server.connect("/chat/red"), server.connect("/chat/red")
    id = client.recv()
    other.recv()
    request = {"command": "close", "code": 4001, "reason": "bye"}
    assert ask(app, id=id, **request) == {"closed": True}
    assert client.recv_close() == (4001, "bye")
    wait_until(lambda: ask(app, command="clients")["total"] == 1, "it is gone")
    assert ask(app, id=id, **request) == {"closed": False}


@pytest.mark.parametrize("serve", ["threads"], indirect=True)
def test_it_answers_while_a_command_waits(app, chat, serve) -> None:
    hold, held = threading.Event(), threading.Event()

    @chat.before_close
    def wait() -> None:
        held.set()
        assert hold.wait(10)

    server = serve(app)
    id = server.connect("/chat/red").recv()
    closer = threading.Thread(
        target=ask, args=(app,), kwargs={"command": "close", "id": id, "code": 1000, "reason": ""}
    )
    closer.start()
    assert held.wait(10)
    assert ask(app, command="clients")["total"] == 1
    hold.set()
    closer.join(10)
    assert not closer.is_alive()


# Those who do not behave


@pytest.fixture
def opened(app: Flask, sockets: WebSockets, folder: Path) -> Path:
    """The folder, with the app's socket in it."""
    control.open_control(app, app.extensions["websockets"])
    return folder


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{\n", "JSONDecodeError: "),
        (b"\xff\n", "UnicodeDecodeError: "),
        (b"[]\n", "TypeError: "),
        (b"{}\n", "KeyError: 'command'"),
        (b'{"command": "exec"}\n', "ValueError: This server knows no command 'exec'."),
        (b'{"command": "close", "id": []}\n', "KeyError: 'code'"),
    ],
)
def test_what_is_no_command_gets_an_error(opened: Path, line: bytes, error: str) -> None:
    assert json.loads(talk(opened, line))["error"].startswith(error)
    assert json.loads(talk(opened, b'{"command": "clients"}\n')) == {"clients": [], "total": 0}


def test_a_line_without_an_end_is_read_up_to_the_limit(opened, monkeypatch) -> None:
    monkeypatch.setattr(control, "MAX_REQUEST", 1 << 16)
    answer = talk(opened, b'{"command": "' + b"x" * (1 << 20))
    assert answer == b"" or b"JSONDecodeError" in answer


def test_who_writes_nothing_is_dropped(opened, monkeypatch) -> None:
    monkeypatch.setattr(control, "_REQUEST_TIME", 0.05)
    assert talk(opened, b'{"command"') == b""
    assert talk(opened, b"") == b""


def test_a_process_that_does_not_answer_is_told_of(app, folder, monkeypatch) -> None:
    monkeypatch.setattr(control, "ANSWER_TIME", 0.05)
    folder.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / f"{control.identify(app)}-1234-aa.sock"))
        deaf.listen()
        [(process, answer)] = control.ask(app, {"command": "clients"})
    assert (process, answer) == (1234, {"error": "nothing came within 10 seconds"})


CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    try:
        sock.connect(sys.argv[1])
        sock.sendall(b'{"command": "clients"}\\n')
        print(sock.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_not_heard(opened: Path, runtime: Path) -> None:
    runtime.chmod(0o755)
    [name] = names(opened)

    def connect(user: int) -> str:
        result = subprocess.run(
            [sys.executable, "-I", "-c", CONNECT, str(opened / name), str(user)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return result.stdout.strip() + result.stderr

    assert connect(0) == """b'{"clients": [], "total": 0}\\n'"""
    assert connect(65534) == "PermissionError"
    # Should the modes ever be changed, it is still asked who calls.
    opened.chmod(0o777)
    (opened / name).chmod(0o777)
    assert connect(65534) in ("b''", "BrokenPipeError", "ConnectionResetError")
    assert connect(0) == """b'{"clients": [], "total": 0}\\n'"""


# Forks, and the end

FORK = """
import sys
if sys.argv[1] == "patched":
    from gevent import monkey
    monkey.patch_all()
import os, socket, time
from flask import Flask
from flask_websockets import control, WebSockets
app = Flask("tests")
WebSockets(app)
state = app.extensions["websockets"]
state.open_control(app)
time.sleep(0.01)  # where it is a greenlet, it has to begin
folder = os.environ["XDG_RUNTIME_DIR"] + "/flask-websockets"
assert len(os.listdir(folder)) == 1
child = os.fork()
if child == 0:
    state.open_control(app)
    time.sleep(0.01)
    assert len(os.listdir(folder)) == 2
    answers = control.ask(app, {"command": "clients"})
    assert sorted(pid for pid, _ in answers) == sorted([os.getpid(), os.getppid()]), answers
    assert all(answer == {"clients": [], "total": 0} for _, answer in answers), answers
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
[(pid, answer)] = control.ask(app, {"command": "clients"})
assert (pid, answer) == (os.getpid(), {"clients": [], "total": 0})
if sys.argv[1] == "patched":
    import gevent
    assert gevent.wait(timeout=20)  # nothing keeps the loop going
print("done")
"""


@pytest.mark.parametrize("kind", ["plain", "patched"])
def test_each_process_has_its_own_until_it_ends(kind: str, runtime: Path, folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK, kind],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (result.stdout, result.stderr) == ("done\n", "")
    assert names(folder) == []
