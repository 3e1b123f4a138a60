"""Bytes over gevent's sockets: waiting in a greenlet, or with none at all."""

from __future__ import annotations

import _socket
import math
import os
import socket
import time
import typing as t
from collections import deque

import gevent
import gevent.event
import gevent.hub
import gevent.ssl
from gevent._hub_local import get_hub_if_exists
from gevent.hub import get_hub
from gevent.monkey import get_original
from gevent.monkey import is_module_patched

from .base import Alarm
from .base import BUSY
from .base import ENDED
from .base import Life
from .base import T
from .base import Transport
from .process import current_process
from .process import Process
from .pywsgi import can_forget_socket
from .pywsgi import company_of_server
from .pywsgi import current_server
from .stopping import Company
from .syscalls import receive
from .syscalls import write

# The real ones, whether or not the program is monkey-patched.
_native_thread = get_original("threading", "get_ident")
_native_lock = get_original("_thread", "allocate_lock")

_READ, _WRITE = 1, 2

#: One read takes this many bytes at most, into a buffer that a hub has one of. With 64 KiB,
#: echoes of 64 KiB took twice as long.
_READ_SIZE = 262144

#: How often it is looked who has to ping: so many times in the shortest interval, but
#: neither more often nor less often than this, in seconds.
_SWEEPS, _SHORTEST_SWEEP, _LONGEST_SWEEP = 50, 0.02, 1.0

#: Dispatcher greenlets that are kept for the next time that one is kept waiting.
_SPARE: t.Final = 16

#: Seconds that a task may take for what it does once it is killed.
_TASK_END: t.Final = 1.0

_local = get_original("threading", "local")()


class GeventTransport(Transport):
    """Waits in gevent's hub.

    Greenlets of one hub never run at once, so what does not wait needs no lock.
    Other native threads hand their calls to the hub of the connection.
    """

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._hub = get_hub()
        self._thread = _native_thread()
        self._greenlet = gevent.getcurrent()
        self._waiting = 0
        self._company: t.Any = None
        self._tasks: set[gevent.Greenlet[..., object]] | None = None

    def kill(self) -> None:
        """End the greenlet that serves it, by an exception: it waits for too long."""
        gevent.kill(self._greenlet)

    def lock(self) -> None:
        pass

    def unlock(self) -> None:
        pass

    def is_here(self) -> bool:
        return bool(_native_thread() == self._thread)

    def call(self, function: t.Callable[..., T], *args: t.Any) -> T:
        if self.is_here():
            return function(*args)
        greenlet: list[gevent.Greenlet[..., T]] = []
        done = _native_lock()
        done.acquire()

        def start() -> None:
            greenlet.append(gevent.spawn(_capture, function, args))
            greenlet[0].rawlink(lambda _: done.release())

        self._hub.loop.run_callback_threadsafe(start)
        done.acquire()
        return t.cast(T, _release(greenlet.pop().value))

    def call_soon(self, function: t.Callable[[T], object], argument: T) -> None:
        self._hub.loop.run_callback_threadsafe(function, argument)

    def spawn(self, function: t.Callable[[], object]) -> None:
        gevent.spawn(function)

    def start_task(self, function: t.Callable[[], object]) -> None:
        self.call(self._start_task, function)

    def _start_task(self, function: t.Callable[[], object]) -> None:
        if self._tasks is None:
            self._tasks = set()
        task = gevent.spawn(function)
        self._tasks.add(task)
        task.rawlink(self._tasks.discard)

    def end_tasks(self) -> None:
        if self._tasks:
            tasks = list(self._tasks)
            gevent.killall(tasks, block=False)
            gevent.joinall(tasks, timeout=_TASK_END)

    def _make_alarm(self) -> Alarm:
        return t.cast(Alarm, gevent.event.Event())

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        gevent.spawn_later(seconds, function)

    def is_serving(self) -> bool:
        return gevent.getcurrent() is self._greenlet

    def _join(self) -> None:
        self._company = company()
        if self._company is not None:
            self._company.join(self)

    def _leave(self) -> None:
        if self._company is not None:
            self._company.leave(self)

    def give_way(self) -> None:
        # gevent.sleep(0) would do for greenlets, but may keep 50 turns from those whose bytes
        # have come.
        timer = self._hub.loop.timer(0.0)
        try:
            self._hub.wait(timer)
        finally:
            timer.close()

    def _let_go(self) -> None:
        # libev aborts the process if a descriptor is closed under a watcher.
        while self._waiting:
            gevent.sleep(0)

    def _wait_readable(self, timeout: float | None) -> bool:
        return self._wait(_READ, timeout)

    def _wait_writable(self, timeout: float | None) -> bool:
        return self._wait(_WRITE, timeout)

    def _wait(self, event: int, timeout: float | None) -> bool:
        if self._closed:
            return True  # to the error that the next call gets
        watcher = self._hub.loop.io(self._socket.fileno(), event)
        self._waiting += 1
        try:
            ready = False
            with gevent.Timeout(timeout, False):
                self._hub.wait(watcher)
                ready = True
            return ready
        finally:
            watcher.close()
            self._waiting -= 1


