"""A pytest plugin: the fixture ``websocket``.

A module of its own, as pytest imports plugins before anything else: the package and all
that it needs are imported by the tests that use it, when the program is monkey-patched,
coverage is measured and the environment is set.
"""

from __future__ import annotations

import contextlib
import typing as t

import pytest

if t.TYPE_CHECKING:
    from flask.testing import FlaskClient

    from flask_websockets.testing import Connection


@pytest.fixture
def websocket(client: FlaskClient) -> t.Iterator[t.Callable[..., Connection]]:
    """Open WebSockets to the app: ``websocket("/chat/red")``.

    Takes what :func:`flask_websockets.testing.connect` takes. The first argument of that is
    the fixture ``client``, of pytest-flask or your own, unless *client* says another one.
    Each connection is closed when the test is over.
    """
    from flask_websockets.testing import connect

    with contextlib.ExitStack() as stack:
        default = client

        def websocket(
            path: str = "/", *, client: FlaskClient | None = None, **options: t.Any
        ) -> Connection:
            return stack.enter_context(connect(client or default, path, **options))

        yield websocket
