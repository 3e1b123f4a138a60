"""A conversation with a socket: at a prompt, or line by line from a pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import typing as t

import click

from ..protocol.close import encode_close
from .show import closing
from .show import message
from .show import milliseconds
from .show import safe

if t.TYPE_CHECKING:
    from .client import Client

#: Close codes of connections that ended in peace.
_GOOD = (1000, 1001, 1005)
#: The exit code of those that did not.
_LOST: t.Final = 3

PROMPT = "> "
#: Seconds for a closing handshake.
_CLOSE_TIME: t.Final = 5.0
_HISTORY = "~/.flask_websockets_history"
_HELP = """\
A line is sent as a message. These are not:
  /ping                 ask for a Pong, and show how long it took
  /binary HEX           send bytes, as in /binary 00 ff 10
  /close [CODE [TEXT]]  close the connection, and leave
  /help                 show this
  //...                 send a line that begins with one slash"""


def talk(wait: float, **place: t.Any) -> int:
    """Connect, talk until the end, and say how it ended.

    :return: the exit code.
    """
    from .client import Client

    client = Client(**place)
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            Terminal(client).run()
        else:
            Pipe(client, wait).run()
    finally:
        client.hang_up()
    click.echo(closing(client.code, client.reason), err=True)
    return 0 if client.code in (*_GOOD, client.asked) else _LOST


class Pipe:
    """Each line of the input is a message; messages are written as they come.

    :param wait: seconds without a message after which it is over, once the input is.
    """

    def __init__(self, client: Client, wait: float) -> None:
        self._client = client
        self._wait = wait
        self._heard = time.monotonic()
        self._over = threading.Event()

    def run(self) -> None:
        """Talk until the input has ended, or the connection."""
        threading.Thread(target=self._send_all, daemon=True).start()
        try:
            while (data := self._client.receive()) is not None:
                self._heard = time.monotonic()
                if isinstance(data, (str, bytes)):
                    click.echo(message(data, sys.stdout.isatty()), color=_color())
        finally:
            self._over.set()

    def _send_all(self) -> None:
        for line in _lines():
            self._client.send(line)
        self._heard = time.monotonic()
        while (left := self._heard + self._wait - time.monotonic()) > 0:
            if self._over.wait(left):
                return
        self._client.close()
        if not self._over.wait(_CLOSE_TIME):
            self._client.abort()


def _lines() -> t.Iterator[str]:
    """The lines of the input, without their ends."""
    # Not buffered: a thread that waits in a buffer holds its lock when the process ends.
    stream: t.Any = sys.stdin.buffer
    stream = getattr(stream, "raw", stream)
    rest = b""
    while piece := stream.read(65536):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


class Terminal:
    """A prompt, above which messages appear as they come."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()  # of the screen
        self._prompting = False
        self._leaving = False
        self._pings: dict[bytes, float] = {}
        self._line_buffer: t.Callable[[], str] = lambda: ""

    def run(self) -> None:
        """Talk until the user leaves or the connection is over."""
        signal.signal(signal.SIGINT, self._interrupt)
        self._print(f"Connected to {self._client.url}" + self._subprotocol() + " /help says more.")
        reader = threading.Thread(target=self._receive_all, daemon=True)
        reader.start()
        with _history() as self._line_buffer:
            # An interrupt is Ctrl-C, or the connection is over.
            with contextlib.suppress(KeyboardInterrupt):
                self._type()
                self._leaving = True
            self._prompting = False
        self._client.close()
        reader.join(_CLOSE_TIME)

    def _type(self) -> None:
        while True:
            with self._lock:
                self._prompting = True
            try:
                line = input(PROMPT).encode("utf-8", "replace").decode()
            except EOFError:
                click.echo()
                return
            with self._lock:
                self._prompting = False
            if not self._act(line):
                return

    def _act(self, line: str) -> bool:
        """Do what *line* says. False to leave."""
        command, _, rest = line.partition(" ")
        if line.startswith("//"):
            self._client.send(line[1:])
        elif not line.startswith("/"):
            if line:
                self._client.send(line)
        elif command == "/ping":
            payload = os.urandom(4)
            self._pings[payload] = time.monotonic()
            self._client.ping(payload)
        elif command == "/binary":
            try:
                self._client.send(bytes.fromhex(rest))
            except ValueError:
                self._print("Bytes are written as in /binary 00 ff 10.")
        elif command == "/close":
            return not self._close(*rest.split(" ", 1))
        else:
            self._print(_HELP)
        return True

    def _close(self, code: str, reason: str = "") -> bool:
        if not (code or "1000").isdecimal():
            self._print("A close code is a number, as in /close 4000 some text.")
            return False
        number = int(code or 1000)
        try:
            encode_close(number, reason)
        except ValueError as error:
            self._print(str(error))
            return False
        self._client.close(number, reason)
        return True

    def _receive_all(self) -> None:
        while (data := self._client.receive()) is not None:
            if isinstance(data, (str, bytes)):
                self._print("< " + message(data, True).replace("\n", "\n  "))
            elif data.payload in self._pings:
                took = time.monotonic() - self._pings.pop(data.payload)
                self._print(f"Pong after {milliseconds(took)}")
        while not self._leaving:
            # Nothing else wakes up who waits for a key; it may just be about to wait.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)

    def _interrupt(self, *_: object) -> None:
        if not self._leaving:
            self._leaving = True
            raise KeyboardInterrupt

    def _print(self, text: str) -> None:
        """Write *text* above the prompt and what is typed there."""
        if _color() is False:
            text = click.unstyle(text)
        with self._lock:
            if self._prompting:
                click.echo(f"\r\x1b[K{text}\n{PROMPT}{self._line_buffer()}", nl=False, color=True)
            else:
                click.echo(text)

    def _subprotocol(self) -> str:
        chosen = self._client.subprotocol
        return "." if chosen is None else f", speaking {safe(chosen)}."


@contextlib.contextmanager
def _history() -> t.Iterator[t.Callable[[], str]]:
    """Keep what is typed for the next time.

    :return: gives what stands behind the prompt.
    """
    try:
        import readline
    except ImportError:
        yield lambda: ""
        return
    path = os.path.expanduser(_HISTORY)
    readline.clear_history()
    with contextlib.suppress(OSError):
        # It may hold secrets.
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield readline.get_line_buffer
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)


def _color() -> bool | None:
    """None: click sees whether it writes to a terminal."""
    return False if os.environ.get("NO_COLOR") else None
