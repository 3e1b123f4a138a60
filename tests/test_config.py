from __future__ import annotations

import dataclasses
import typing as t

import pytest
from flask import Flask

from flask_websockets.config import Config
from flask_websockets.protocol.deflate import Options

MIB = 1 << 20

BYTES = "a number of bytes above 0"
SECONDS = "a number of seconds above 0"
NAMES = "a list of subprotocol names, which are tokens without spaces and commas"
RATE = (
    "a number of messages a second above 0, a pair of that number and of the messages that "
    "may come at once, at least 1, or None for no limit"
)
COMPRESSION = (
    "True, False, or a dict with any of level (0 to 9), memory_level (1 to 9), "
    "window_bits (9 to 15) and context_takeover (True or False)"
)
ORIGINS = (
    "None for the origin of the request itself, a list of others such as "
    "'https://example.org', with no path and no '*' in them, or '*' for all"
)
CONNECTIONS = "a number of connections above 0, or None for no limit"

DEFAULTS = {
    "max_message_size": MIB,
    "ping_interval": 25.0,
    "ping_timeout": 20.0,
    "compression": None,
    "send_buffer": MIB,
    "slow_client": "close",
    "close_timeout": 5.0,
    "drain_timeout": 10.0,
    "rate_limit": None,
    "subprotocols": (),
    "allowed_origins": (),
    "max_connections": None,
    "regex": "re",
    "control": True,
}


def read(**values: t.Any) -> Config:
    return Config.from_mapping({f"WEBSOCKETS_{name.upper()}": values[name] for name in values})


def test_without_keys_the_defaults_hold() -> None:
    assert dataclasses.asdict(Config.from_mapping({})) == DEFAULTS


def test_the_keys_of_others_are_left_alone() -> None:
    config = {"SECRET_KEY": "x", "WEBSOCKET_MAX_MESSAGE_SIZE": -1, "MAX_MESSAGE_SIZE": "x"}
    assert Config.from_mapping(config) == Config()
    assert Config.from_mapping(Flask("tests").config) == Config()


@pytest.mark.parametrize(
    ("name", "value", "read_as"),
    [
        ("max_message_size", 1, 1),
        ("max_message_size", 1 << 40, 1 << 40),
        ("send_buffer", 1, 1),
        ("send_buffer", 10 * MIB, 10 * MIB),
        ("ping_interval", None, None),
        ("ping_interval", 10, 10.0),
        ("ping_interval", 0.5, 0.5),
        ("ping_timeout", 3, 3.0),
        ("ping_timeout", 0.001, 0.001),
        ("close_timeout", 1, 1.0),
        ("drain_timeout", 0.5, 0.5),
        ("close_timeout", 86_400.0, 86_400.0),
        ("rate_limit", None, None),
        ("rate_limit", 20, (20.0, 20.0)),
        ("rate_limit", 0.5, (0.5, 1.0)),
        ("rate_limit", [20, 100], (20.0, 100.0)),
        ("rate_limit", (0.1, 1), (0.1, 1.0)),
        ("rate_limit", (100, 1), (100.0, 1.0)),
        ("slow_client", "close", "close"),
        ("slow_client", "drop", "drop"),
        ("regex", "re", "re"),
        ("regex", "re2", "re2"),
        ("subprotocols", None, ()),
        ("subprotocols", [], ()),
        ("subprotocols", ["chat"], ("chat",)),
        ("subprotocols", ["v2.chat", "v1.chat"], ("v2.chat", "v1.chat")),
        ("subprotocols", ("b", "a"), ("b", "a")),
        ("allowed_origins", None, ()),
        ("allowed_origins", [], ()),
        ("allowed_origins", "*", ("*",)),
        ("allowed_origins", ["https://example.org"], ("https://example.org",)),
        (
            "allowed_origins",
            ("HTTPS://Example.org:443", "http://[0::1]:80", "null"),
            ("https://example.org", "http://[::1]", "null"),
        ),
        ("max_connections", None, None),
        ("max_connections", 1, 1),
        ("max_connections", 100_000, 100_000),
        ("control", True, True),
        ("control", False, False),
        ("compression", None, None),
        ("compression", False, None),
        ("compression", True, Options(6, 5, 12, True)),
        ("compression", {}, Options(6, 5, 12, True)),
        ("compression", {"level": 0}, Options(level=0)),
        ("compression", {"level": 9, "memory_level": 1}, Options(level=9, memory_level=1)),
        ("compression", {"memory_level": 9}, Options(memory_level=9)),
        ("compression", {"window_bits": 9}, Options(window_bits=9)),
        ("compression", {"window_bits": 15}, Options(window_bits=15)),
        ("compression", {"context_takeover": False}, Options(context_takeover=False)),
    ],
)
def test_a_value_that_may_be(name: str, value: t.Any, read_as: t.Any) -> None:
    config = read(**{name: value})
    assert getattr(config, name) == read_as
    assert type(getattr(config, name)) is type(read_as)
    assert config == dataclasses.replace(Config(), **{name: read_as})


