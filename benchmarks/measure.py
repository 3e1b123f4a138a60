"""One cell of the table: a server and a load generator, each on a core of its own.

Knows processes and workloads. Knows nothing of rounds, medians and tables.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
FLAGS = ["-O3", "-march=native", "-Wall", "-Wextra"]
PROGRAMS = {"load": ["-lz"], "echo": []}
START_TIMEOUT = 15.0
IDLE_TIMEOUT = 120.0


class Failed(Exception):
    """A cell that has no figure; says why."""


@dataclass(frozen=True)
class Work:
    """What a server is made to do.

    :param unit: what the figure counts.
    :param load: options of the load generator.
    :param patterns: how many patterns the server has; only ours is measured with them.
    :param brief: what takes the place of options in a quick check.
    """

    title: str
    unit: str
    load: tuple[str, ...]
    path: str = "echo"
    patterns: int = 0
    brief: tuple[str, ...] = ()

    @property
    def lower_is_better(self) -> bool:
        return self.is_idle

    @property
    def is_idle(self) -> bool:
        return "idle" in self.load

    @property
    def deflates(self) -> bool:
        return "--deflate" in self.load


def _pattern_work(patterns: int) -> Work:
    number = "1 pattern" if patterns == 1 else f"{patterns:,} patterns"
    return Work(
        f"echo 32 B, 100 connections, {number}",
        "messages/s",
        ("--connections", "100", "--size", "32", "--prefix", "COMMAND999 "),
        "patterns",
        patterns,
    )


WORKS = {
    "a": Work("echo 32 B, 1 connection", "messages/s", ("--size", "32")),
    "b": Work("echo 32 B, 100 connections", "messages/s", ("--connections", "100", "--size", "32")),
    "c": Work(
        "echo 32 B, 100 connections, 16 in flight",
        "messages/s",
        ("--connections", "100", "--window", "16", "--size", "32"),
    ),
    "d": Work(
        "echo 64 KiB binary, 10 connections",
        "messages/s",
        ("--connections", "10", "--size", "65536", "--binary"),
    ),
    "e": Work(
        "broadcast 64 B to 1,001 receivers",
        "deliveries/s",
        ("--mode", "broadcast", "--connections", "1001", "--window", "4", "--size", "64"),
        "broadcast",
    ),
    "f": Work(
        "memory of 5,000 idle connections",
        "KiB each",
        ("--mode", "idle", "--connections", "5000", "--size", "32"),
        brief=("--connections", "200"),
    ),
    "g": Work(
        "connect, echo, close, 50 at a time",
        "connections/s",
        ("--mode", "connect", "--connections", "50", "--size", "32"),
    ),
    "z": Work(
        "echo 1 KiB JSON compressed, 100 connections",
        "messages/s",
        ("--connections", "100", "--size", "1024", "--deflate"),
    ),
    "p1": _pattern_work(1),
    "p1000": _pattern_work(1000),
}


@dataclass(frozen=True)
class Server:
    """What is measured.

    :param command: what starts it, with PORT and PATTERNS where these go.
    :param needs: the modules that must be installed.
    :param lacks: the workloads that it cannot do.
    :param distribution: the name of its package, to ask for the version.
    """

    title: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    distribution: str | None = None
    lacks: frozenset[str] = frozenset({"p1", "p1000"})
    environ: tuple[tuple[str, str], ...] = ()
    ours: bool = False
    socketio: bool = False

    @property
    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / "servers" / f"{name}.py"), "PORT", *arguments)


_OURS = _script("ours", "PATTERNS")
_GUNICORN = (
    sys.executable, "-m", "gunicorn", "--chdir", str(HERE / "servers"), "-k", "gevent", "-w", "1",
    "--worker-connections", "10000", "-b", "127.0.0.1:PORT", "ours:create_app(PATTERNS)",
)  # fmt: skip
_NO_DEFLATE = frozenset({"z", "p1", "p1000"})

SERVERS = {
    "ours": Server("Flask-WebSockets", _OURS, lacks=frozenset(), ours=True),
    "ours-gevent-websocket": Server(
        "… with gevent-websocket's handler",
        _script("ours_gevent_websocket"),
        ("geventwebsocket",),
        ours=True,
    ),
    "ours-gunicorn": Server(
        "… on gunicorn -k gevent",
        _GUNICORN,
        ("gunicorn",),
        distribution="gunicorn",
        lacks=frozenset(),
        ours=True,
    ),
    "ours-pure": Server(
        "… in pure Python",
        _OURS,
        lacks=frozenset(),
        environ=(("PURE_FLASK_WEBSOCKETS", "1"),),
        ours=True,
    ),
    "gevent-websocket": Server(
        "gevent-websocket",
        _script("gevent_websocket"),
        ("geventwebsocket",),
        "gevent-websocket",
        _NO_DEFLATE,
    ),
    "flask-sock": Server(
        "Flask-Sock on gevent", _script("flask_sock_gevent"), ("flask_sock",), "flask-sock"
    ),
    "flask-socketio": Server(
        "Flask-SocketIO on gevent",
        _script("flask_socketio_gevent"),
        ("flask_socketio", "geventwebsocket"),
        "Flask-SocketIO",
        _NO_DEFLATE,
        socketio=True,
    ),
    "starlette": Server(
        "Starlette on uvicorn",
        _script("starlette_uvicorn"),
        ("starlette", "uvicorn", "uvloop", "httptools", "websockets"),
        "starlette",
    ),
    "aiohttp": Server(
        "aiohttp on uvloop", _script("aiohttp_uvloop"), ("aiohttp", "uvloop"), "aiohttp"
    ),
    "websockets": Server(
        "websockets on uvloop",
        _script("websockets_uvloop"),
        ("websockets", "uvloop"),
        "websockets",
    ),
    "picows": Server(
        "picows on uvloop",
        _script("picows_uvloop"),
        ("picows", "uvloop"),
        "picows",
        _NO_DEFLATE,
    ),
    "socketify": Server(
        "socketify (uWebSockets, C++)", _script("socketify_uws"), ("socketify",), "socketify"
    ),
    "c": Server("an echo server in C", ("ECHO", "PORT"), lacks=_NO_DEFLATE),
}


# Building and pinning


def missing_tools() -> str | None:
    """Say what the load generator cannot be built without."""
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    probe = ["gcc", "-fsyntax-only", "-include", "zlib.h", "-x", "c", os.devnull]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        return "zlib.h is not installed (zlib1g-dev on Debian)"
    return None


@functools.cache
def build(name: str) -> str:
    """Compile ``name.c`` unless the cache has it, and return the program's path."""
    source = HERE / f"{name}.c"
    # -march=native: a program from another machine, as of a shared home, may not run here.
    key = repr((source.read_bytes(), FLAGS, os.uname().nodename)).encode()
    folder = CACHE / "flask-websockets-benchmarks"
    program = folder / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = f"{program}.{os.getpid()}"
        subprocess.run(["gcc", *FLAGS, "-o", made, str(source), *PROGRAMS[name]], check=True)
        os.replace(made, program)
    return str(program)


