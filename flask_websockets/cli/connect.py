"""``flask websockets connect`` and ``bench``: clients of a server."""

from __future__ import annotations

import sys
import typing as t

import click
from flask.cli import with_appcontext

from .fresh import run
from .target import takes_target


@click.command(short_help="Talk to a socket.")
@with_appcontext
@takes_target
@click.option(
    "--wait", default=1.0, show_default=True, metavar="SECONDS",
    help="How long to wait for another reply once the input has ended.",
)  # fmt: skip
def connect(place: dict[str, t.Any], wait: float) -> None:
    """Connect to a socket and talk to it.

    TARGET is a URL, an endpoint, a rule or a path of the app; the app's only socket if it is
    left out. The variables of a rule are given as NAME=VALUE; others become the query.

    In a terminal, each line that is typed is sent, and /help shows what else there is.
    Elsewhere each line of the input is a message, and each reply is written as it came.

    The exit code is 0 if the connection ended in peace, 1 if it could not be opened, 3 if it
    was lost or closed with an error.
    """
    sys.exit(run("connect", {**place, "wait": wait}))


@click.command(short_help="Measure the latency and rate of a socket.")
@with_appcontext
@takes_target
@click.option("--connections", "-c", default=10, show_default=True, type=click.IntRange(1))
@click.option(
    "--seconds", "-s", default=5.0, show_default=True, type=click.FloatRange(0, min_open=True)
)
@click.option("--message", "-m", default="hello", show_default=True, help="What is sent.")
def bench(place: dict[str, t.Any], connections: int, seconds: float, message: str) -> None:
    """Measure a socket of a server that runs.

    TARGET and NAME=VALUE are as for flask websockets connect. Each connection sends the
    message, waits for the reply, and sends it again: what answers a message with one
    message can be measured.
    """
    options = {"connections": connections, "seconds": seconds, "message": message}
    sys.exit(run("bench", {**place, **options}))