NO_SIZES = [0, -1, 1.5, 1e6, True, False, None, "1048576", "1 MiB", [1]]
NO_SECONDS = [0, 0.0, -1, -0.5, True, False, "20", [20], 1e9, float("inf"), float("nan")]


@pytest.mark.parametrize(
    ("name", "value", "may_be"),
    [
        *[("max_message_size", value, BYTES) for value in NO_SIZES],
        *[("send_buffer", value, BYTES) for value in NO_SIZES],
        *[("ping_interval", value, f"{SECONDS}, or None for no pings") for value in NO_SECONDS],
        *[("ping_timeout", value, SECONDS) for value in [*NO_SECONDS, None]],
        *[("close_timeout", value, SECONDS) for value in [*NO_SECONDS, None]],
        *[("drain_timeout", value, SECONDS) for value in [*NO_SECONDS, None]],
        *[("rate_limit", value, RATE) for value in [*NO_SECONDS, b"20", {}, {20: 40}]],
        *[
            ("rate_limit", value, RATE)
            for value in ([], [20], [20, 40, 60], [20, 0.5], [0, 40], [20, None], ["20", 40])
        ],
        *[("rate_limit", value, RATE) for value in ([20, True], [20, float("inf")])],
        *[
            ("slow_client", value, "'close' or 'drop'")
            for value in (None, "", "CLOSE", "wait", True, 1, ["close"])
        ],
        *[("regex", value, "'re' or 're2'") for value in (None, "", "RE2", "regex", True, [])],
        *[
            ("subprotocols", value, NAMES)
            for value in (
                "chat",
                b"chat",
                "",
                [""],
                [" chat"],
                ["chat", "super chat"],
                ["a,b"],
                ["chat", None],
                [1],
                [b"chat"],
                ["chät"],
                ["chat\r\nX-Evil: 1"],
            )
        ],
        *[("subprotocols", value, NAMES) for value in (5, 1.5, True, False)],
        *[
            ("allowed_origins", value, ORIGINS)
            for value in (
                "https://example.org",
                "",
                "null",
                b"*",
                True,
                5,
                ["*"],
                ["https://*.example.org"],
                ["example.org"],
                ["https://example.org/"],
                ["https://example.org/chat"],
                ["https://example.org", None],
                [b"https://example.org"],
                ["https://a.example,https://b.example"],
                ["https://b\xfccher.example"],
                {"https://example.org"},
            )
        ],
        *[
            ("max_connections", value, CONNECTIONS)
            for value in (0, -1, 1.0, True, False, "100", [1])
        ],
        *[("control", value, "True or False") for value in (None, 0, 1, "", "false", "/run/x")],
        ("subprotocols", iter(["chat"]), NAMES),  # could be read only once
        *[
            ("compression", value, COMPRESSION)
            for value in (
                0,
                1,
                6,
                "true",
                [],
                ["level"],
                {"level": -1},
                {"level": 10},
                {"level": "6"},
                {"level": None},
                {"level": True},
                {"level": []},
                {"memory_level": 0},
                {"memory_level": 10},
                {"window_bits": 8},
                {"window_bits": 16},
                {"context_takeover": 1},
                {"context_takeover": None},
                {"level": 6, "strategy": 1},
                {"LEVEL": 6},
                {1: 2},
            )
        ],
        ("compression", {"level": 6.0}, COMPRESSION),
        ("compression", {"memory_level": 5.0}, COMPRESSION),
        ("compression", {"window_bits": 12.0}, COMPRESSION),
    ],
)
def test_a_value_that_may_not_be_is_refused_with_what_may(
    name: str, value: t.Any, may_be: str
) -> None:
    with pytest.raises(ValueError) as refused:
        read(**{name: value})
    assert str(refused.value) == f"WEBSOCKETS_{name.upper()} is {value!r}. It may be {may_be}."
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "key", ["WEBSOCKETS_MAX_MESAGE_SIZE", "WEBSOCKETS_", "WEBSOCKETS_max_message_size"]
)
def test_an_unknown_key_is_refused_with_the_known_ones(key: str) -> None:
    with pytest.raises(ValueError) as refused:
        Config.from_mapping({key: 1})
    known = ", ".join(f"WEBSOCKETS_{name.upper()}" for name in DEFAULTS)
    assert str(refused.value) == f"{key} is no key of this extension. Those are {known}."


