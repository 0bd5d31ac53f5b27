"""Names and shapes of the API, from its descriptors."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
UNITS = re.compile(r"_nano_usd$|_pico_usd_per_token$|_count$|_ms$|_us$|^page_size$")
# Names that OpenAI chose, numbers that name something, and a status code.
WITHOUT_UNIT = {
    "worldrouter.v1.ChatCompletionParams.LogitBiasEntry.value",
    "worldrouter.v1.ChatCompletionParams.max_completion_tokens",
    "worldrouter.v1.ChatCompletionParams.max_tokens",
    "worldrouter.v1.ChatCompletionParams.n",
    "worldrouter.v1.ChatCompletionParams.seed",
    "worldrouter.v1.ChatCompletionParams.top_logprobs",
    "worldrouter.v1.ChatChoice.index",
    "worldrouter.v1.ChoiceDelta.index",
    "worldrouter.v1.ToolCallDelta.index",
    "worldrouter.v1.LedgerEntry.id",
    "worldrouter.v1.ReloadConfigurationResponse.version",
    "worldrouter.v1.AuditResponse.last_chained_entry_id",
    "worldrouter.v1.ExportedEntry.position",
    "worldrouter.v1.Limit.used",
    "worldrouter.v1.Limit.maximum",  # the unit is that of the measure
    "worldrouter.v1.SetLimitRequest.maximum",
    "worldrouter.v1.RelayBegin.call_id",
    "worldrouter.v1.RelayCredit.call_id",
    "worldrouter.v1.RelayEnd.call_id",
    "worldrouter.v1.RelayEnd.code",
    "worldrouter.v1.RelayInitialMetadata.call_id",
    "worldrouter.v1.RelayMessage.call_id",
    "worldrouter.v1.RelayRequest.cancelled_call_ids",
}
MONEY = re.compile(r"usd|amount|balance|cost|credit_limit|fee|paid|shortfall|price(?!_id)|held|available")
FILES = sorted(file.stem for file in (Path(__file__).parents[2] / "protos/worldrouter/v1").glob("*.proto"))


def files() -> list[FileDescriptor]:
    return [import_module(f"worldrouter.v1.{name}_pb2").DESCRIPTOR for name in FILES]


def messages() -> Iterator[Descriptor]:
    for file in files():
        for message in file.message_types_by_name.values():
            yield message
            yield from message.nested_types


def fields() -> Iterator[FieldDescriptor]:
    for message in messages():
        yield from message.fields


def test_imports() -> None:
    """The protos import nothing but one another and google/protobuf, so that every check works offline."""
    for file in files():
        for other in file.dependencies:
            assert other.name.startswith(("google/protobuf/", "worldrouter/v1/")), (file.name, other.name)


def test_no_untyped_json() -> None:
    """No field is a google.protobuf.Struct, which turns integers into floats: JSON travels as text."""
    for field in fields():
        name = field.message_type.full_name if field.message_type else ""
        assert name not in {f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue", "Any")}, (
            field.full_name
        )


def test_lists_paginate() -> None:
    """Every List RPC takes page_size and page_token and answers next_page_token beside one list."""
    listing = [
        method
        for file in files()
        for service in file.services_by_name.values()
        for method in service.methods
        if method.name.startswith("List")
    ]
    assert listing
    for method in listing:
        asked, answered = method.input_type.fields_by_name, method.output_type.fields_by_name
        assert asked["page_size"].cpp_type == FieldDescriptor.CPPTYPE_INT32
        assert asked["page_token"].cpp_type == FieldDescriptor.CPPTYPE_STRING
        assert answered["next_page_token"].cpp_type == FieldDescriptor.CPPTYPE_STRING
        assert [field.is_repeated for field in method.output_type.fields].count(True) == 1


def test_requests_are_their_own() -> None:
    """Every RPC has a request of its own name."""
    for file in files():
        for service in file.services_by_name.values():
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"


def test_enum_zeros() -> None:
    """The zero of every enum is …_UNSPECIFIED, so that a value that was left out is never taken for one."""
    enums = [enum for file in files() for enum in file.enum_types_by_name.values()]
    enums += [enum for message in messages() for enum in message.enum_types]
    assert enums
    for enum in enums:
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED"), enum.full_name


def test_integers_name_their_unit() -> None:
    """Every integer says its unit at the end of its name; the few that have none are listed here."""
    integers = {field.full_name: field for field in fields() if field.cpp_type in INTEGERS}
    unnamed = {name for name, field in integers.items() if not UNITS.search(field.name)}
    assert unnamed == WITHOUT_UNIT


def test_money_is_whole() -> None:
    """Money is int64 …_nano_usd and a price int64 …_pico_usd_per_token; no float comes near it."""
    floats = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
    for field in fields():
        number = field.cpp_type in INTEGERS or field.cpp_type in floats
        if number and MONEY.search(field.name):
            assert re.search(r"_nano_usd$|_pico_usd_per_token$", field.name), field.full_name
            assert field.cpp_type == FieldDescriptor.CPPTYPE_INT64, field.full_name


def test_times() -> None:
    """Points in time are Timestamps named …_time, and nothing else is."""
    for field in fields():
        timestamp = field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp"
        assert timestamp == field.name.endswith("_time"), field.full_name


def test_reasons_have_examples(buf: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Every error reason says its status and HTTP code and gives an example."""
    image = tmp_path / "image.binpb"
    assert buf("build", "protos", "-o", image).returncode == 0
    built = FileDescriptorSet.FromString(image.read_bytes()).file
    file = next(file for file in built if file.name.endswith("error_reason.proto"))
    enum = next(enum for enum in file.enum_type if enum.name == "ErrorReason")
    # [5, 0, 2, i] is the path of value i of the first enum of a file, by the numbers of descriptor.proto.
    comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
    for index, value in enumerate(enum.value[1:], start=1):
        comment = comments[(5, 0, 2, index)]
        assert "Example:" in comment, value.name
        assert re.match(r" [A-Z_]+, HTTP \d{3}\. ", comment), value.name


def test_changes_may_be_repeated() -> None:
    """Every RPC that changes something takes an idempotency key; chats, whose ids the core mints, do not."""
    # What is rebuilt or reloaded is what can be read, made anew from the same; webhooks name their payment; what a
    # relay carries has keys of its own.
    reading = re.compile(r"(Audit|Export|Get|HandleWebhook|List|Rebuild|Relay|Reload|Summarize|Verify)([A-Z]|$)")
    for file in files():
        for service in file.services_by_name.values():
            for method in service.methods:
                wanted = not service.name.endswith("ChatService") and not reading.match(method.name)
                assert ("idempotency_key" in method.input_type.fields_by_name) == wanted, method.full_name
