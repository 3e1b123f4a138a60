"""Bytes in memory, for tests: connections take turns in the thread that tests them.

Each connection is served in a greenlet of that thread, which runs until it would wait for
its client. So whoever drives an :class:`Exchange` finds all done that can be done, and
nothing happens behind its back.
"""

from __future__ import annotations

import socket as socket_module
import sys
import threading
import time
import typing as t
import weakref
from collections import deque
from functools import partial

import greenlet

from .base import Alarm
from .base import Life
from .base import READ_SIZE
from .base import SharedTransport

#: So many bytes are on their way to a client before whoever sends has to wait.
BUFFER_SIZE: t.Final = 262144
#: After so many seconds a turn ends where it sends, or looks whether something has come: a
#: stream without an end would have no other.
PATIENCE: t.Final = 1.0
#: How often it is looked for bytes of other threads while gevent's hub runs, in seconds.
_LOOK_INTERVAL: t.Final = 0.002


class Client(t.Protocol):
    """The other end of a connection, as far as it has a part in taking turns."""

    @property
    def is_reading(self) -> bool:
        """Whether it takes what the server sends, or leaves it where it is."""

    def take_in(self, data: bytes, ended: bool) -> None:
        """Take bytes of the server.

        :param data: some, or none.
        :param ended: whether none will follow.
        """


class MemorySocket:
    """The server's end of a connection: what a transport uses of a socket, and both buffers.

    :param wake: called when something has changed, from any thread.
    :param has_to_rest: whether the caller's turn should end where it sends.
    """

    def __init__(self, wake: t.Callable[[], object], has_to_rest: t.Callable[[], bool]) -> None:
        self._wake = wake
        self._has_to_rest = has_to_rest
        self._incoming: deque[bytes] = deque()
        self._incoming_ended = False
        self._outgoing: list[bytes] = []
        self._unread = 0
        self.output_ended = False

    # As a socket that does not block. The transport calls these between lock and unlock.

    def settimeout(self, seconds: float | None) -> None:
        """It never waits."""

    def setsockopt(self, *option: int) -> None:
        """It has no options."""

    def recv(self, size: int) -> bytes:
        """The next bytes of the client."""
        if self._incoming:
            return self._incoming.popleft()
        if self._incoming_ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | memoryview) -> int:
        """Take all of *data*, or nothing while there is too much already."""
        if self.output_ended:
            raise BrokenPipeError
        if not self.is_writable() or self._has_to_rest():
            raise BlockingIOError
        self._outgoing.append(bytes(data))
        self._unread += len(data)
        self._wake()
        return len(data)

    def shutdown(self, how: int) -> None:
        """End the output, or both directions."""
        self.output_ended = True
        if how == socket_module.SHUT_RDWR:
            self._incoming.clear()
            self._incoming_ended = True
        self._wake()

    # What is asked without a lock: each is one look

    def is_readable(self) -> bool:
        """Whether ``recv`` would not block."""
        return bool(self._incoming) or self._incoming_ended

    def is_writable(self) -> bool:
        """Whether ``send`` would not block."""
        return self._unread < BUFFER_SIZE or self.output_ended

    def has_output(self) -> bool:
        """Whether there is something to take."""
        return self._unread > 0

    # For the client's end

    def feed(self, data: bytes) -> None:
        """Bytes of the client, in pieces that one read takes."""
        for start in range(0, len(data), READ_SIZE):
            self._incoming.append(data[start : start + READ_SIZE] if start else data[:READ_SIZE])
        self._wake()

    def end_input(self) -> None:
        """No more bytes of the client will come."""
        self._incoming_ended = True
        self._wake()

    def reset(self) -> None:
        """The client is gone: what is on its way is lost."""
        self._incoming.clear()
        self._outgoing.clear()
        self._unread = 0
        self.output_ended = self._incoming_ended = True
        self._wake()

    def take(self) -> bytes:
        """All that the client has not read yet."""
        data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing.clear()
        self._unread = 0
        return data