def cores() -> tuple[int, int] | None:
    """The cores of the server and of the load generator, if there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


def _pin(which: int) -> t.Callable[[], None] | None:
    pair = cores()
    return None if pair is None else lambda: os.sched_setaffinity(0, {pair[which]})


def raise_file_limit() -> None:
    """5,000 connections take as many descriptors on each side."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# Servers


@contextlib.contextmanager
def running(server: Server, work: Work) -> t.Iterator[tuple[int, int]]:
    """Start *server* for *work*; gives the port and the process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parts = {"PORT": str(port), "PATTERNS": str(work.patterns)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [_fill(part, parts) for part in server.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environ(server),
            start_new_session=True,
            preexec_fn=_pin(0),
        )
        try:
            _wait_for(process, port, log)
            yield port, process.pid
        finally:
            _stop(process)


def _fill(part: str, values: dict[str, str]) -> str:
    if part == "ECHO":
        return build("echo")
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _environ(server: Server) -> dict[str, str]:
    # This checkout, whatever else is installed; and each server as its switch says.
    environ = {key: os.environ[key] for key in os.environ if key != "PURE_FLASK_WEBSOCKETS"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths), **dict(server.environ)}


def _wait_for(process: subprocess.Popen[bytes], port: int, log: t.TextIO) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    log.seek(0)
    said = log.read().strip().splitlines()
    raise Failed(f"the server does not start: {said[-1][:200] if said else 'it says nothing'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it started; the session is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    # What it started may outlive it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(3)


def is_compiled(server: Server) -> bool | None:
    """Whether our compiled core is in use for *server*; None if the package does not say."""
    code = "import flask_websockets as f; print(getattr(f, 'compiled', None))"
    result = subprocess.run(
        [sys.executable, "-c", code], env=_environ(server), capture_output=True, text=True
    )
    return {"True": True, "False": False}.get(result.stdout.strip())


# Cells


def measure(server: Server, work: Work, seconds: float, brief: bool = False) -> dict[str, t.Any]:
    """Measure one cell.

    :param brief: fewer connections where many take long.
    :returns: ``value`` in the work's unit, and for all but idle connections ``p50_us``,
        ``p99_us``, ``load_cpu``, how busy the load generator was (1 is a whole core), and
        ``others``, which part of the two cores went to other programs meanwhile.
    :raises Failed: on a wrong reply, no reply, or a server that does not start.
    """
    with running(server, work) as (port, pid):
        command = [build("load"), "--port", str(port), *work.load, *(work.brief if brief else ())]
        if server.socketio:
            path = "/socket.io/?EIO=4&transport=websocket"
            command += ["--path", path, "--socketio", work.path]
        else:
            command += ["--path", f"/{work.path}"]
        if work.is_idle:
            return {"value": _measure_idle(command, pid)}
        others = Others(pid)
        result = _measure_rate([*command, "--seconds", str(seconds)], seconds, work)
        return {**result, "others": round(others.share(), 3)}


def _measure_rate(command: list[str], seconds: float, work: Work) -> dict[str, t.Any]:
    load = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=_pin(1)
    )
    try:
        output, _ = load.communicate(timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        raise Failed("the load generator does not end") from None
    finally:
        load.kill()
        load.wait()
    result = _read(output)
    if work.deflates and not result.pop("compressed"):
        raise Failed("permessage-deflate was agreed on, and the replies are not compressed")
    result.pop("compressed", None)
    return {"value": result.pop("per_second"), **result}


class Others:
    """What other programs take of the two cores, from when this is made."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.begin = self._times()

    def share(self) -> float:
        elapsed, busy, own = (
            now - then for now, then in zip(self._times(), self.begin, strict=True)
        )
        return max(0.0, busy - own) / (elapsed * len(_cores_used()))

    def _times(self) -> tuple[float, float, float]:
        """The time, and the CPU seconds of all programs and of the two that are measured."""
        tick = os.sysconf("SC_CLK_TCK")
        wanted = {f"cpu{core}" for core in _cores_used()}
        busy = 0.0
        for line in pathlib.Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in wanted:
                # Without interrupts, as those of loopback are not counted as a program's.
                user, nice, system, _, _, _, _, steal, *_ = map(int, fields)
                busy += (user + nice + system + steal) / tick
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = ended.ru_utime + ended.ru_stime + _cpu_seconds(self.pid)
        return time.monotonic(), busy, own


