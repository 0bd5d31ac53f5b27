"""Where settings come from, and how bad ones are refused."""

from __future__ import annotations

from typing import Any

import pytest

from edge.channel import open_channel
from edge.settings import BadSetting, EdgeSettings, load_settings


def test_defaults() -> None:
    """Without any setting the edge listens on loopback with the documented limits."""
    settings = load_settings({}, {}, {})
    assert settings == EdgeSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.body_limit_bytes == 10 * 1024 * 1024
    assert (settings.body_timeout_s, settings.idle_timeout_s, settings.client_stall_s) == (30, 30, 30)
    assert (settings.comment_interval_s, settings.drain_s) == (10, 600)


def test_precedence() -> None:
    """The command line comes before the environment, and that before the file."""
    table = {"host": "0.0.0.0", "port": 1, "drain_s": 7}
    environment = {"WORLDROUTER_EDGE_PORT": "2", "WORLDROUTER_EDGE_DRAIN_S": "8.5", "WORLDROUTER_OTHER": "x"}
    settings = load_settings(table, environment, {"port": 3, "host": None})
    assert (settings.host, settings.port, settings.drain_s) == ("0.0.0.0", 3, 8.5)


@pytest.mark.parametrize(
    ("table", "environment", "text"),
    [
        ({"port": "80"}, {}, r"\[edge\] port = '80': Expected `int`"),
        ({"port": 70000}, {}, r"\[edge\] port = 70000: Expected `int` <= 65535"),
        ({"hosts": "x"}, {}, r"\[edge\] hosts: there is no such setting"),
        ({"client_stall_s": 0}, {}, r"\[edge\] client_stall_s = 0: Expected `float` > 0"),
        ({}, {"WORLDROUTER_EDGE_PORT": "high"}, r"WORLDROUTER_EDGE_PORT = 'high': Expected `int`"),
        ({}, {"WORLDROUTER_EDGE_PROT": "1"}, r"WORLDROUTER_EDGE_PROT: there is no such setting"),
        ({}, {"WORLDROUTER_EDGE_HOST": ""}, r"WORLDROUTER_EDGE_HOST = '': Expected `str` of length >= 1"),
        ({"core_cert": "c"}, {}, "core_cert and core_key belong together"),
        ({"core_cert": "c", "core_key": "k"}, {}, "core_cert needs core_ca"),
    ],
)
def test_bad_settings_are_named(table: Any, environment: Any, text: str) -> None:
    """A bad setting is refused with its name, its value and what is wanted."""
    with pytest.raises(BadSetting, match=text):
        load_settings(table, environment, {})


@pytest.mark.parametrize(
    "target",
    ["dns:///core.example.org:50051", "core.example.org:50051", "10.0.0.1:50051", "ipv4:10.0.0.1:50051"],
)
def test_keys_do_not_cross_the_network_in_plain_text(target: str) -> None:
    """A core on another machine needs TLS."""
    with pytest.raises(BadSetting, match="core_ca is needed"):
        open_channel(EdgeSettings(core=target))


@pytest.mark.parametrize(
    "target",
    ["unix:/x", "dns:///127.0.0.1:1", "dns:///localhost:1", "localhost:1", "ipv4:127.0.0.1:1", "dns:///[::1]:1"],
)
async def test_plain_text_stays_on_this_machine(target: str) -> None:
    """Unix sockets and loopback need no TLS."""
    await open_channel(EdgeSettings(core=target)).close()


def test_a_file_that_cannot_be_read_is_named() -> None:
    """A certificate that is not there is a bad setting."""
    with pytest.raises(BadSetting, match=r"cannot read /nonexistent/ca\.pem: No such file"):
        open_channel(EdgeSettings(core_ca="/nonexistent/ca.pem"))