def test_all_keys_at_once() -> None:
    values: dict[str, t.Any] = {
        "max_message_size": 2,
        "ping_interval": 3.0,
        "ping_timeout": 4.0,
        "compression": Options(level=1),
        "send_buffer": 5,
        "slow_client": "drop",
        "close_timeout": 6.0,
        "drain_timeout": 7.0,
        "rate_limit": (7.0, 8.0),
        "subprotocols": ("chat",),
        "allowed_origins": ("https://example.org",),
        "max_connections": 7,
        "regex": "re2",
        "control": False,
    }
    assert read(**{**values, "compression": {"level": 1}}) == Config(**values)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_WEBSOCKETS_MAX_MESSAGE_SIZE", "65536")
    monkeypatch.setenv("FLASK_WEBSOCKETS_PING_INTERVAL", "null")
    monkeypatch.setenv("FLASK_WEBSOCKETS_SLOW_CLIENT", "drop")
    monkeypatch.setenv("FLASK_WEBSOCKETS_RATE_LIMIT", "[20, 100]")
    monkeypatch.setenv("FLASK_WEBSOCKETS_SUBPROTOCOLS", '["v2", "v1"]')
    monkeypatch.setenv("FLASK_WEBSOCKETS_ALLOWED_ORIGINS", "*")
    monkeypatch.setenv("FLASK_WEBSOCKETS_MAX_CONNECTIONS", "1000")
    monkeypatch.setenv("FLASK_WEBSOCKETS_COMPRESSION__window_bits", "10")
    app = Flask("tests")
    app.config.from_prefixed_env()
    assert Config.from_mapping(app.config) == Config(
        max_message_size=65536,
        ping_interval=None,
        slow_client="drop",
        rate_limit=(20.0, 100.0),
        subprotocols=("v2", "v1"),
        allowed_origins=("*",),
        max_connections=1000,
        compression=Options(window_bits=10),
    )


def test_a_peer_may_stall_for_the_interval_and_the_timeout() -> None:
    assert Config().stall_timeout == 45.0
    assert read(ping_interval=1, ping_timeout=0.5).stall_timeout == 1.5
    assert read(ping_interval=None).stall_timeout is None


def test_a_config_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().send_buffer = 1  # type: ignore[misc]