def company() -> Company | Process | None:
    """Who tells a connection of the current greenlet that its server stops."""
    of_server = company_of_server()
    if of_server is None and is_module_patched("threading"):
        return current_process()  # a server of threads, which are greenlets
    return of_server


def is_stopping() -> bool:
    """Whether the server of the current greenlet takes no more connections."""
    server = current_server()
    if server is not None:
        return bool(server.closed)
    return is_module_patched("threading") and current_process().is_stopping


def open_transport(sock: t.Any, early: bytes, handler: t.Any) -> Transport:
    """What serves *sock*, which is one of gevent's.

    :param early: what the server read of the peer beyond the request.
    :param handler: the server's, which has called the application.
    """
    if isinstance(sock, gevent.ssl.SSLSocket):
        # TLS keeps bytes that no watcher sees: its greenlet waits for them.
        return GeventTransport(sock, early)
    return EventTransport(sock, early, handler)


class EventTransport(GeventTransport):
    """A connection that takes no greenlet's time while nothing comes.

    A watcher puts it into the queue of its hub's :class:`Dispatcher`, whose greenlets
    run one step of its life at a time. Where the server can forget the socket, not even
    the greenlet remains that has served the request.
    """

    def __init__(self, sock: t.Any, early: bytes, handler: t.Any) -> None:
        # The real socket below gevent's: nothing of it ever waits.
        super().__init__(sock._sock, early)
        self._handler = handler
        self._descriptor = -1  # of our own, once the server has forgotten the socket
        self._dispatcher = dispatcher()
        self._watcher: t.Any = None
        self._is_watched = False
        self.is_queued = True  # or served right now
        self._is_held = False
        self._killed = False
        self._error: BaseException | None = None
        self._over: gevent.event.Event | None = None  # for a greenlet that waits for the end

    def serve(self, life: Life) -> bool:
        self._life = life
        self._join()
        going = False
        try:
            going = life.start()
        except BaseException:
            life.abort()
            raise
        finally:
            if not going:
                self._end()
        if not going:
            return True
        if self._detach():
            self._begin()
            return False
        self._over = gevent.event.Event()
        self._begin()
        try:
            self._over.wait()
        except BaseException:
            # The server ends this greenlet, and with it the one that works for it.
            self.kill()
            self._over.wait(1)
            raise
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose traceback refers to this frame
        return True

    def _detach(self) -> bool:
        """Let the server forget the socket, if it can."""
        handler, self._handler = self._handler, None
        if not can_forget_socket(handler):
            return False
        try:
            descriptor = os.dup(self._socket.fileno())
        except OSError:
            return False  # there are no more of them
        handler.socket = None  # the server closes its own descriptor, and this one stays
        handler.rfile.close()  # whose descriptor lives on for as long as this does
        self._socket = t.cast("socket.socket", _socket.socket(fileno=descriptor))
        self._descriptor = descriptor
        return True

    def _begin(self) -> None:
        self._greenlet = None
        self._watcher = self._hub.loop.io(self._socket.fileno(), _READ)
        self._dispatcher.add(self)
        # Bytes that have been read already wake no watcher.
        self._dispatcher.enqueue(self)

    @property
    def life_due(self) -> float:
        """When the next step is to be taken at the latest."""
        return self._life.due

    def step(self, greenlet: t.Any) -> None:
        """Take one step; in *greenlet*, of the dispatcher, which may be kept waiting."""
        self._greenlet = greenlet
        try:
            if self._killed:
                raise gevent.GreenletExit
            going = self._life.proceed(False)
        except BaseException as error:
            self._life.abort()
            self._end()
            if self._over is None:
                raise
            self._error = error  # for the greenlet that the server has given us
            return
        self._greenlet = None
        if going == BUSY:
            self._dispatcher.put_off(self)
        elif going:
            self._rest()
        else:
            self._end()

    def look_up(self) -> None:
        """Queue it, unless it is queued or served already."""
        if not self.is_queued:
            self.is_queued = True
            self._dispatcher.enqueue(self)

    def hold(self, data: bytes) -> None:
        self._outbox.append(data)
        self.unsent += len(data)
        if not self._is_held:
            self._is_held = True
            self._dispatcher.hold(self)

    def post(self, data: bytes) -> None:
        # What several broadcasts post within one turn of the loop leaves in one send.
        self.hold(data)

    def _receive(self) -> bytes:
        # A buffer of the hub's: to make one of this size for each read costs more than to copy.
        buffer = self._dispatcher.buffer
        if self._descriptor >= 0:
            return receive(self._descriptor, buffer)
        size = self._socket.recv_into(buffer)
        return bytes(memoryview(buffer)[:size])

    def _send(self, data: bytes | memoryview) -> int:
        if self._descriptor >= 0 and type(data) is bytes:
            return write(self._descriptor, data)
        return self._socket.send(data)

    def release(self) -> None:
        """Send what is held: the hub runs."""
        self._is_held = False
        if self.unsent and not self._flushers:
            try:
                if not self._push():
                    self.flush_soon()
            except OSError:
                pass  # who reads it will notice

    def _rest(self) -> None:
        self.is_queued = False
        if not self._is_watched:
            self._is_watched = True
            self._watcher.start(self._readable)

    def _readable(self) -> None:
        if self.is_queued:
            # What comes while a handler waits stays in the kernel, and its sender waits.
            self._watcher.stop()
            self._is_watched = False
        else:
            self.is_queued = True
            self._dispatcher.enqueue(self)

    def _end(self) -> None:
        self._dispatcher.remove(self)
        if self._watcher is not None:
            # libev aborts the process if a descriptor is closed under a watcher.
            self._watcher.stop()
            self._watcher.close()
        try:
            self._life.end()
        finally:
            self._life = ENDED
            self.close()
            if self._over is not None:
                self._over.set()
            elif self._watcher is not None:
                self._descriptor = -1  # soon somebody else's
                self._socket.close()
            self._leave()  # last: a server that stops waits for it

    def kill(self) -> None:
        self._killed = True
        if self._greenlet is not None:
            gevent.kill(self._greenlet)
        else:
            self.look_up()