def _cores_used() -> t.Collection[int]:
    return cores() or os.sched_getaffinity(0)


def _measure_idle(command: list[str], pid: int) -> float:
    """KiB of memory for each connection."""
    # What the first connections import and allocate once is not theirs.
    few = [*command, "--connections", "50"]
    _hold(few, lambda opened: None)
    before = _resident_kib(pid)
    return _hold(command, lambda opened: (_resident_kib(pid) - before) / opened)


T = t.TypeVar("T")


def _hold(command: list[str], look: t.Callable[[int], T]) -> T:
    """Open connections, *look* while they are idle, and close them."""
    load = subprocess.Popen(
        [*command, "--seconds", str(IDLE_TIMEOUT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=_pin(1),
    )
    assert load.stdin is not None
    assert load.stdout is not None
    try:
        ready, _, _ = select.select([load.stdout], [], [], IDLE_TIMEOUT)
        if not ready:
            raise Failed("the connections are not opened in time")
        opened = _read(load.stdout.readline())["opened"]
        time.sleep(0.5)
        return look(opened)
    finally:
        load.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.wait(5)
        load.kill()
        load.wait()
        load.stdout.close()


def _read(output: bytes) -> dict[str, t.Any]:
    try:
        result = json.loads(output)
    except ValueError:
        raise Failed("the load generator ended without a word") from None
    if "error" in result:
        raise Failed(result["error"])
    return result


def _resident_kib(pid: int) -> float:
    """The resident memory of a process and of those below it."""
    return sum(float(_proc(one, "status").split("VmRSS:")[1].split()[0]) for one in _tree(pid))


def _cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of those below it."""
    ticks = 0
    for one in _tree(pid):
        # The name in brackets may have spaces. Behind it utime and stime are the 12th and 13th.
        ticks += sum(map(int, _proc(one, "stat").rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    children = _proc(pid, f"task/{pid}/children").split()
    return [pid, *(below for child in children for below in _tree(int(child)))]


def _proc(pid: int, name: str) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        raise Failed("the server has ended") from None
