"""How a process that serves connections ends: as gunicorn's worker, or any other."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import typing as t

from .stopping import Company
from .stopping import GOING_AWAY
from .stopping import Member
from .stopping import SERVICE_RESTART

#: How often it is looked whether gunicorn's worker stops, in seconds.
_LOOK_INTERVAL = 0.1

_ENDS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class Worker:
    """gunicorn's worker that this process is.

    :param worker: gunicorn's object.
    """

    def __init__(self, worker: t.Any) -> None:
        self._worker = worker
        self._signals = 0

    @property
    def is_alive(self) -> bool:
        """Whether it has not been told to stop."""
        return bool(self._worker.alive)

    def is_hurried(self) -> bool:
        """Whether it has been told so more than once.

        gunicorn lets Python write each signal's number into a pipe that wakes up its
        sync worker. No other worker reads it.
        """
        try:
            numbers = os.read(self._worker.PIPE[0], 256)
        except OSError:
            numbers = b""  # nothing there
        self._signals += sum(number in _ENDS for number in numbers)
        return self._signals > 1


def gunicorn_worker() -> Worker | None:
    """The worker that this process is; None if gunicorn has not started it."""
    # Whom a SIGTERM reaches: WSGI tells an application nothing of its worker.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if hasattr(worker, "alive") and hasattr(worker, "PIPE"):
        return Worker(worker)
    return None


class Process:
    """The connections that no server tells that it stops: they end with the process.

    The development server just returns at Ctrl-C, and gunicorn's gthread worker waits for
    its threads, which is for ever.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._company = Company(_start, time.sleep)
        self._lock = threading.Lock()
        self._is_watched = False
        self._code = GOING_AWAY
        self._worker = gunicorn_worker()
        atexit.register(self._end)
        _call_before_reload(self._expect_restart)

    @property
    def is_stopping(self) -> bool:
        """Whether it takes no more connections."""
        return self._company.code is not None or not self._is_alive()

    def join(self, member: Member) -> None:
        """Let *member* be told when the process ends."""
        self._company.join(member)
        with self._lock:
            if self._worker is not None and not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, args=(self._worker,), daemon=True).start()

    def leave(self, member: Member) -> None:
        """It is over."""
        self._company.leave(member)

    def _is_alive(self) -> bool:
        return self._worker is None or self._worker.is_alive

    def _watch(self, worker: Worker) -> None:
        """Look whether the worker stops, for as long as somebody is connected."""
        while worker.is_alive:
            with self._lock:
                if not len(self._company):
                    self._is_watched = False
                    return
            time.sleep(_LOOK_INTERVAL)
        self._company.dismiss(self._code, worker.is_hurried)

    def _expect_restart(self) -> None:
        self._code = SERVICE_RESTART

    def _end(self) -> None:
        if self.pid == os.getpid():
            self._company.dismiss(self._code, lambda: False)


_current: Process | None = None
_lock = threading.Lock()


def current_process() -> Process:
    """That of the current process, which may be a fork of another."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = Process()
        return _current


def _start(function: t.Callable[[int], None], code: int) -> None:
    try:
        threading.Thread(target=function, args=(code,), daemon=True).start()
    except RuntimeError:
        function(code)  # Python 3.12 starts no thread once the process ends


def _call_before_reload(function: t.Callable[[], None]) -> None:
    """Call *function* when Werkzeug's reloader is about to end the process."""
    reloader: t.Any = sys.modules.get("werkzeug._reloader")
    if os.environ.get("WERKZEUG_RUN_MAIN") != "true" or reloader is None:
        return
    # The only thing that is called for each change and by each kind of reloader.
    log_reload = reloader.ReloaderLoop.log_reload

    def log_and_tell(loop: t.Any, filename: str) -> None:
        function()
        log_reload(loop, filename)

    reloader.ReloaderLoop.log_reload = log_and_tell
