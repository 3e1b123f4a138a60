"""``flask websockets``: see an app's sockets, and talk to them.

An app gets the group when the extension is attached. A command is imported when one is
asked for, so a server that runs has none of them in memory.
"""

from __future__ import annotations

import os

import click
from flask.cli import AppGroup

#: The group's name below ``flask``.
COMMAND = "websockets"


class Commands(AppGroup):
    """The group of an app."""

    def __init__(self) -> None:
        super().__init__(COMMAND, help="See the app's WebSockets, and talk to them.")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, for the help."""
        return sorted({**_load(), **self.commands})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """One of them, or one that the app has added."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        return super().get_command(ctx, name) or _load().get(name)


def _load() -> dict[str, click.Command]:
    from .connect import bench
    from .connect import connect
    from .routes import routes
    from .running import broadcast
    from .running import clients
    from .running import close

    return {
        "bench": bench,
        "broadcast": broadcast,
        "clients": clients,
        "close": close,
        "connect": connect,
        "routes": routes,
    }