class Dispatcher:
    """The connections of one hub, and the greenlets that serve those that are ready.

    One greenlet serves them all, one after the other. Only where it is kept waiting
    by a handler another takes over, so that connections do not wait for each other.
    """

    def __init__(self, hub: gevent.hub.Hub) -> None:
        self._hub = hub
        self._ready: deque[EventTransport] = deque()
        self._idle: list[gevent.Greenlet[..., None]] = []
        self.buffer = bytearray(_READ_SIZE)
        self._held: list[EventTransport] = []
        self._is_called = False  # whether the hub will call _serve
        self._put_off: list[EventTransport] = []
        self._timer: t.Any = None  # for those, for one turn of the loop
        self._connections: set[EventTransport] = set()
        self._interval = math.inf  # between two sweeps
        self._sweeper: t.Any = None

    def add(self, transport: EventTransport) -> None:
        """Look after *transport* until it is removed."""
        self._connections.add(transport)
        interval = (transport.life_due - time.monotonic()) / _SWEEPS
        interval = max(_SHORTEST_SWEEP, min(interval, _LONGEST_SWEEP))
        if interval < self._interval:
            self._stop_sweeping()
            self._interval = interval
            self._sweeper = self._hub.loop.timer(interval, interval, ref=False)
            self._sweeper.start(self._sweep)

    def remove(self, transport: EventTransport) -> None:
        """Forget *transport*."""
        self._connections.discard(transport)
        if not self._connections:
            self._stop_sweeping()

    def enqueue(self, transport: EventTransport) -> None:
        """Let *transport* take its next step soon."""
        self._ready.append(transport)
        self._call()

    def put_off(self, transport: EventTransport) -> None:
        """Let *transport* take its next step when the loop has looked who else is ready."""
        self._put_off.append(transport)
        if self._timer is None:
            self._timer = self._hub.loop.timer(0.0)
            self._timer.start(self._go_on)

    def _go_on(self) -> None:
        self._timer.close()
        self._timer = None
        self._ready.extend(self._put_off)
        self._put_off.clear()
        self._call()

    def hold(self, transport: EventTransport) -> None:
        """Call :meth:`EventTransport.release` once the hub runs."""
        self._held.append(transport)
        self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._hub.loop.run_callback(self._serve)

    def _serve(self) -> None:
        # In the hub: whoever served before is idle or kept waiting.
        self._is_called = False
        if self._held:
            held, self._held = self._held, []
            for transport in held:
                transport.release()
        if self._ready:
            if self._idle:
                self._idle.pop().switch()
            else:
                gevent.spawn(self._work)

    def _work(self) -> None:
        current = gevent.getcurrent()
        ready, idle, wait = self._ready, self._idle, self._hub.switch
        while True:
            while ready:
                self._step_next(current)
            if len(idle) >= _SPARE:
                return
            idle.append(current)
            try:
                wait()
            except BaseException:
                # Thrown by what a handler left behind, as a Timeout that it has not closed:
                # who is not there any more must not be woken up.
                idle.remove(current)
                raise

    def _step_next(self, current: t.Any) -> None:
        transport = self._ready.popleft()
        if self._ready:
            # Should this step be kept waiting, another greenlet takes the next.
            self._call()
        transport.step(current)

    def _stop_sweeping(self) -> None:
        if self._sweeper is not None:
            self._sweeper.stop()
            self._sweeper.close()
            self._sweeper, self._interval = None, math.inf

    def _sweep(self) -> None:
        """Queue those that have to ping, or to be given up."""
        now = time.monotonic()
        for transport in self._connections:
            if not transport.is_queued and transport.life_due <= now:
                transport.look_up()


def dispatcher() -> Dispatcher:
    """That of the current hub."""
    hub = get_hub()
    if getattr(_local, "hub", None) is not hub:
        _local.hub, _local.dispatcher = hub, Dispatcher(hub)
    return t.cast(Dispatcher, _local.dispatcher)


def hub_if_exists() -> gevent.hub.Hub | None:
    """The hub of this thread; None is made where there is none."""
    return get_hub_if_exists()


def _capture(function: t.Callable[..., t.Any], args: tuple[t.Any, ...]) -> tuple[t.Any, t.Any]:
    """A greenlet that dies of an exception prints it; this one brings it back."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def _release(outcome: tuple[t.Any, BaseException | None]) -> t.Any:
    value, error = outcome
    try:
        if error is not None:
            raise error
        return value
    finally:
        del outcome, error  # whose traceback refers to this frame
