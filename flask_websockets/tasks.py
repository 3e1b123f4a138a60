"""Work beside messages: what runs in a task, and what becomes of what it raises.

Knows contexts and how errors are logged. Greenlets and threads are the driver's.
"""

from __future__ import annotations

import typing as t

from .context import current_socket_context
from .context import SocketContext
from .errors import ErrorLog
from .exceptions import ConnectionClosed
from .handlers import refuse_async
from .interrupts import is_interrupt
from .protocol import CloseCode


def spawn(
    function: t.Callable[..., t.Any],
    args: tuple[t.Any, ...],
    kwargs: t.Mapping[str, t.Any],
) -> None:
    """Call *function* in a task that is tied to the current connection.

    :raises RuntimeError: where there is none.
    """
    refuse_async(function)
    context = current_socket_context(
        "There is no connection to tie a task to. Call spawn() in a handler, from on_open "
        "onwards; a task of the whole app is a thread or greenlet of your own."
    )
    context.ws.start_task(Task(context, function, args, kwargs).run)


class Task:
    """A function, and what it runs with.

    :param context: of the handler that started it; a copy is pushed.
    """

    def __init__(
        self,
        context: SocketContext,
        function: t.Callable[..., t.Any],
        args: tuple[t.Any, ...],
        kwargs: t.Mapping[str, t.Any],
    ) -> None:
        self._context = context.copy()
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._errors = ErrorLog(context.app, context.ws.id, context.path)

    def run(self) -> None:
        """Call the function within its contexts; close the connection if it fails."""
        try:
            with self._context:
                self._call()
        except ConnectionClosed:
            pass  # it meant to send to who has left, and ends quietly
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._errors.log(error)
            self._errors.clear()
            self._context.ws.close(CloseCode.INTERNAL_ERROR)

    def _call(self) -> None:
        try:
            self._function(*self._args, **self._kwargs)
        except ConnectionClosed:
            raise
        except BaseException as error:
            self._errors.note(error)
            raise
