"""What user code raises: logged once, and told to who watches, as Flask does for views."""

from __future__ import annotations

import traceback
import typing as t

from flask import Flask
from flask import got_request_exception

from .interrupts import is_interrupt


class ErrorLog:
    """The errors of one connection, or of one of its tasks.

    :param app: the application, whose logger takes them.
    :param id: that of the connection.
    :param path: of its URL.
    """

    __slots__ = ("_app", "_id", "_noted", "_path")

    def __init__(self, app: Flask, id: str, path: str) -> None:
        self._app = app
        self._id = id
        self._path = path
        # Several, as turns may be within one another or beside: see ConnectionContext.run.
        self._noted: list[BaseException] = []

    def note(self, error: BaseException) -> None:
        """Log *error* where it has been raised, for loggers that look at the request.

        What ends the task or the process is none.
        """
        if not is_interrupt(error):
            self._log(error)
            self._noted.append(error)

    def log(self, error: BaseException) -> None:
        """Log *error* on its way out, unless it has been noted: a teardown function's."""
        if not any(noted is error for noted in self._noted):
            self._log(error)

    def clear(self) -> None:
        """Let go of what has been noted: tracebacks refer to everything."""
        self._noted.clear()

    def _log(self, error: BaseException) -> None:
        # A newline of the client's must not begin a line of the log.
        path = repr(self._path)[1:-1]
        self._write("Exception on socket %s of %s", error, self._id, path)
        app = self._app
        try:
            got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
        except BaseException as failure:
            if is_interrupt(failure):
                raise
            self._write("A receiver of got_request_exception failed", failure)

    def _write(self, sentence: str, error: BaseException, *args: t.Any) -> None:
        try:
            exc_info = (type(error), error, error.__traceback__)
            self._app.logger.error(sentence, *args, exc_info=exc_info)
        except Exception:
            # A filter or handler of the logger's; its context is the error that it got.
            traceback.print_exc()
