"""Secrets that are easily found again, an upstream that tells all it hears, and clients that put them everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc.aio
from worldrouter.client import AsyncClient
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest, RevokeApiKeyRequest, RotateApiKeyRequest, VerifyApiKeyRequest
from worldrouter.v1.chat_pb2 import ChatCompletionParams, ChatMessage, CreateChatCompletionRequest
from worldrouter.v1.metering_pb2 import GetUsageRecordRequest, ListUsageRecordsRequest
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest, StreamRawCompletionRequest

from core.access.apikeys import make_key

PROVIDER_KEY = "canaryproviderkey0123456789"
HEADER_SECRET = "canaryheadersecret0123456789"
PROMPT = "canaryprompt0123456789"
ANSWER = "canaryanswer0123456789"
STRANGER = make_key("key_01m80c3xwk5gc1zwqh0nes95qb")
"""A key of the right form that nobody has."""

CONFIG: dict[str, Any] = {
    "core": {"grpc_port": 0},
    "timeouts": {"first_token_s": 0.1, "between_chunks_s": 0.1},
    "models": [
        {
            "id": "m",
            "max_output_tokens": 4000,
            "price": {"input": 1_000_000, "output": 2_000_000},
            "endpoints": [{"provider": "echo", "model": "up"}],
        }
    ],
}

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % ANSWER.encode()
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
WHOLE = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}]}' % ANSWER.encode()
)
STATUSES = ("400", "401", "402", "403", "404", "408", "413", "422", "429", "500", "503")
CASES = (*STATUSES, "fine", "error", "text", "late", "cut", "hang", "status", "header", "length")


def provider(port: int) -> dict[str, Any]:
    """The echo as a provider of a configuration; its key is in the environment."""
    return {
        "kind": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_key": "env:CANARY_KEY",
        "headers": {"x-org-token": f"Org {HEADER_SECRET}"},
    }


class Echo:
    """An upstream that says back what it was sent, credentials too, as the last word of the prompt tells it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            case = json.loads(body)["messages"][-1]["content"].rpartition(" ")[2]
            await self._answer(case, head, body, b"text/event-stream" in head, writer)
            await writer.drain()
            writer.write_eof()
            await reader.read()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.transport.abort()
            self._running.discard(task)

    async def close(self) -> None:
        """End what still runs."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @staticmethod
    async def _answer(case: str, head: bytes, body: bytes, stream: bool, writer: asyncio.StreamWriter) -> None:
        heard = f"Incorrect key {PROVIDER_KEY}, {HEADER_SECRET}: {head!r} {body!r}"
        error = json.dumps({"error": {"message": heard, "param": PROVIDER_KEY, "code": HEADER_SECRET}}).encode()
        kind = b"text/event-stream" if stream else b"application/json"
        line, more, sent = b"200 OK", b"", CHUNK + END if stream else WHOLE
        if case in STATUSES:
            line, kind, sent = case.encode() + b" " + PROVIDER_KEY.encode(), b"application/json", error
        elif case == "error":
            sent = b"data: " + error + b"\n\n" if stream else error
        elif case == "text":
            sent = b"data: " + heard.encode() + b"\n\n" if stream else heard.encode()
        elif case == "late":
            sent = CHUNK + b"data: " + error + b"\n\n"
        elif case in ("cut", "hang"):
            sent = CHUNK
        elif case == "status":
            line = heard.encode()
        elif case == "header":
            more = b"x-echo: %b\r\nbad header %b\r\n" % (PROVIDER_KEY.encode(), PROMPT.encode())
        length = b"content-length: %b\r\n" % PROVIDER_KEY.encode() if case == "length" else b""
        writer.write(b"HTTP/1.1 %b\r\ncontent-type: %b\r\nconnection: close\r\n%b%b\r\n" % (line, kind, more, length))
        writer.write(sent)
        if case == "hang":
            await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of an echo."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await echo.close()


@dataclass
class Talk:
    """Clients of a router, and what they were told when something failed."""

    http: str
    grpc: str
    key: str
    operator_token: str
    secrets: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    asked: int = 0

    async def say_everything(self) -> None:
        """Every path that a secret can take from a client."""
        self.secrets |= {self.key, STRANGER}
        async with aiohttp.ClientSession() as session:
            for case in CASES:
                for stream in (False, True):
                    await self._ask(session, case, stream=stream)
            await self._misplace(session)
            await self._malform(session)
        await self._break_http()
        await self._call()
        await self._leave()

    async def _post(self, session: aiohttp.ClientSession, path: str, data: bytes, **headers: str) -> None:
        sent = {"authorization": f"Bearer {self.key}", **headers}
        async with session.post(self.http + path, data=data, headers=sent) as answer:
            text = await answer.text()
        self.asked += 1
        if answer.status != 200 or '"error"' in text:
            self.errors.append(f"{answer.headers} " + text[text.find('{"error"') :])
        else:
            assert ANSWER in text

    async def _ask(self, session: aiohttp.ClientSession, case: str, *, stream: bool) -> None:
        message = {"role": "user", "content": f"{PROMPT} {case}"}
        body = {"model": "m", "messages": [message], "stream": stream, "max_tokens": 50, "user": PROMPT}
        await self._post(session, "/v1/chat/completions", json.dumps(body).encode())

    async def _misplace(self, session: aiohttp.ClientSession) -> None:
        """Keys where none belongs, and keys that are none."""
        fine = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"{PROMPT} fine"}]}).encode()
        chat = "/v1/chat/completions"
        for credential in (f"Bearer {STRANGER}", f"Bearer {self.key}x", f"Basic {self.key}", self.key, "Bearer"):
            await self._post(session, chat, fine, authorization=credential)
        await self._post(session, chat, fine, **{"x-request-id": self.key, "cookie": f"key={self.key}"})
        await self._post(session, f"{chat}?api_key={self.key}", fine, authorization="")
        await self._post(session, f"/v1/{self.key}", fine)
        await self._post(session, f"/v1/models/{self.key}", fine)
        await self._post(session, chat, fine.replace(b'"m"', json.dumps(self.key).encode()))
        await self._post(session, chat, fine, **{"content-encoding": self.key})
        async with session.get(
            f"{self.http}/v1/models/{self.key}", headers={"authorization": f"Bearer {self.key}"}
        ) as got:
            self.errors.append(await got.text())

    async def _malform(self, session: aiohttp.ClientSession) -> None:
        """Prompts where none belongs."""
        quoted = json.dumps(PROMPT).encode()
        for rest in (b"stream", b"n", b"max_tokens", b"stream_options", b"messages", b"extra_body", b"n_predict"):
            broken = b'{"model":"m","messages":[{"role":"user","content":%b}],"stream":true,"%b":%b}' % (
                quoted,
                rest,
                quoted,
            )
            await self._post(session, "/v1/chat/completions", broken.replace(b"0123", b"0123", 1))
        for broken in (
            quoted,
            b"[%b]" % quoted,
            b'{"messages":%b' % quoted,
            b'{"a":%b\xff}' % quoted,
            b"{%b:NaN}" % quoted,
        ):
            await self._post(session, "/v1/chat/completions", broken)

    async def _break_http(self) -> None:
        """What the HTTP parser refuses."""
        host, port = self.http.removeprefix("http://").split(":")
        chat = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        for raw in (
            f"GET /{PROMPT} {self.key} HTTP/1.1\r\n\r\n",
            f"{chat}authorization Bearer {self.key}\r\n\r\n",
            f"{self.key} / HTTP/1.1\r\nhost: x\r\n\r\n",
            f"{chat}content-length: {self.key}\r\n\r\n{PROMPT}",
            f"{chat}authorization: Bearer {self.key}\r\ncontent-length: 500\r\n\r\n{PROMPT}",
            f"{chat}transfer-encoding: chunked\r\n\r\n{PROMPT}\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(raw.encode())
            with contextlib.suppress(ConnectionError, TimeoutError):
                self.errors.append((await asyncio.wait_for(reader.read(), 2)).decode())
            writer.transport.abort()
            await asyncio.sleep(0)

    async def _call(self) -> None:
        """The same over gRPC: chats, keys made, changed and used, and what was recorded."""
        body = b'{"model":"m","messages":[{"role":"user","content":"%b %b"}]}'
        async with AsyncClient(self.grpc, self.operator_token, plaintext=True) as operator:
            made = await operator.auth.CreateApiKey(CreateApiKeyRequest(display_name="canary"))
            turned = await operator.auth.RotateApiKey(RotateApiKeyRequest(api_key_id=made.id))
            self.secrets |= {made.secret, turned.api_key.secret}
            for key in (made.secret, STRANGER, PROMPT):
                await self._tell(operator.auth.VerifyApiKey(VerifyApiKeyRequest(secret=key)))
            await self._tell(operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=made.id)))
            await self._tell(operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=turned.api_key.secret)))
        for credential in (self.key, turned.api_key.secret, STRANGER, PROMPT, self.operator_token):
            async with AsyncClient(self.grpc, credential, plaintext=True) as client:
                for case in (b"fine", b"400", b"late", b"text"):
                    sent = body % (PROMPT.encode(), case)
                    await self._tell(
                        client.raw_chat.CreateRawCompletion(CreateRawCompletionRequest(dialect=1, body=sent))
                    )
                    asked = StreamRawCompletionRequest(dialect=1, body=sent)
                    await self._tell(client.raw_chat.StreamRawCompletion(asked))
                params = ChatCompletionParams(model=STRANGER, messages=[ChatMessage(role=PROMPT, content=PROMPT)])
                await self._tell(client.chat.CreateChatCompletion(CreateChatCompletionRequest(params=params)))
                await self._tell(client.metering.GetUsageRecord(GetUsageRecordRequest(request_id=STRANGER)))
                await self._tell(client.metering.ListUsageRecords(ListUsageRecordsRequest(page_token=PROMPT)))
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            metadata = (("authorization", f"Bearer {self.key}"),)
            junk = b"\x0a\xff" + PROMPT.encode() + self.key.encode()
            await self._tell(
                channel.unary_unary("/worldrouter.v1.RawChatService/CreateRawCompletion")(junk, metadata=metadata)
            )

    async def _tell(self, call: Any) -> None:
        self.asked += 1
        try:
            if not hasattr(call, "read"):
                await call
            while hasattr(call, "read") and await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            self.errors.append(f"{error.details()} {error.trailing_metadata()}")

    async def _leave(self) -> None:
        """Go away in the middle of an answer."""
        host, port = self.http.removeprefix("http://").split(":")
        for stream in ("true", "false"):
            messages = json.dumps([{"role": "user", "content": f"{PROMPT} hang"}])
            body = f'{{"model": "m", "stream": {stream}, "messages": {messages}}}'
            _, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            await asyncio.sleep(0.1)
            writer.transport.abort()
        await asyncio.sleep(0.1)
