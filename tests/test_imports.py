"""Who may import whom, and that importing does nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("core", "edge", "storage") for path in (ROOT / package).rglob("*.py"))

# Tested with plain values: they know neither transport nor database.
PURE = frozenset(
    {
        "core.chat.admission",
        "core.chat.answers",
        "core.catalog",
        "core.chat.chunk_view",
        "core.chat.chunks",
        "core.chat.halves",
        "core.chat.counting",
        "core.chat.dispatch",
        "core.chat.ending",
        "core.chat.envelope",
        "core.chat.frame",
        "core.chat.media",
        "core.money.auditor",
        "core.money.escrow",
        "core.money.funds",
        "core.money.limit_texts",
        "core.chat.exchange",
        "core.money.leases",
        "core.money.ledger",
        "core.money.meter",
        "core.money.pricing",
        "core.money.purging",
        "core.chat.offer",
        "core.chat.pipeline",
        "core.chat.produced",
        "core.money.ratios",
        "core.money.rollups",
        "core.rates.headers",
        "core.rates.rates",
        "core.rates.share",
        "core.routing",
        "core.chat.sse",
        "core.chat.tool_calls",
        "core.chat.upstream_errors",
        "core.money.usage",
    }
)
MACHINERY = frozenset({"grpc", "google", "worldrouter", "aiohttp", "sqlalchemy", "grpc_health", "grpc_reflection"})
# What the pure ones may see of the core besides one another.
COMMON = frozenset({"core.access_log", "core.call", "core.errors", "core.process.line_writer", "core.providers.base"})
# What of the storage anybody may see.
SEAM = frozenset(
    {
        "storage.errors",
        "storage.interfaces",
        "storage.records",
        "storage.audit_records",
        "storage.limit_records",
        "storage.usage_records",
    }
)
# Immutable, or said not to change: what may be assigned at a module's top level.
CONSTANT_TYPES = frozenset({"Final", "Mapping", "Sequence", "Iterable", "Collection", "TypeAlias", "ClassVar"})
MUTABLE_CALLS = frozenset({"dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque", "bytearray"})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


NAMES = sorted(module_name(path) for path in FILES)


@cache
def trees() -> Mapping[str, ast.Module]:
    """What the files say."""
    return {module_name(path): ast.parse(path.read_text()) for path in FILES}


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """The full names that each module imports."""
    return {name: frozenset(imports_of(tree)) for name, tree in trees().items()}


def packages(name: str) -> set[str]:
    """The top-level packages that a module imports."""
    return {found.partition(".")[0] for found in imports()[name]}


def test_the_edge_knows_neither_core_nor_storage() -> None:
    """It knows one thing about the core: a channel."""
    for name in imports():
        if name.startswith("edge"):
            assert not packages(name) & {"core", "storage"}, name


def test_storage_knows_nothing_of_its_users() -> None:
    """Neither core nor edge nor gRPC."""
    for name in imports():
        if name.startswith("storage"):
            assert not packages(name) & {"core", "edge", "grpc", "worldrouter", "aiohttp"}, name


def test_only_the_launcher_of_serve_sees_both_halves() -> None:
    """Everywhere else the contract stands between them."""
    assert [name for name in imports() if name.startswith("core") and "edge" in packages(name)] == ["core.serve"]


def test_the_client_package_stands_alone() -> None:
    """It installs without anything else of ours."""
    for path in (ROOT / "protos" / "worldrouter").rglob("*.py"):
        found = {name.partition(".")[0] for name in imports_of(ast.parse(path.read_text()))}
        assert not found & {"core", "edge", "storage"}, path


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_is_pure_sees_no_machinery(name: str) -> None:
    """No gRPC, protobuf, aiohttp or SQLAlchemy, and only what is as pure; of the storage its interfaces."""
    assert not packages(name) & MACHINERY
    modules = {found for found in imports()[name] if found in trees()}
    assert {each for each in modules if each.startswith("core.")} <= PURE | COMMON
    assert {each for each in modules if each.startswith("storage")} <= SEAM


def test_pure_modules_load_no_machinery() -> None:
    """Nor does anything that they import."""
    script = f"import sys, {', '.join(sorted(PURE))}; print(*sys.modules)"
    loaded = run(script).split()
    assert not {name.partition(".")[0] for name in loaded} & MACHINERY


def test_one_module_opens_the_store() -> None:
    """The composition root; others may bring its schema up to date, and know it by its interfaces."""
    concrete = {name for name in trees() if name.startswith("storage.")} - SEAM - {"storage.migrate", "storage.url"}
    users = {name for name, found in imports().items() if name.startswith("core") and found & concrete}
    assert users == {"core.server"}


def test_imports_stand_at_the_top() -> None:
    """Never inside a function, but in the command line's launchers: `--help` must not load a server."""
    hidden = {
        name
        for name, tree in trees().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert hidden <= {"core.cli.launch"}


def annotation_of(statement: ast.stmt) -> str:
    """The outermost name of an annotation: `Mapping` of `Mapping[str, int]`."""
    found = statement.annotation if isinstance(statement, ast.AnnAssign) else None
    found = found.value if isinstance(found, ast.Subscript) else found
    return found.id if isinstance(found, ast.Name) else ""


def is_mutable(value: ast.expr | None) -> bool:
    """A literal, comprehension or call that makes a collection that can change."""
    if isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp):
        return True
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in MUTABLE_CALLS


def mutable_state(tree: ast.Module) -> Iterator[int]:
    """Lines that make collections at the top level which are not declared immutable, or that say `global`."""
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not is_mutable(statement.value):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if names != ["__all__"] and annotation_of(statement) not in CONSTANT_TYPES:
            yield statement.lineno
    yield from (node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global))


def test_no_module_has_mutable_state() -> None:
    """A collection at the top level is immutable or declared so; nothing says `global`."""
    assert [f"{name}:{line}" for name, tree in trees().items() for line in mutable_state(tree)] == []


IMPORT_ALL = """
import importlib, json, os, sys

ours, others = json.loads(sys.argv[1])
for name in others:
    try:
        importlib.import_module(name)
    except Exception:
        pass  # a name in a module, no module

events = []

def watch(event, args):
    if event == "open":
        path, mode = str(args[0]), args[1] or "r"
        source = path.endswith((".py", ".pyc")) or "__pycache__" in path
        if not source or any(letter in mode for letter in "wax+"):
            events.append((event, path))
    elif event.startswith(("socket.", "subprocess.", "os.fork", "os.exec", "os.spawn", "os.system", "signal.")):
        events.append((event, str(args)[:200]))
    elif event in ("_thread.start_new_thread", "os.mkdir", "os.rename", "os.remove", "os.putenv", "sqlite3.connect"):
        events.append((event, str(args)[:200]))

sys.addaudithook(watch)
for name in ours:
    importlib.import_module(name)
import asyncio, threading
loops = [each for each in (asyncio._get_running_loop(),) if each is not None]
print(json.dumps([events, [thread.name for thread in threading.enumerate()], len(loops)]))
"""


def run(script: str, *arguments: str) -> str:
    """The output of a fresh interpreter."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_does_nothing() -> None:
    """No file is opened, no socket made, no process, thread or loop started, whichever module is imported."""
    ours = [name for name in NAMES if not name.endswith("__main__")]
    found = set[str]().union(*imports().values())
    others = sorted(name for name in found if name.partition(".")[0] not in {"core", "edge", "storage"})
    events, threads, loops = json.loads(run(IMPORT_ALL, json.dumps([ours, others])))
    assert events == []
    assert threads == ["MainThread"]
    assert loops == 0
