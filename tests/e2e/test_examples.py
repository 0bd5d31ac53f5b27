"""The examples of the README and of the welcome text work as they are written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from core.settings import load
from edge.settings import load_settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = "smollm2-135m-instruct"
README = (ROOT / "README.md").read_text()
SAID = "Say hello."
"""What the scripted model answers: the question."""


def example(language: str, containing: str) -> str:
    """The block of the README in this language that contains this."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def welcome_example(router: Any, title: str) -> str:
    """The lines under a title of what `serve` printed."""
    said = (router.home.parent / "serve.out").read_text()
    block = said.split(f"{title}:\n\n")[1].split("\n\n\n")[0]
    lines = re.match(r"((?:  .*\n|\n)+)", block + "\n")
    assert lines is not None
    return "\n".join(line[2:] for line in lines.group(1).splitlines())


class Reader:
    """Somebody who follows the README, with this router's addresses, key and model for those in it."""

    def __init__(self, router: Any, model: str, said: str | None) -> None:
        self.key = router.key
        self._router = router
        self._model = model
        self._said = said

    def exchanged(self, text: str, limit: str) -> str:
        """The text for this router. `limit` is added for the real model alone, which may well talk for minutes."""
        assert f'"{MODEL}"' in text
        text = text.replace("http://127.0.0.1:8080", self._router.http).replace("127.0.0.1:50051", self._router.grpc)
        more = "" if self._said is not None else f", {limit}"
        return text.replace(f'"{MODEL}"', f'"{self._model}"{more}')

    def run(self, command: list[str], cwd: Path, environment: Mapping[str, str] | None = None) -> str:
        """What a command prints that has the key in its environment."""
        with_key = {**os.environ, "WORLDROUTER_API_KEY": self.key, **(environment or {})}
        done = subprocess.run(command, cwd=cwd, env=with_key, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def expect(self, text: str) -> None:
        """The scripted model's very words, or some of the real one's."""
        assert text == self._said if self._said is not None else text.strip()


@pytest.fixture(params=["scripted", "real"])
def reader(request: pytest.FixtureRequest) -> Reader:
    if request.param == "real":
        return Reader(request.getfixturevalue("router"), MODEL, None)
    return Reader(request.getfixturevalue("scripted_router"), "scripted", SAID)


def text_of_events(stream: str) -> str:
    """The text in an SSE stream that is complete."""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)


def test_curl(reader: Reader, tmp_path: Path) -> None:
    """The README's curl line streams an answer; without "stream" it is one JSON object."""
    line = reader.exchanged(example("sh", "/v1/chat/completions"), '"max_tokens": 30')
    reader.expect(text_of_events(reader.run(["bash", "-c", line], tmp_path)))
    whole = line.replace(', "stream": true', "")
    assert whole != line
    reader.expect(json.loads(reader.run(["bash", "-c", whole], tmp_path))["choices"][0]["message"]["content"])


def test_python(reader: Reader, tmp_path: Path) -> None:
    """The README's Python lines print an answer."""
    (tmp_path / "example.py").write_text(reader.exchanged(example("python", "from openai"), "max_tokens=30"))
    reader.expect(reader.run([sys.executable, "example.py"], tmp_path))


@pytest.mark.skipif(
    not (HERE / "node" / "node_modules").is_dir() or shutil.which("node") is None,
    reason="Node, or what scripts/setup-node installs, is not there",
)
def test_javascript(reader: Reader, tmp_path: Path) -> None:
    """The README's JavaScript lines print an answer."""
    (tmp_path / "node_modules").symlink_to(HERE / "node" / "node_modules")
    (tmp_path / "example.mjs").write_text(reader.exchanged(example("js", "openai"), "max_tokens: 30"))
    reader.expect(reader.run(["node", "example.mjs"], tmp_path))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH of an environment with `pip install ./protos` in it, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("client")
    source = shutil.copytree(ROOT / "protos", folder / "protos", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=90)
    return os.pathsep.join([str(folder / "site"), sysconfig.get_path("purelib")])


def test_typed_python(reader: Reader, installed: str, tmp_path: Path) -> None:
    """The README's gRPC lines print an answer and its cost, with nothing installed but ./protos and its libraries."""
    (tmp_path / "example.py").write_text(reader.exchanged(example("python", "worldrouter.client"), "max_tokens=30"))
    # -S leaves out .pth files, and with them the checkout.
    said = reader.run([sys.executable, "-S", "example.py"], tmp_path, {"PYTHONPATH": installed})
    text, _, cost = said.rstrip("\n").rpartition("\n")
    reader.expect(text)
    assert re.fullmatch(r"[1-9][0-9]* nUSD", cost)


def test_grpcurl(reader: Reader) -> None:
    """The README's grpcurl line means a call that reflection knows, as it does the errors: we do what grpcurl does."""
    words = shlex.split(reader.exchanged(example("sh", "grpcurl"), '"max_tokens": 30').replace("\\\n", " "))
    assert words[:2] == ["grpcurl", "-plaintext"]
    options = dict(zip(words[2:6:2], words[3:6:2], strict=True))
    address, method = words[6:]
    name, _, value = options["-H"].partition(": ")
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        assert "ERROR_REASON_CONFLICT" in pool.FindEnumTypeByName("worldrouter.v1.ErrorReason").values_by_name
        service_name, _, method_name = method.partition("/")
        described = pool.FindServiceByName(service_name).methods_by_name[method_name]
        request, response = (
            message_factory.GetMessageClass(each) for each in (described.input_type, described.output_type)
        )
        call = channel.unary_stream(
            f"/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        asked = json_format.Parse(options["-d"], request())
        metadata = ((name, value.replace("$WORLDROUTER_API_KEY", reader.key)),)
        events = [json_format.MessageToDict(event) for event in call(asked, timeout=60, metadata=metadata)]
    assert "started" in events[0]
    assert "finished" in events[-1]
    chunks = [chunk for event in events for chunk in event.get("deltas", {}).get("chunks", ())]
    reader.expect("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))


def test_the_welcome_text(scripted_router: Any, tmp_path: Path) -> None:
    """The lines that `serve` prints at its first start work as they are, key included."""
    reader = Reader(scripted_router, "", SAID)
    curl = reader.run(["bash", "-c", welcome_example(scripted_router, "curl")], tmp_path)
    reader.expect(json.loads(curl)["choices"][0]["message"]["content"])
    (tmp_path / "example.py").write_text(welcome_example(scripted_router, "Python (pip install openai)"))
    reader.expect(reader.run([sys.executable, "example.py"], tmp_path))


def test_the_configuration(tmp_path: Path) -> None:
    """The README's worldrouter.toml is one that both halves take."""
    file = tmp_path / "worldrouter.toml"
    file.write_text(example("toml", "[core]"))
    settings = load(file, {"OPENAI_API_KEY": "sk-1"}, {})
    assert [model.id for model in settings.models] == ["gpt-4o-mini"]
    assert load_settings(tomllib.loads(file.read_text())["edge"], {}, {}).port == 8080


def test_the_two_commands() -> None:
    """The README names ./scripts/serve and ./scripts/test, which are there to be run."""
    for command in ("./scripts/serve", "./scripts/test"):
        assert f"\n{command}" in README
        assert os.access(ROOT / command, os.X_OK)
