"""Which exceptions tell a task or the process to end, and are nobody's error.

Whatever else a handler raises ends its own connection and nothing more.
"""

from __future__ import annotations

import signal
import sys
import typing as t


def is_interrupt(error: BaseException) -> bool:
    """Whether *error* came from outside into the code that it comes out of.

    A server ends a greenlet by GreenletExit. A signal's handler raises in whatever the main
    thread runs: KeyboardInterrupt for Ctrl-C, SystemExit where a program says so. The same
    exceptions raised by a handler of a connection are mistakes as any: nobody who can send
    a message may stop the server.
    """
    if isinstance(error, Exception):
        return False
    greenlet: t.Any = sys.modules.get("greenlet")
    if greenlet is not None and isinstance(error, greenlet.GreenletExit):
        # Outside of a greenlet it ends nothing, and nobody expects it.
        return greenlet.getcurrent().parent is not None
    if isinstance(error, KeyboardInterrupt) and _hears_ctrl_c():
        return True
    return _is_raised_by_signal(error)


def _hears_ctrl_c() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt in the current thread."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        # Setting what is set tells the main thread from others, which may not, in a program
        # that gevent has patched too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:
        return False
    return True


def _is_raised_by_signal(error: BaseException) -> bool:
    """Whether a handler of a signal is among the functions that *error* went through."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(handler, "__code__", None) for handler in handlers} - {None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False
