"""What ``app.config["WEBSOCKETS_..."]`` may say, read once, when an app is attached."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from dataclasses import fields

from .protocol.deflate import Options
from .protocol.handshake import normalize_origin
from .protocol.handshake import split_tokens

PREFIX = "WEBSOCKETS_"


@dataclass(frozen=True)
class Config:
    """The values in force for one app. Sizes are in bytes, times in seconds."""

    max_message_size: int = 1 << 20
    ping_interval: float | None = 25.0
    ping_timeout: float = 20.0
    compression: Options | None = None
    send_buffer: int = 1 << 20
    slow_client: t.Literal["close", "drop"] = "close"
    close_timeout: float = 5.0
    drain_timeout: float = 10.0
    #: Messages and Pings a second, and how many at once.
    rate_limit: tuple[float, float] | None = None
    subprotocols: tuple[str, ...] = ()
    #: Besides the page's own host; "*" alone for all.
    allowed_origins: tuple[str, ...] = ()
    max_connections: int | None = None
    regex: t.Literal["re", "re2"] = "re"
    control: bool = True

    @classmethod
    def from_mapping(cls, config: t.Mapping[str, t.Any]) -> Config:
        """Read and check the keys that begin with ``WEBSOCKETS_``.

        :raises ValueError: if a key is unknown or a value cannot be; it names the
            key, what it is and what it may be.
        """
        known = {PREFIX + field.name.upper(): field.name for field in fields(cls)}
        values = {}
        for key, value in config.items():
            if not key.startswith(PREFIX):
                continue
            if key not in known:
                raise ValueError(
                    f"{key} is no key of this extension. Those are {', '.join(known)}."
                )
            try:
                values[known[key]] = _READERS[known[key]](value)
            except ValueError as error:
                raise ValueError(f"{key} is {value!r}. It may be {error}.") from None
        return cls(**values)

    @property
    def stall_timeout(self) -> float | None:
        """How long a peer may take not a byte before it counts as gone."""
        return None if self.ping_interval is None else self.ping_interval + self.ping_timeout


def _is_count(value: t.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_names(value: t.Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _one_of(*words: str) -> t.Callable[[t.Any], str]:
    def read(value: t.Any) -> str:
        if value in words:
            return t.cast(str, value)
        raise ValueError(" or ".join(map(repr, words)))

    return read


def _size(value: t.Any) -> int:
    if _is_count(value):
        return t.cast(int, value)
    raise ValueError("a number of bytes above 0")


def _seconds(value: t.Any) -> float:
    if _is_positive(value):
        return float(value)
    raise ValueError("a number of seconds above 0")


def _is_positive(value: t.Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def _interval(value: t.Any) -> float | None:
    if value is None:
        return None
    try:
        return _seconds(value)
    except ValueError as error:
        raise ValueError(f"{error}, or None for no pings") from None


def _rate_limit(value: t.Any) -> tuple[float, float] | None:
    if value is None:
        return None
    pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(pair) == 2 and all(_is_positive(number) for number in pair):
        rate, burst = map(float, pair)
        if burst >= 1:
            return rate, burst
        if not isinstance(value, (list, tuple)):
            return rate, 1.0  # of one in two seconds, one at once
    raise ValueError(
        "a number of messages a second above 0, a pair of that number and of the messages "
        "that may come at once, at least 1, or None for no limit"
    )


def _switch(value: t.Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("True or False")


def _subprotocols(value: t.Any) -> tuple[str, ...]:
    if value is None:
        return ()
    sentence = "a list of subprotocol names, which are tokens without spaces and commas"
    if not _is_names(value):
        raise ValueError(sentence)
    for name in value:
        try:
            if split_tokens(name) == [name]:
                continue
        except ValueError:
            pass
        raise ValueError(sentence)
    return tuple(value)


def _allowed_origins(value: t.Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if value == "*":
        return ("*",)
    sentence = (
        "None for the origin of the request itself, a list of others such as "
        "'https://example.org', with no path and no '*' in them, or '*' for all"
    )
    if not _is_names(value):
        raise ValueError(sentence)
    try:
        return tuple(normalize_origin(one) for one in value)
    except ValueError:
        raise ValueError(sentence) from None


def _max_connections(value: t.Any) -> int | None:
    if value is None:
        return None
    if _is_count(value):
        return t.cast(int, value)
    raise ValueError("a number of connections above 0, or None for no limit")


def _compression(value: t.Any) -> Options | None:
    if value is None or value is False:
        return None
    if value is True:
        return Options()
    sentence = (
        "True, False, or a dict with any of level (0 to 9), memory_level (1 to 9), "
        "window_bits (9 to 15) and context_takeover (True or False)"
    )
    ranges = {"level": range(10), "memory_level": range(1, 10), "window_bits": range(9, 16)}
    if not isinstance(value, dict):
        raise ValueError(sentence)
    for name, option in value.items():
        if name == "context_takeover":
            if not isinstance(option, bool):
                raise ValueError(sentence)
        elif name not in ranges or type(option) is not int or option not in ranges[name]:
            raise ValueError(sentence)
    return Options(**value)


_READERS: dict[str, t.Callable[[t.Any], t.Any]] = {
    "max_message_size": _size,
    "ping_interval": _interval,
    "ping_timeout": _seconds,
    "compression": _compression,
    "send_buffer": _size,
    "slow_client": _one_of("close", "drop"),
    "close_timeout": _seconds,
    "drain_timeout": _seconds,
    "rate_limit": _rate_limit,
    "subprotocols": _subprotocols,
    "allowed_origins": _allowed_origins,
    "max_connections": _max_connections,
    "regex": _one_of("re", "re2"),
    "control": _switch,
}