class MemoryTransport(SharedTransport):
    """Waits by handing over to whoever drives its exchange.

    Tasks of its handlers, in threads or greenlets of their own, wait for themselves.

    :param exchange: the connections that take turns with this one.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._memory = MemorySocket(exchange.wake, self._has_to_rest)
        super().__init__(t.cast(socket_module.socket, self._memory))
        self._exchange = exchange
        # Weak, so that a client that nobody closes can be found out.
        self._client: t.Callable[[], Client | None] = _nobody
        self._thread = _root(greenlet.getcurrent())
        self._greenlet: t.Any = None
        self._driver: t.Any = None
        self._heard_end = False
        #: What the greenlet waits for; None while it runs, and once it is over.
        self._condition: t.Callable[[], bool] | None = None
        self._deadline: float | None = None
        #: Whether its turn has come to an end before it had to wait.
        self.is_put_aside = False
        self._later: list[tuple[float, t.Callable[[], object]]] = []

    def serve(self, life: Life) -> bool:
        """Let the exchange live *life*: who has called the application gets its answer first."""
        self._greenlet = greenlet.greenlet(partial(self._live, life))
        self._condition = _holds
        self._exchange.add(self)
        return False

    def _live(self, life: Life) -> None:
        try:
            super().serve(life)
        finally:
            self._later.clear()

    def read(self, timeout: float | None) -> bytes | None:
        if timeout is not None and timeout <= 0 and self._has_to_rest():
            self.is_put_aside = True
            self._wait(_holds, None)
        return super().read(timeout)

    def flush_soon(self) -> None:
        pass  # the client's next step makes room, and pushes

    def spawn(self, function: t.Callable[[], object]) -> None:
        threading.Thread(target=function, daemon=True).start()

    def _make_alarm(self) -> Alarm:
        return MemoryAlarm(self._wait, self._exchange.wake)

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        if not self.is_over:
            self._later.append((time.monotonic() + seconds, function))
            self._exchange.wake()

    def is_serving(self) -> bool:
        return greenlet.getcurrent() is self._greenlet

    def _let_go(self) -> None:
        pass  # there is no descriptor

    def _wait_readable(self, timeout: float | None) -> bool:
        return self._wait(self._memory.is_readable, timeout)

    def _wait_writable(self, timeout: float | None) -> bool:
        if self._has_to_rest():
            self.is_put_aside = True
        return self._wait(self._memory.is_writable, timeout)

    def _has_to_rest(self) -> bool:
        return time.monotonic() > self._exchange.patient_until and self.is_serving()

    def _wait(self, condition: t.Callable[[], bool], timeout: float | None) -> bool:
        if not self.is_serving():
            return self._exchange.wait_for(condition, timeout)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._condition = condition
        try:
            self._driver.switch()
        except BaseException as error:
            self._condition = None
            if not isinstance(error, greenlet.GreenletExit):
                # gevent's hub has thrown it here, a Timeout for example, and goes on afterwards.
                self._driver = self._greenlet.parent = _hub()
            raise
        return condition()

    # For the client's end

    def attach(self, client: Client) -> bytes:
        """Let *client* hear what comes from now on.

        :return: what has come.
        """
        self._client = weakref.ref(client)
        return self._take()

    def feed(self, data: bytes) -> None:
        """Bytes of the client."""
        self._memory.feed(data)

    def end_input(self) -> None:
        """The client sends no more bytes."""
        self._memory.end_input()

    def reset(self) -> None:
        """The client is gone without a word."""
        # Without the lock: it is called where objects are freed, which may be anywhere.
        self._memory.reset()

    @property
    def is_served(self) -> bool:
        """Whether the application has opened the connection."""
        return self._greenlet is not None

    @property
    def is_over(self) -> bool:
        """Whether the connection's life has ended."""
        return self._greenlet is not None and bool(self._greenlet.dead)

    # For the exchange

    @property
    def is_done(self) -> bool:
        """Whether it is over and its client knows, so that no turn is left."""
        return self.is_over and (self._heard_end or self._client() is None)

    @property
    def deadline(self) -> float | None:
        """When there is something to do even if nothing comes."""
        deadlines = [when for when, _ in self._later]
        if self._condition is not None and self._deadline is not None:
            deadlines.append(self._deadline)
        return min(deadlines, default=None)

    def is_of_this_thread(self) -> bool:
        """Whether it takes its turns in the caller's thread."""
        return _root(greenlet.getcurrent()) is self._thread

    def step(self) -> bool:
        """Go on for as far as nobody has to be waited for.

        :return: whether there was anything to do.
        """
        did = self._call_due()
        if self._can_go_on():
            self._go_on()
            did = True
        return self._hand_over() or did

    def _call_due(self) -> bool:
        if not self._later:
            return False
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        for entry in due:
            self._later.remove(entry)
            entry[1]()
        return bool(due)

    def _can_go_on(self) -> bool:
        if self._condition is None or self.is_put_aside:
            return False
        return self._condition() or (
            self._deadline is not None and time.monotonic() >= self._deadline
        )

    def _go_on(self) -> None:
        self._condition = None
        self._driver = self._greenlet.parent = greenlet.getcurrent()
        self._greenlet.switch()

    def _hand_over(self) -> bool:
        """Give the client what there is, and let what waits behind it follow."""
        client = self._client()
        if client is None or self._heard_end or not client.is_reading:
            return False
        ended = self._memory.output_ended
        if not (ended or self.unsent or self._memory.has_output()):
            return False
        data = self._take()
        if not ended and not data and not self._memory.has_output():
            return False  # who sends the rest waits to do so
        self._heard_end = ended
        client.take_in(data, ended)
        return True

    def _take(self) -> bytes:
        self.lock()
        try:
            data = self._memory.take()
            if self.unsent:
                self.push()
        except OSError:
            pass  # it has been shut down, and what was not sent is lost
        finally:
            self.unlock()
        return data


