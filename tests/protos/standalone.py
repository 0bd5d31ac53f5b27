"""What a service does that installed the client package and nothing else of ours; test_client.py runs it.

Takes the address of a core and prints what it got as JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys

import worldrouter
from worldrouter.client import AsyncClient, Client
from worldrouter.v1.chat_pb2 import (
    ChatCompletionParams,
    ChatMessage,
    CreateChatCompletionRequest,
    StreamChatCompletionRequest,
)

PARAMS = ChatCompletionParams(model="m", messages=[ChatMessage(role="user", content="one two")])


def run(target: str) -> list[str]:
    """A whole answer, then a streamed one, word by word."""
    with Client(target, "sync-key", plaintext=True) as client:
        answer = client.chat.CreateChatCompletion(CreateChatCompletionRequest(params=PARAMS), timeout=10)
        events = list(client.chat.StreamChatCompletion(StreamChatCompletionRequest(params=PARAMS), timeout=10))
    words = [chunk.choices[0].delta.content for event in events for chunk in event.deltas.chunks]
    return [answer.choices[0].message.content, *words]


async def run_async(target: str) -> list[str]:
    """The same with asyncio."""
    async with AsyncClient(target, "async-key", plaintext=True) as client:
        answer = await client.chat.CreateChatCompletion(CreateChatCompletionRequest(params=PARAMS), timeout=10)
        words = [answer.choices[0].message.content]
        async for event in client.chat.StreamChatCompletion(StreamChatCompletionRequest(params=PARAMS), timeout=10):
            words += [chunk.choices[0].delta.content for chunk in event.deltas.chunks]
    return words


if __name__ == "__main__":
    found = {
        "file": worldrouter.__file__,
        "ours": [name for name in ("core", "edge", "storage") if importlib.util.find_spec(name)],
        "sync": run(sys.argv[1]),
        "async": asyncio.run(run_async(sys.argv[1])),
    }
    print(json.dumps(found))  # noqa: T201  this is how it answers
