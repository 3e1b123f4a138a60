"""What tells a task or the process to end, and what is an error that looks like it."""

from __future__ import annotations

import signal
import threading
import typing as t

import gevent
import greenlet
import pytest

from flask_websockets.interrupts import is_interrupt


def judge(function: t.Callable[[], object]) -> bool:
    """Judge what *function* raises, where it is caught."""
    try:
        function()
    except BaseException as error:
        return is_interrupt(error)
    raise AssertionError("it raised nothing")


def throw(error: BaseException) -> bool:
    def function() -> None:
        raise error

    return judge(function)


def in_a_thread(function: t.Callable[[], bool]) -> bool:
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def on_signal() -> t.Iterator[t.Callable[[signal.Signals, t.Any], None]]:
    """Set a signal's handler for one test."""
    before: list[tuple[signal.Signals, t.Any]] = []

    def set_handler(number: signal.Signals, handler: t.Any) -> None:
        before.append((number, signal.signal(number, handler)))

    yield set_handler
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        MemoryError(),
        SystemExit(),
        GeneratorExit(),
        gevent.Timeout(1),
        BaseException(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors(error):
    assert not throw(error)


def test_a_greenlet_is_ended_and_a_thread_is_not():
    assert greenlet.greenlet(throw).switch(greenlet.GreenletExit())
    assert not throw(greenlet.GreenletExit())
    assert not in_a_thread(lambda: throw(greenlet.GreenletExit()))


def test_ctrl_c_is_heard_by_the_main_thread(on_signal):
    on_signal(signal.SIGINT, signal.default_int_handler)
    assert judge(lambda: signal.raise_signal(signal.SIGINT))
    assert throw(KeyboardInterrupt())  # nothing tells one from the other
    assert not in_a_thread(lambda: throw(KeyboardInterrupt()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_does_something_else(on_signal):
    on_signal(signal.SIGINT, signal.SIG_IGN)
    assert not throw(KeyboardInterrupt())


class Worker:
    def handle(self, number: int, frame: object) -> None:
        raise SystemExit(1)


def function(number: int, frame: object) -> None:
    Worker().handle(number, frame)


@pytest.mark.parametrize("handler", [function, Worker().handle, lambda *_: function(*_)])
def test_what_a_handler_of_a_signal_raises(on_signal, handler):
    on_signal(signal.SIGUSR1, handler)
    assert judge(lambda: signal.raise_signal(signal.SIGUSR1))
    assert not throw(SystemExit(1))


def test_a_handler_of_a_signal_that_is_an_error(on_signal):
    def handler(number: int, frame: object) -> None:
        raise TimeoutError

    on_signal(signal.SIGUSR1, handler)
    assert not judge(lambda: signal.raise_signal(signal.SIGUSR1))
