"""Bytes over a plain socket, where the server gives a thread to each connection."""

from __future__ import annotations

import select
import socket
import threading
import typing as t
from contextlib import suppress

from .base import SharedTransport
from .process import current_process


class ThreadTransport(SharedTransport):
    """Waits in poll(2); the lock keeps reads of TLS apart, too."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._thread = threading.get_ident()

    def kill(self) -> None:
        """End the connection, which wakes its thread up if that waits for the peer."""
        self._life.abort()
        self.shut_down()

    def spawn(self, function: t.Callable[[], object]) -> None:
        _start(threading.Thread(target=function))

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        _start(threading.Timer(seconds, function))

    def is_serving(self) -> bool:
        return threading.get_ident() == self._thread

    def _join(self) -> None:
        current_process().join(self)

    def _leave(self) -> None:
        current_process().leave(self)

    def _let_go(self) -> None:
        pass  # who polls wakes up to an error, whether or not it is closed meanwhile

    def _wait_readable(self, timeout: float | None) -> bool:
        return self._wait(select.POLLIN, timeout)

    def _wait_writable(self, timeout: float | None) -> bool:
        return self._wait(select.POLLOUT, timeout)

    def _wait(self, event: int, timeout: float | None) -> bool:
        if self._closed:
            return True  # to the error that the next call gets
        poll = select.poll()
        poll.register(self._socket, event)
        # Rounded up: a wait that ends early would look again, and again.
        return bool(poll.poll(None if timeout is None else int(timeout * 1000) + 1))


def _start(thread: threading.Thread) -> None:
    thread.daemon = True
    with suppress(RuntimeError):  # the process ends, which starts no thread any more
        thread.start()
