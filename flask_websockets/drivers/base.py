"""A socket that is read by one and written by many, whoever it is that waits.

The socket never blocks: what would block waits by the means of the driver, a
poll or gevent's hub. Writing has one way: :meth:`Transport.queue` after
:meth:`Transport.lock` puts bytes in the outbox, in order and whole, and hands the
kernel what it takes; :meth:`Transport.flush` waits for the rest, or
:meth:`Transport.flush_soon` leaves that to a task of its own.
"""

from __future__ import annotations

import math
import socket as socket_module
import ssl
import threading
import time
import typing as t

T = t.TypeVar("T")

#: One read takes this many bytes at most.
READ_SIZE: t.Final = 65536
#: Queued frames are joined into pieces of about this size, for fewer sends.
PIECE_SIZE: t.Final = 262144

#: What becomes of a connection after a step of its life.
OVER: t.Final = 0  # it ends
IDLE: t.Final = 1  # it waits for bytes
BUSY: t.Final = 2  # it has something to do already

#: After so many messages or steps of one connection others have a turn.
TURNS: t.Final = 32

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Life(t.Protocol):
    """What becomes of a connection, told in steps that each may wait."""

    @property
    def due(self) -> float:
        """When :meth:`proceed` is to be called at the latest, by ``time.monotonic``."""

    def start(self) -> bool:
        """What is done first.

        :return: whether :meth:`proceed` is to be called.
        """

    def proceed(self, wait: bool) -> int:
        """Read once and do what is asked for, or a part of it.

        :param wait: whether to wait for bytes, or to return where none are there.
        :return: OVER if it is not to be called again, IDLE or BUSY.
        """

    def go_away(self, code: int) -> None:
        """The server stops: start the closing handshake with *code*, from any task."""

    def abort(self) -> None:
        """The server waits no longer, or ends the task that serves; :meth:`end` is still called."""

    def end(self) -> None:
        """What is done last."""


class Alarm(t.Protocol):
    """What sleepers wait on: an event of threads, or of gevent."""

    def wait(self, timeout: float) -> object:
        """Wait until it is set, or the time is up."""

    def set(self) -> object:
        """Wake all who wait, now and later."""


class Ended:
    """In the place of a life that is over, which would refer to the transport in a circle."""

    due = math.inf

    def start(self) -> bool:
        return False

    def proceed(self, wait: bool) -> int:
        return OVER

    def go_away(self, code: int) -> None:
        pass

    def abort(self) -> None:
        pass

    def end(self) -> None:
        pass


ENDED: t.Final = Ended()


