"""The bodies of the API as types, for its description: of a request only what the router judges is constrained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

REFERENCE = "#/components/schemas/"
"""What a reference to a type begins with."""
_Object = dict[str, Any]
Choices = Annotated[int, Meta(ge=1, le=128)]
Limit = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class StreamOptions(Struct):
    """What a stream carries beside the answer; only with `stream: true`."""

    include_usage: Annotated[bool | None, Meta(description="End with a chunk that has the usage, and no choices.")] = (
        None
    )


class Message(Struct):
    """OpenAI's message of any role. The provider judges it."""

    role: Annotated[str | UnsetType, Meta(examples=["system", "user", "assistant", "tool"])] = UNSET
    content: Annotated[Any, Meta(description="Text, parts, or null.")] = UNSET


class ChatCompletionRequest(Struct):
    """OpenAI's request. Fields that are not listed here reach the provider unchanged, and are its to judge."""

    model: Annotated[str, Meta(min_length=1, description="ID of a model, as the list of models has it.")]
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: Annotated[bool | None, Meta(description="Answer with Server-Sent Events, as the answer is made.")] = None
    stream_options: StreamOptions | None = None
    n: Annotated[Choices | None, Meta(description="How many answers to make; 1 when left out.")] = None
    max_completion_tokens: Annotated[Limit | None, Meta(description="Upper limit of each answer, in tokens.")] = None
    max_tokens: Annotated[
        Limit | None, Meta(description="The older name of `max_completion_tokens`; equal to it when both are given.")
    ] = None


class Usage(Struct):
    """Tokens of the request and of all its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Object | None = None
    completion_tokens_details: _Object | None = None


class AnswerMessage(Struct):
    """What the model said; providers add fields of their own."""

    role: str
    content: str | None
    refusal: str | None
    tool_calls: list[_Object] | None = None
    reasoning_content: str | None = None


class Choice(Struct):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: _Object | None


class ChatCompletion(Struct):
    """A whole answer: OpenAI's object."""

    id: Annotated[str, Meta(description="`chatcmpl-` and the request id.")]
    object: Literal["chat.completion"]
    created: Annotated[int, Meta(description="Seconds since 1970.")]
    model: Annotated[str, Meta(description="The model that the request named.")]
    choices: list[Choice]
    usage: Usage


class ChunkChoice(Struct):
    """What is new of one answer."""

    index: int
    delta: _Object
    finish_reason: str | None
    logprobs: _Object | None = None


class ChatCompletionChunk(Struct):
    """One event of a stream: OpenAI's object."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ErrorObject(Struct):
    """What went wrong. Some errors have further fields, as what is missing of a balance."""

    message: str
    type: str
    param: Annotated[str | None, Meta(description="The field of the request at fault.")]
    code: str
    request_id: str


class ErrorBody(Struct):
    """The body of every error, and the last event of a stream that fails."""

    error: ErrorObject


class Event(Struct):
    """One event of a stream. The data of the last one is `[DONE]`, unless the stream fails."""

    data: Annotated[
        str,
        Meta(
            extra_json_schema={
                "anyOf": [
                    {
                        "contentMediaType": "application/json",
                        "contentSchema": {"$ref": f"{REFERENCE}ChatCompletionChunk"},
                    },
                    {"contentMediaType": "application/json", "contentSchema": {"$ref": f"{REFERENCE}ErrorBody"}},
                    {"const": "[DONE]"},
                ]
            }
        ),
    ]


class Health(Struct):
    """The process answers; of readiness: it can serve."""

    status: Literal["ok"]
