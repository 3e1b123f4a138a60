"""Run a client in a process that no library has patched.

An app that gevent has monkey-patched is imported by the time a command runs. Its waiting
would be gevent's then, which a prompt that waits for a key would stop for everybody.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import typing as t

import click

_ENVIRON = "_FLASK_WEBSOCKETS_RUN"


def run(action: str, options: dict[str, t.Any]) -> int:
    """Do what the command *action* does once it knows its options.

    :param options: its keyword arguments, which JSON can say.
    :return: the exit code.
    """
    if socket.socket.__module__ == "socket":
        return _act(action, options)
    # By the environment, which others cannot read as they can read the arguments.
    environ = {**os.environ, _ENVIRON: json.dumps([action, options])}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", __name__], environ)


def _act(action: str, options: dict[str, t.Any]) -> int:
    if action == "bench":
        from .measure import measure

        return measure(**options)
    from .talk import talk

    return talk(**options)


def _main() -> int:
    action, options = json.loads(os.environ.pop(_ENVIRON))
    try:
        return _act(action, options)
    except click.ClickException as error:
        error.show()
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_main())