class MemoryAlarm:
    """What sleepers of a connection wait on: its greenlet hands over meanwhile.

    :param wait: the transport's way to wait until something holds.
    :param wake: called when it is set.
    """

    def __init__(
        self,
        wait: t.Callable[[t.Callable[[], bool], float | None], bool],
        wake: t.Callable[[], None],
    ) -> None:
        self._wait = wait
        self._wake = wake
        self._is_set = False

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, or the time is up."""
        return self._wait(lambda: self._is_set, timeout)

    def set(self) -> None:
        """Wake all who wait, now and later."""
        self._is_set = True
        self._wake()


class Exchange:
    """The connections that take turns, of one app as a rule."""

    def __init__(self) -> None:
        self._transports: list[MemoryTransport] = []
        self._changed = threading.Condition()
        #: How often something has changed.
        self.changes = 0
        #: When a turn that would have no end is brought to one.
        self.patient_until = 0.0

    def add(self, transport: MemoryTransport) -> None:
        """Let *transport* have its turns."""
        self._transports.append(transport)

    def run(self) -> None:
        """Give turns to all of this thread, until each waits for its client or for time."""
        transports = self._of_this_thread()
        self.patient_until = time.monotonic() + PATIENCE
        for transport in transports:
            transport.is_put_aside = False
        did = True
        while did:
            did = False
            for transport in transports:
                did = transport.step() or did
        for transport in transports:
            if transport.is_done and transport in self._transports:
                self._transports.remove(transport)

    def wait(self, seen: int, deadline: float) -> bool:
        """Wait until there is something to do for :meth:`run`.

        :param seen: what :attr:`changes` was before it was run.
        :return: False if *deadline* comes first.
        """
        times = [deadline]
        for transport in self._of_this_thread():
            if transport.is_put_aside:
                return time.monotonic() < deadline
            if transport.deadline is not None:
                times.append(transport.deadline)
        left = min(times) - time.monotonic()
        self.wait_for(lambda: self.changes != seen, max(0.0, left))
        return time.monotonic() < deadline or self.changes != seen

    def is_serving(self) -> bool:
        """Whether the caller is the greenlet of one of the connections."""
        return any(transport.is_serving() for transport in self._transports)

    # For all threads

    def wake(self) -> None:
        """Something has changed: whoever waits looks again."""
        with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def wait_for(self, condition: t.Callable[[], bool], timeout: float | None) -> bool:
        """Wait until *condition* holds.

        :return: False when *timeout* seconds are over.
        """
        hub = _hub()
        if hub is None:
            with self._changed:
                return self._changed.wait_for(condition, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not condition():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            hub.wait(hub.loop.timer(_LOOK_INTERVAL))
        return True

    def _of_this_thread(self) -> list[MemoryTransport]:
        return [transport for transport in self._transports if transport.is_of_this_thread()]


def _root(one: t.Any) -> t.Any:
    """The greenlet that all of one's thread descend from; it names the thread.

    Not its identifier, which is another for each greenlet of a monkey-patched program.
    """
    while one.parent is not None:
        one = one.parent
    return one


def _hub() -> t.Any:
    """gevent's hub of this thread, if it has one."""
    if "gevent" not in sys.modules:
        return None
    from .gevent import hub_if_exists

    return hub_if_exists()


def _holds() -> bool:
    return True


def _nobody() -> None:
    return None
