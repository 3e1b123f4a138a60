"""Reading and writing of descriptors that are our own and never block."""

from __future__ import annotations

import os


def receive(descriptor: int, buffer: bytearray) -> bytes:
    """Some bytes of the peer, by way of *buffer*; ``b""`` when it has ended.

    :raises OSError: if there is none now, or the connection is lost.
    """
    size = os.readv(descriptor, [buffer])
    return bytes(memoryview(buffer)[:size])


def write(descriptor: int, data: bytes) -> int:
    """Hand the kernel *data*.

    :return: how many bytes it has taken.
    :raises OSError: if it takes none now, or the connection is lost.
    """
    return os.write(descriptor, data)


try:
    from ._speedups import receive as receive
    from ._speedups import write as write
except ImportError:
    pass  # not compiled
