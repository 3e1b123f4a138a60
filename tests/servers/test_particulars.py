"""What only one server does: reloads, proxies, handlers with a mind of their own."""

from __future__ import annotations

import pathlib
import re
import signal
import sys
import textwrap
import typing as t

import pytest
from harness import Certificate
from harness import COMMANDS
from harness import HANDSHAKE
from harness import HERE
from harness import needs
from harness import open_raw
from harness import Process
from harness import read_to_end

Start = t.Callable[..., Process]

CANNOT = (
    "cannot serve WebSockets as it runs here: it lends applications no socket, or serves "
    "one request at a time. These can: gevent's pywsgi (with or without gevent-websocket's "
    "WebSocketHandler), gunicorn (worker classes gthread, gevent and gevent_pywsgi), "
    "flask run and app.run()."
)

RELOADED = """
from flask import Flask
from flask_websockets import WebSockets

app = Flask(__name__)
sockets = WebSockets(app)

@sockets.on_message
def answer(message):
    return "VERSION" if message else 1 / 0
"""
RUN_RELOADED = """
import sys
app.run(port=int(sys.argv[1]), debug=True)
"""


@pytest.mark.parametrize(
    "command",
    [["-m", "flask", "--app", "reloaded.py", "--debug", "run", "--port"], ["reloaded.py"]],
    ids=["flask run", "app.run"],
)
def test_a_change_reloads_the_server_while_sockets_are_open(
    start: Start, tmp_path: pathlib.Path, command: list[str]
):
    source = tmp_path / "reloaded.py"
    run = "" if "flask" in command else RUN_RELOADED
    source.write_text(RELOADED.replace("VERSION", "first") + run)
    server = start([sys.executable, *command, "PORT"], cwd=tmp_path)
    client = server.connect()
    client.send("hello")
    assert client.recv() == "first"

    source.write_text(RELOADED.replace("VERSION", "the second") + run)
    assert client.recv_close() == (1012, "")
    client.shutdown()
    server.wait_for_log("Restarting with")

    def second() -> bool:
        try:
            client = server.connect()
        except OSError:
            return False
        client.send("hello")
        assert client.recv() == "the second"
        client.close()
        return True

    server.wait_for(second, "the new code answers")
    assert "Traceback" not in server.log()


def test_an_exception_shows_in_the_terminal_of_flask_run(start: Start, tmp_path: pathlib.Path):
    source = tmp_path / "failing.py"
    source.write_text(RELOADED)
    server = start(
        [sys.executable, "-m", "flask", "--app", str(source), "--debug", "run", "--port", "PORT"]
    )
    client = server.connect()
    client.send("")
    assert client.recv_close() == (1011, "")
    client.shutdown()
    server.wait_for_log("ZeroDivisionError: division by zero")
    assert "in answer" in server.log()


def test_ctrl_c_ends_pywsgi_with_sockets_open(start: Start):
    server = start(COMMANDS["pywsgi"])
    client = server.connect()
    client.send("hello")
    assert client.recv() == "hello"
    # gevent raises the interrupt in whatever runs: wait until the server only waits.
    status = pathlib.Path(f"/proc/{server.process.pid}/stat")
    server.wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "S", "it sleeps")
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(10) == 0
    assert "Traceback" not in server.log()
    client.shutdown()


def test_a_pool_of_pywsgi_that_stops_says_1001(start: Start, tmp_path: pathlib.Path):
    source = tmp_path / "stopping.py"
    source.write_text(
        textwrap.dedent(f"""\
        import signal, sys
        sys.path.insert(0, {str(HERE)!r})
        import gevent
        from app import app
        from gevent import pywsgi
        from gevent.pool import Pool
        server = pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, spawn=Pool())
        gevent.signal_handler(signal.SIGTERM, server.stop, 0.1)
        server.serve_forever(stop_timeout=0.1)
        """)
    )
    server = start([sys.executable, str(source), "PORT"])
    client = server.connect()
    client.send("hello")
    assert client.recv() == "hello"
    server.process.send_signal(signal.SIGTERM)
    assert client.recv_close() == (1001, "")
    client.shutdown()
    assert server.process.wait(10) == 0
    assert "closed 1001 ''" in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("kind", ["pywsgi", "werkzeug"])
def test_a_monkey_patched_program(start: Start, tmp_path: pathlib.Path, kind: str):
    source = tmp_path / "patched.py"
    source.write_text(
        textwrap.dedent("""\
        from gevent import monkey
        monkey.patch_all()
        import sys, threading, time
        import gevent
        from flask import Flask
        from flask_websockets import WebSockets, ws

        app = Flask(__name__)
        sockets = WebSockets(app)
        waiting = []

        @sockets.on_message("MEET")
        def meet():
            # Each waits for the other: one that blocks the process would wait for ever.
            waiting.append(ws.id)
            while len(waiting) < 2:
                time.sleep(0.001)
            return "met"

        @sockets.on_message("NATIVE")
        def native():
            connection = ws._get_current_object()
            def work():
                connection.send("from a native thread")
                sockets.broadcast("to all")
            gevent.get_hub().threadpool.apply(work)

        @sockets.on_message("THREAD")
        def thread():
            thread = threading.Thread(target=sockets.broadcast, args=["from a thread"])
            thread.start()
            thread.join()

        port = int(sys.argv[1])
        if sys.argv[2] == "werkzeug":
            app.run(port=port)
        else:
            from gevent import pywsgi
            pywsgi.WSGIServer(("127.0.0.1", port), app).serve_forever()
        """)
    )
    server = start([sys.executable, str(source), "PORT", kind])
    one, two = server.connect(), server.connect()
    one.send("MEET")
    two.send("MEET")
    assert (one.recv(), two.recv()) == ("met", "met")
    one.send("NATIVE")
    assert (one.recv(), one.recv(), two.recv()) == ("from a native thread", "to all", "to all")
    one.send("THREAD")
    assert (one.recv(), two.recv()) == ("from a thread", "from a thread")
    one.close()
    two.close()
    assert "Traceback" not in server.log()


