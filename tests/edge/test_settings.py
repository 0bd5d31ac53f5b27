"""Where settings come from, and how bad ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from core.settings import Settings
from edge.__main__ import read_table
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


def test_a_section_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    """A typo in its name would pass for nothing set; what is the core's in a file for both is not looked into."""
    file = tmp_path / "worldrouter.toml"
    sections = Settings.__struct_fields__
    file.write_text("".join(f"{name}.x = 1\n" for name in sections))
    assert read_table(file) == {"x": 1}
    file.write_text("[egde]\nport = 1\n")
    with pytest.raises(BadSetting) as refused:
        read_table(file)
    said, _, known = str(refused.value).partition("; there are ")
    assert said == f"{file}: there is no section 'egde'"
    assert sorted(known.split(", ")) == sorted(sections)


def test_precedence() -> None:
    """The command line comes before the environment, and that before the file."""
    table = {"host": "0.0.0.0", "port": 1, "drain_s": 7}
    environment = {"WORLDROUTER_EDGE_PORT": "2", "WORLDROUTER_EDGE_DRAIN_S": "8.5", "WORLDROUTER_OTHER": "x"}
    settings = load_settings(table, environment, {"port": 3, "host": None})
    assert (settings.host, settings.port, settings.drain_s) == ("0.0.0.0", 3, 8.5)


@pytest.mark.parametrize(
    "variable",
    [
        "SERVICE_HOST=10.0.0.11",
        "SERVICE_PORT=8080",
        "SERVICE_PORT_HTTP_ALT=8080",
        "PORT=tcp://10.0.0.11:8080",
        "PORT_8080_TCP=tcp://10.0.0.11:8080",
        "PORT_8080_TCP_PROTO=tcp",
        "PORT_8080_TCP_PORT=8080",
        "PORT_8080_TCP_ADDR=10.0.0.11",
        "ADMIN_SERVICE_HOST=10.0.0.12",
        "ADMIN_PORT=udp://10.0.0.12:9090",
        "ADMIN_PORT_9090_UDP_ADDR=10.0.0.12",
    ],
)
def test_variables_that_kubernetes_sets(variable: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those of a service named worldrouter-edge are no settings: they are ignored, and the log says so."""
    name, _, value = f"WORLDROUTER_EDGE_{variable}".partition("=")
    with caplog.at_level("INFO"):
        assert load_settings({}, {name: value}, {}) == EdgeSettings()
    assert [record.getMessage().partition(" is ignored")[0] for record in caplog.records] == [name]


def test_origins_are_a_list_in_the_file_and_separated_by_commas_elsewhere() -> None:
    """Ports, other schemes and addresses are origins too; nothing is none."""
    wanted = ("https://a.example", "http://localhost:3000", "http://[::1]:5173", "app://obsidian.md", "*")
    text = ", ".join(wanted)
    assert load_settings({"cors_origins": list(wanted)}, {}, {}).cors_origins == wanted
    assert load_settings({}, {"WORLDROUTER_EDGE_CORS_ORIGINS": text}, {}).cors_origins == wanted
    assert load_settings({}, {}, {"cors_origins": text}).cors_origins == wanted
    assert load_settings({"cors_origins": ["*"]}, {"WORLDROUTER_EDGE_CORS_ORIGINS": ""}, {}).cors_origins == ()


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "https://a.example/",
        "https://A.example",
        "https://*.example",
        "https://a.example:443",
        "http://a.example:80",
        "https://user@a.example",
        "https://a.example ",
        "null",
        "",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    """A browser would never send it, so it would never match."""
    with pytest.raises(BadSetting, match=r"cors_origins: '.*' is no origin; wanted .* scheme://host\[:port\]"):
        load_settings({"cors_origins": [origin]}, {}, {})


@pytest.mark.parametrize(
    ("table", "environment", "text"),
    [
        ({"port": "80"}, {}, r"\[edge\] port = '80': Expected `int`"),
        ({"port": 70000}, {}, r"\[edge\] port = 70000: Expected `int` <= 65535"),
        ({"hosts": "x"}, {}, r"\[edge\] hosts: there is no such setting"),
        ({"client_stall_s": 0}, {}, r"\[edge\] client_stall_s = 0: Expected `float` > 0"),
        ({}, {"WORLDROUTER_EDGE_PORT": "high"}, r"WORLDROUTER_EDGE_PORT = 'high': Expected `int`"),
        ({}, {"WORLDROUTER_EDGE_PROT": "1"}, r"WORLDROUTER_EDGE_PROT: there is no such setting"),
        ({}, {"WORLDROUTER_EDGE_SERVICE": "x"}, r"WORLDROUTER_EDGE_SERVICE: there is no such setting"),
        ({"cors_origins": [7]}, {}, r"\[edge\] cors_origins = \[7\]: Expected `str`, got `int`"),
        ({}, {"WORLDROUTER_EDGE_HOST": ""}, r"WORLDROUTER_EDGE_HOST = '': Expected `str` of length >= 1"),
        ({"core": "http://127.0.0.1:1"}, {}, r"core = 'http://127.0.0.1:1': wanted dns:///host:port or unix:/path"),
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
    [
        "dns:///core.example.org:50051",
        "core.example.org:50051",
        "10.0.0.1:50051",
        "ipv4:10.0.0.1:50051",
        "ipv4:127.0.0.1:50051,10.0.0.1:50051",
        "ipv4:10.0.0.1:50051,127.0.0.1:50051",
        "dns://8.8.8.8/localhost:50051",
    ],
)
def test_keys_do_not_cross_the_network_in_plain_text(target: str) -> None:
    """A core on another machine needs TLS."""
    with pytest.raises(BadSetting, match=r"--core-ca\) is needed"):
        open_channel(EdgeSettings(core=target))


@pytest.mark.parametrize(
    "target",
    [
        "unix:/x",
        "dns:///127.0.0.1:1",
        "dns:///localhost:1",
        "localhost:1",
        "ipv4:127.0.0.1:1",
        "ipv4:127.0.0.1:1,127.0.0.1:2",
        "dns:///[::1]:1",
    ],
)
async def test_plain_text_stays_on_this_machine(target: str) -> None:
    """Unix sockets and loopback need no TLS."""
    await open_channel(EdgeSettings(core=target)).close()


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    """And a key of another certificate; without that the edge would start and never reach a core."""
    authority = trustme.CA()
    one, other = authority.issue_cert("edge.test"), authority.issue_cert("edge.test")
    ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    Path(ca).write_text("none")
    with pytest.raises(BadSetting, match=r"ca\.pem: NO_CERT"):
        open_channel(EdgeSettings(core_ca=ca))
    authority.cert_pem.write_to_path(ca)
    one.cert_chain_pems[0].write_to_path(cert)
    other.private_key_pem.write_to_path(key)
    with pytest.raises(BadSetting, match=r"cert\.pem, \S*key\.pem: KEY_VALUES_MISMATCH"):
        open_channel(EdgeSettings(core_ca=ca, core_cert=cert, core_key=key))


def test_a_file_that_cannot_be_read_is_named() -> None:
    """A certificate that is not there is a bad setting."""
    with pytest.raises(BadSetting, match=r"cannot read /nonexistent/ca\.pem: No such file"):
        open_channel(EdgeSettings(core_ca="/nonexistent/ca.pem"))
