"""permessage-deflate (RFC 7692): the four parameters, and messages through zlib.

Knows how an offer becomes an agreement and how a message is deflated and
inflated within a limit. Frames and headers are somebody else's.
"""

from __future__ import annotations

import sys
import typing as t
import zlib

#: What a sync flush ends with and the wire leaves out (:rfc:`7692#section-7.2.1`).
_TAIL = b"\x00\x00\xff\xff"

#: An extension's parameters: a name and a value, or None where it has none.
Parameters = t.Sequence[tuple[str, "str | None"]]


class TooBig(Exception):
    """A message grows past its limit while it is inflated.

    :param data: what of the piece the limit has room for.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data


class Options(t.NamedTuple):
    """What our side wants of permessage-deflate.

    :param level: zlib's level, 0 (none) to 9 (best).
    :param memory_level: zlib's memory level, 1 to 9.
    :param window_bits: the base-2 logarithm of both windows, 9 to 15. Together
        with the memory level it sets what a connection costs: 20 KiB at 12 and 5.
    :param context_takeover: whether a message may refer to those before it, which
        compresses better and keeps zlib's state for as long as the connection.
    """

    level: int = 6
    memory_level: int = 5
    window_bits: int = 12
    context_takeover: bool = True


class Agreement(t.NamedTuple):
    """The parameters that both sides hold to (:rfc:`7692#section-7.1`)."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int

    def header(self, offered: Parameters) -> str:
        """The value of Sec-WebSocket-Extensions that answers *offered*."""
        parts = ["permessage-deflate"]
        if self.server_no_context_takeover:
            parts.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            parts.append("client_no_context_takeover")
        if self.server_max_window_bits < 15 or any(
            name == "server_max_window_bits" for name, _ in offered
        ):
            parts.append(f"server_max_window_bits={self.server_max_window_bits}")
        if any(name == "client_max_window_bits" for name, _ in offered):
            parts.append(f"client_max_window_bits={self.client_max_window_bits}")
        return "; ".join(parts)


def negotiate(
    offers: t.Iterable[tuple[str, Parameters]], options: Options
) -> tuple[Agreement, str] | None:
    """Take the first offer that can be met.

    :param offers: the client's extensions in its order of preference.
    :param options: what our side wants.
    :return: the agreement and the header value that says it, or None where no
        offer can be met; then messages travel as they are.
    """
    for name, parameters in offers:
        if name == "permessage-deflate":
            agreement = _agree(parameters, options)
            if agreement is not None:
                return agreement, agreement.header(parameters)
    return None


def _agree(parameters: Parameters, options: Options) -> Agreement | None:
    """Judge one offer. None declines it (:rfc:`7692#section-7.1`)."""
    names = [name for name, _ in parameters]
    if len(set(names)) != len(names):
        return None
    server_takeover = client_takeover = options.context_takeover
    server_bits = options.window_bits
    client_bits = 15
    for name, value in parameters:
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            if name == "server_no_context_takeover":
                server_takeover = False
            else:
                client_takeover = False
        elif name == "server_max_window_bits":
            bits = _window_bits(value)
            # zlib has no raw deflate with a window of 8 bits: decline that offer.
            if bits is None or bits == 8:
                return None
            server_bits = min(server_bits, bits)
        elif name == "client_max_window_bits":
            bits = 15 if value is None else _window_bits(value)
            if bits is None:
                return None
            client_bits = min(options.window_bits, bits)
        else:
            return None
    return Agreement(not server_takeover, not client_takeover, server_bits, client_bits)


def _window_bits(value: str | None) -> int | None:
    """8 to 15 in decimal, no sign, no leading zero; None for all else."""
    if value is not None and value in ("8", "9", "10", "11", "12", "13", "14", "15"):
        return int(value)
    return None


class PerMessageDeflate:
    """Both directions of one connection under one agreement."""

    __slots__ = ("_agreement", "_deflater", "_inflater", "_options")

    def __init__(self, agreement: Agreement, options: Options) -> None:
        self._agreement = agreement
        self._options = options
        self._inflater: zlib._Decompress | None = None
        self._deflater: zlib._Compress | None = None

    @property
    def shared_key(self) -> t.Hashable:
        """The same for all whose messages come out the same; None if they depend on others."""
        if not self._agreement.server_no_context_takeover:
            return None
        bits = self._agreement.server_max_window_bits
        return (bits, self._options.level, self._options.memory_level)

    def inflate(self, data: bytes, room: int) -> bytes:
        """Inflate a piece of a message, of whatever size, as it arrives.

        :param data: the next bytes of the message's payload.
        :param room: how many bytes may come of it.
        :raises TooBig: if more would; what would is never held in memory.
        :raises zlib.error: if the bytes are not deflate.
        """
        room = min(room, sys.maxsize - 1)  # zlib takes no larger limit
        out = bytearray()  # there may be very many pieces
        position, step = 0, len(data)
        while position < len(data):
            inflater = self._inflater
            if inflater is None:
                # zlib's smallest inflate window is 9 bits and reads one of 8 too.
                bits = max(9, self._agreement.client_max_window_bits)
                inflater = self._inflater = zlib.decompressobj(-bits)
            piece = data[position : position + step]
            position += len(piece)
            out += inflater.decompress(piece, room - len(out) + 1)
            if len(out) > room:
                raise TooBig(bytes(out[:room]))
            if inflater.eof:
                # A block with BFINAL ends the stream; what follows is a new one
                # (RFC 7692, section 7.2.3.4). zlib copies what it leaves over, so
                # where there is one such block, go on in small steps.
                position -= len(inflater.unused_data)
                step = 256
                self._inflater = None
        return bytes(out)

    def finish(self, room: int) -> bytes:
        """Inflate what is left at a message's end. Errors as for :meth:`inflate`."""
        out = self.inflate(_TAIL, room)
        if self._agreement.client_no_context_takeover:
            self._inflater = None
        return out

    def deflate(self, payload: bytes) -> bytes:
        """Deflate a whole message (:rfc:`7692#section-7.2.1`)."""
        deflater = self._deflater
        if deflater is None:
            deflater = zlib.compressobj(
                self._options.level,
                zlib.DEFLATED,
                -self._agreement.server_max_window_bits,
                self._options.memory_level,
            )
        if not self._agreement.server_no_context_takeover:
            self._deflater = deflater
        data = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(_TAIL)]