def test_under_gevent_websocket_another_app_gets_its_own_upgrade(
    start: Start, tmp_path: pathlib.Path
):
    source = tmp_path / "both.py"
    source.write_text(
        textwrap.dedent("""\
        import sys
        from flask import Flask
        from flask_websockets import WebSockets
        from gevent import pywsgi
        from geventwebsocket.handler import WebSocketHandler

        WebSockets(Flask(__name__))

        def theirs(environ, start_response):
            socket = environ.get("wsgi.websocket")
            if socket is None:
                start_response("200 OK", [("Content-Length", "0")])
                return []
            socket.send("theirs: " + socket.receive())
            return []

        address = ("127.0.0.1", int(sys.argv[1]))
        pywsgi.WSGIServer(address, theirs, handler_class=WebSocketHandler).serve_forever()
        """)
    )
    server = start([sys.executable, str(source), "PORT"])
    client = server.connect()
    client.send("hello")
    assert client.recv() == "theirs: hello"
    client.shutdown()


def test_gevent_websocket_says_101_before_an_app_that_is_hidden_from_it(start: Start):
    server = start([*COMMANDS["geventwebsocket"][:-2], "geventwebsocket-hidden", "PORT"])
    client = server.connect("/?name=ada")
    client.send("hello")
    assert client.recv() == "hello"
    client.close()
    server.wait_for_log("closed 1000")

    with open_raw(server, "/guarded") as sock:
        closing = read_to_end(sock)
    assert closing == b"\x88\x12\x03\xf0401 UNAUTHORIZED"
    assert "Traceback" not in server.log()


def test_the_gunicorn_worker_of_gevent_websocket(start: Start):
    command = [*COMMANDS["gunicorn-gevent"]]
    command[command.index("gevent")] = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"
    server = start(command)
    client = server.connect(subprotocols=["v1"])
    assert client.getheaders()["sec-websocket-protocol"] == "v1"
    client.send("hello")
    assert client.recv() == "hello"
    client.close()
    server.wait_for_log("closed 1000")
    assert "Traceback" not in server.log()


def test_a_server_that_lends_no_socket_is_named(start: Start, tmp_path: pathlib.Path):
    source = tmp_path / "plain.py"
    source.write_text(
        textwrap.dedent(f"""\
        import sys
        sys.path.insert(0, {str(HERE)!r})
        from wsgiref.simple_server import make_server
        from app import app
        make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
        """)
    )
    server = start([sys.executable, str(source), "PORT"])
    status, _, body = server.request("/guarded?key=1", HANDSHAKE)
    assert (status, body) == (501, f"WSGIServer/0.2 {CANNOT}\n")
    server.wait_for_log(f"WSGIServer/0.2 {CANNOT}")
    assert server.request("/")[::2] == (200, "a page")


def test_the_sync_worker_of_gunicorn_is_named(start: Start):
    command = [*COMMANDS["gunicorn-gevent"]]
    command[command.index("gevent")] = "sync"
    server = start(command)
    status, _, body = server.request("/guarded?key=1", HANDSHAKE)
    assert status == 501
    assert re.fullmatch(rf"gunicorn/[0-9.]+ {re.escape(CANNOT)}\n", body)


NGINX = """\
daemon off;
pid FOLDER/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    server {
        listen 127.0.0.1:LISTEN ssl;
        ssl_certificate CERTIFICATE;
        ssl_certificate_key KEY;
        location / {
            proxy_pass http://127.0.0.1:BACKEND;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
        }
    }
}
"""


@pytest.mark.parametrize("name", ["pywsgi", "gunicorn-gevent", "gunicorn-gthread"])
def test_behind_nginx_with_tls(
    start: Start, tmp_path: pathlib.Path, certificate: Certificate, name: str
):
    nginx = needs("nginx")
    backend = start(COMMANDS[name], environ={"PROXY": "1"})
    folder = tmp_path / "nginx"
    folder.mkdir()
    text = NGINX.replace("FOLDER", str(folder)).replace("BACKEND", str(backend.port))
    for key in certificate.paths:
        text = text.replace(key, certificate.paths[key])

    # nginx reads its port from a file, so the file is written once the port is known.
    launcher = [
        sys.executable,
        "-c",
        "import os, sys; path, port, *command = sys.argv[1:];"
        "text = open(path).read().replace('LISTEN', port);"
        "open(path, 'w').write(text); os.execv(command[0], command)",
        str(folder / "nginx.conf"),
        "PORT",
        nginx,
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
    ]
    (folder / "nginx.conf").write_text(text)
    front = start(launcher, tls=certificate.context)

    client = front.connect("/?name=ada")
    client.send("URL")
    assert client.recv() == f"wss://localhost:{front.port}/"
    client.send("VISITS")
    assert client.recv() == "1 ada"
    client.close()
    backend.wait_for_log("closed 1000")
    assert front.request("/guarded", HANDSHAKE)[0] == 401
    assert front.request("/guarded")[0] == 426
