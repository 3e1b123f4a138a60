"""How long the replies of a socket take, and how many there are."""

from __future__ import annotations

import selectors
import sys
import time
import typing as t
from array import array

import click

from .show import closing
from .show import milliseconds

if t.TYPE_CHECKING:
    from .client import Client

#: Seconds for the first reply, and of silence before it begins.
_FIRST_REPLY = 5.0
_SILENCE = 0.1


def measure(connections: int, seconds: float, message: str, **place: t.Any) -> int:
    """Measure, and print the result.

    :return: the exit code.
    """
    from .client import Client

    clients: list[Client] = []
    try:
        for _ in range(connections):
            clients.append(Client(**place))
        _Bench(clients, message).run(seconds)
    finally:
        for client in clients:
            client.close()
            client.hang_up()
    return 0


class _Bench:
    def __init__(self, clients: t.Sequence[Client], message: str) -> None:
        self._message = message
        self._clients = clients
        self._selector = selectors.DefaultSelector()
        for client in clients:
            self._selector.register(client.fileno(), selectors.EVENT_READ, client)
        self._sent: dict[Client, float] = {}
        self._latencies = array("d")

    def run(self, seconds: float) -> None:
        self._skip_greetings()
        self._try_one()
        start = time.perf_counter()
        for client in self._clients:
            self._send(client)
        with click.progressbar(
            length=100, label=f"{len(self._clients)} connections", file=sys.stderr,
            show_pos=False,
        ) as bar:  # fmt: skip
            while (elapsed := time.perf_counter() - start) < seconds:
                self._step(min(0.1, seconds - elapsed))
                done = int(100 * min(1.0, (time.perf_counter() - start) / seconds))
                if done > bar.pos:
                    bar.update(done - bar.pos)
        click.echo(self._result(elapsed))

    def _skip_greetings(self) -> None:
        """Read what ``on_open`` has said, for a time that has an end."""
        end = time.perf_counter() + 10 * _SILENCE
        while (ready := self._selector.select(_SILENCE)) and time.perf_counter() < end:
            for key, _ in ready:
                self._receive(key.data)

    def _try_one(self) -> None:
        client, selector = self._clients[0], selectors.DefaultSelector()
        with selector:
            selector.register(client.fileno(), selectors.EVENT_READ)
            client.send(self._message)
            if not selector.select(_FIRST_REPLY):
                raise click.ClickException(
                    f"No reply to {self._message!r} came within {_FIRST_REPLY:g} seconds. "
                    "Choose a --message that is answered."
                )
        self._receive(client)

    def _step(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            client: Client = key.data
            self._receive(client)
            while client.has_more:
                self._receive(client)
            self._latencies.append(time.perf_counter() - self._sent[client])
            self._send(client)

    def _send(self, client: Client) -> None:
        self._sent[client] = time.perf_counter()
        client.send(self._message)

    def _receive(self, client: Client) -> None:
        if client.receive() is None:
            raise click.ClickException(
                f"{closing(client.code, client.reason)} {len(self._latencies):,} replies had come."
            )

    def _result(self, elapsed: float) -> str:
        found = sorted(self._latencies)
        if not found:
            raise click.ClickException("No reply came in that time.")
        p50, p99 = (found[int(len(found) * share)] for share in (0.5, 0.99))
        return (
            f"{len(found):,} replies in {elapsed:.1f} s: {len(found) / elapsed:,.0f} a second\n"
            f"latency: p50 {milliseconds(p50)}, p99 {milliseconds(p99)}, "
            f"longest {milliseconds(found[-1])}"
        )