class Transport:
    """The bytes of one connection.

    :param sock: a connected socket; it is the transport's alone from here on,
        but for closing its descriptor, which stays with the server that lent it.
    :param early: what the server read of the peer beyond the request.
    """

    def __init__(self, sock: socket_module.socket, early: bytes = b"") -> None:
        self._socket = sock
        self._early = early
        #: Seconds that may pass without a byte being taken, before the peer is given up.
        self.stall: float | None = None
        #: Seconds that the closing handshake may take when the server stops.
        self.drain = 0.0
        #: How many queued bytes the kernel has not taken yet.
        self.unsent = 0
        self._outbox: list[bytes] = []
        self._piece: bytes | memoryview = b""  # what of the outbox is being sent
        self._flushers = 0
        self._alarm: Alarm | None = None  # for most connections there is none
        self._life: Life = ENDED  # until it is served
        self._closed = False
        self.is_reading = False
        sock.settimeout(0)
        try:
            # Small frames leave at once; without it 64 KiB echoes take 40 ms.
            sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NODELAY, 1)
        except OSError:
            pass  # a Unix socket has no such option

    def serve(self, life: Life) -> bool:
        """Live *life*, and close the transport.

        :return: False if it goes on when this returns, and the server has forgotten it.
        """
        self._life = life
        self._join()
        try:
            try:
                if life.start():
                    self._go_through(life)
            except BaseException:
                life.abort()
                raise
            finally:
                life.end()
        finally:
            self._life = ENDED
            self.close()
            self._leave()  # last: a server that stops waits for it
        return True

    def go_away(self, code: int) -> None:
        """The server stops: start the closing handshake."""
        self._life.go_away(code)

    def read(self, timeout: float | None) -> bytes | None:
        """Wait for bytes of the peer. Only one may read at a time.

        :param timeout: seconds to wait; 0 only looks, None waits for ever.
        :return: some bytes; ``b""`` when the peer is gone; None when time is up.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        while True:
            try:
                return self._receive()
            except ssl.SSLWantWriteError:
                wait = self._wait_writable
            except (BlockingIOError, ssl.SSLWantReadError):
                wait = self._wait_readable
            except OSError:
                return b""  # reset, timed out or shut down: gone all the same
            if timeout is not None and timeout <= 0:
                return None
            if not wait(timeout):
                return None

    def begin_reading(self) -> bool:
        """Let nobody else read until :meth:`end_reading`. Never waits.

        :return: False if somebody else reads.
        """
        if self.is_reading:
            return False
        self.is_reading = True
        return True

    def end_reading(self) -> None:
        """Let others read."""
        self.is_reading = False

    def queue(self, data: bytes) -> None:
        """Put *data* behind what waits to be sent. Call it between lock and unlock.

        :raises OSError: if the peer is gone.
        """
        self._outbox.append(data)
        self.unsent += len(data)
        if not self._flushers:
            self._push()

    def hold(self, data: bytes) -> None:
        """The same, with what follows, where the driver sees to it that it leaves.

        A driver may hand the kernel nothing before :meth:`flush` is called or whoever
        called this is kept waiting.
        """
        self.queue(data)

    def push(self) -> None:
        """Hand the kernel what it takes of what is queued or held, now.

        Call it between lock and unlock.

        :raises OSError: if the peer is gone.
        """
        if not self._flushers:
            self._push()

    def flush(self, stall: float | None, until: float | None = None) -> None:
        """Wait until the kernel has taken all that is queued.

        :param stall: seconds that may pass without a byte being taken.
        :param until: when to give up in any case, by ``time.monotonic``.
        :raises OSError: if the peer is gone, or takes too long.
        """
        if not self.unsent:
            return
        self.lock()
        try:
            if not self._flushers and self._push():
                return
            self._flushers += 1
        finally:
            self.unlock()
        self._finish_flush(stall, until)

    def post(self, data: bytes) -> None:
        """The same as :meth:`queue`, and :meth:`flush_soon`."""
        self.queue(data)
        self.flush_soon()

    def flush_soon(self) -> None:
        """The same in a task of its own, which ends the connection on errors.

        It waits :attr:`stall`.

        Call it between lock and unlock.
        """
        if self.unsent and not self._flushers:
            self._flushers += 1
            self.spawn(self._flush_in_background)

    def end_output(self) -> None:
        """Tell the peer that no byte follows (a FIN)."""
        self._shut_down(socket_module.SHUT_WR)

    def shut_down(self) -> None:
        """End both directions at once. Whoever reads wakes up to ``b""``.

        The descriptor stays open: it is the server's to close. Whatever the
        server still writes to it goes nowhere.
        """
        self._shut_down(socket_module.SHUT_RDWR)

    def close(self) -> None:
        """Shut down, and let nobody wait on the descriptor once the server has it back."""
        self.shut_down()
        self._closed = True
        self._let_go()

    # Tasks beside the connection

    def start_task(self, function: t.Callable[[], object]) -> None:
        """Start *function* in a task of its own, from any task."""
        self.spawn(function)

    def end_tasks(self) -> None:
        """End those of :meth:`start_task`, if the driver can, and wait until they have."""

    def alarm(self) -> Alarm:
        """What :meth:`ring` sets; to wait on where this connection's waiting is done."""
        self.lock()
        try:
            if self._alarm is None:
                self._alarm = self._make_alarm()
            return self._alarm
        finally:
            self.unlock()

    def ring(self) -> None:
        """Wake who waits for the alarm. May be called between lock and unlock."""
        if self._alarm is not None:
            self._alarm.set()

    def _make_alarm(self) -> Alarm:
        return threading.Event()

    # What each driver does in its way

    def lock(self) -> None:
        """Let nobody else queue or read until :meth:`unlock`. Do not wait in between."""
        raise NotImplementedError

    def unlock(self) -> None:
        """Let the others go on."""
        raise NotImplementedError

    def is_here(self) -> bool:
        """Whether the caller is where this connection's waiting is done."""
        raise NotImplementedError

    def call(self, function: t.Callable[..., T], *args: t.Any) -> T:
        """Call *function*, which may wait, where this connection's waiting is done."""
        raise NotImplementedError

    def call_soon(self, function: t.Callable[[T], object], argument: T) -> None:
        """The same from elsewhere, for what does not wait, without waiting for it."""
        raise NotImplementedError

    def spawn(self, function: t.Callable[[], object]) -> None:
        """Start *function* in a task of its own."""
        raise NotImplementedError

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        """Call *function* after *seconds*, in a task of its own."""
        raise NotImplementedError

    def is_serving(self) -> bool:
        """Whether the caller is the thread or greenlet that serves the connection."""
        raise NotImplementedError

    def give_way(self) -> None:
        """Let other connections have a turn, where one that never waits would keep them
        from it."""

    def _join(self) -> None:
        """Let whoever stops the server call :meth:`go_away`."""

    def _leave(self) -> None:
        """It is over."""

    def _let_go(self) -> None:
        """Wait until nobody waits on the descriptor, which is shut down."""
        raise NotImplementedError

    def _wait_readable(self, timeout: float | None) -> bool:
        raise NotImplementedError

    def _wait_writable(self, timeout: float | None) -> bool:
        raise NotImplementedError

    def _go_through(self, life: Life) -> None:
        turns = 0
        while (state := life.proceed(True)) != OVER:
            turns += 1
            # Where bytes are always there it may never have waited.
            if state == BUSY or turns % TURNS == 0:
                self.give_way()

    # The socket

    def _receive(self) -> bytes:
        self.lock()
        try:
            return self._socket.recv(READ_SIZE)
        finally:
            self.unlock()

    def _shut_down(self, how: int) -> None:
        self.lock()
        try:
            self._socket.shutdown(how)
        except OSError:
            pass  # the peer was faster
        finally:
            self.unlock()

    def _send(self, data: bytes | memoryview) -> int:
        return self._socket.send(data)

    # The outbox

    def _finish_flush(self, stall: float | None, until: float | None = None) -> None:
        deadline, last = _deadline(stall, until), self.unsent
        try:
            while not self._push_and_end():
                if self.unsent != last:
                    deadline, last = _deadline(stall, until), self.unsent
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("the peer takes what it is sent too slowly")
                self._wait_writable(left)
        except BaseException:
            self.lock()
            self._flushers -= 1
            self.unlock()
            raise

    def _push_and_end(self) -> bool:
        # In one go: whoever queues in between would find a flusher that has gone.
        self.lock()
        try:
            if self._push():
                self._flushers -= 1
                return True
            return False
        finally:
            self.unlock()

    def _flush_in_background(self) -> None:
        try:
            self._finish_flush(self.stall)
        except OSError:
            self.shut_down()

    def _push(self) -> bool:
        """Hand the kernel what it takes. True once nothing is left."""
        while self.unsent:
            piece = self._piece
            if not piece:
                piece = self._piece = self._next_piece()
            try:
                # TLS wants the very same bytes again after it could not go on.
                sent = self._send(piece)
            except _WOULD_BLOCK:
                return False
            except OSError:
                self._outbox.clear()
                self._piece = b""
                self.unsent = 0
                raise
            if not sent:
                return False  # gevent's TLS socket says so where others raise
            self.unsent -= sent
            self._piece = b"" if sent == len(piece) else memoryview(piece)[sent:]
        return True

    def _next_piece(self) -> bytes:
        outbox = self._outbox
        if len(outbox) == 1:
            return outbox.pop()
        count, size = 1, len(outbox[0])
        while count < len(outbox) and size + len(outbox[count]) <= PIECE_SIZE:
            size += len(outbox[count])
            count += 1
        piece = b"".join(outbox[:count])
        del outbox[:count]
        return piece


class SharedTransport(Transport):
    """Whoever sends or receives does so where it is; one lock keeps them apart."""

    def __init__(self, sock: socket_module.socket, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._lock = threading.Lock()

    def begin_reading(self) -> bool:
        # Between a look and a mark another thread might come.
        with self._lock:
            return super().begin_reading()

    def lock(self) -> None:
        self._lock.acquire()

    def unlock(self) -> None:
        self._lock.release()

    def is_here(self) -> bool:
        return True

    def call(self, function: t.Callable[..., T], *args: t.Any) -> T:
        return function(*args)

    def call_soon(self, function: t.Callable[[T], object], argument: T) -> None:
        function(argument)


def _deadline(seconds: float | None, until: float | None) -> float | None:
    """*seconds* from now, or *until* if that comes first."""
    if seconds is None:
        return until
    deadline = time.monotonic() + seconds
    return deadline if until is None else min(deadline, until)
