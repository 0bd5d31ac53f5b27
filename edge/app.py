"""The edge's HTTP application: which route does what. `edge.server` gives it a socket."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast

import grpc
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from edge.chat import Chat
from edge.connection import GONE, ClientGone, Connection, Watch
from edge.errors import Problems
from edge.metrics import EdgeMetrics
from edge.models import Models
from edge.openapi import document
from edge.payments import PAGE_PATH, WEBHOOK_PATH, Payments, is_loopback
from edge.reach import Reach
from edge.request import CHAT_PATH, ChatRequest
from edge.settings import EdgeSettings

WATCH = web.AppKey("watch", Watch)
"""The connections of this application; `edge.server` runs it."""
CHAT = web.AppKey("chat", Chat)
"""What serves chats; `edge.server` gives it the short way."""
DESCRIPTION = web.AppKey("description", bytes)
"""The OpenAPI document of the application, as JSON."""
Served = Callable[[web.Request, Connection], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def mint_request_id() -> str:
    """An id for a request that the core never saw, and so cannot name."""
    return "edge-" + secrets.token_hex(12)


def make_app(
    channel: grpc.aio.Channel,
    settings: EdgeSettings,
    registry: CollectorRegistry,
    *,
    mint_id: Callable[[], str] = mint_request_id,
    clock_s: Callable[[], float] = time.monotonic,
) -> web.Application:
    """The application over one channel to the core, which the caller closes. Metrics go to `registry`."""
    metrics = EdgeMetrics()
    registry.register(metrics)
    watch = Watch(settings, Problems(mint_id, settings.support_contact), metrics, clock_s)
    chat, models = Chat(channel, watch), Models(channel)
    app = web.Application(client_max_size=settings.body_limit_bytes)
    app[WATCH], app[CHAT] = watch, chat
    app.router.add_post(CHAT_PATH, _long_way(chat))
    app.router.add_get("/v1/models", _served("models", models.list, watch))
    app.router.add_get("/v1/models/{model_id:.+}", _served("model", models.get, watch))
    payments = Payments(channel, settings)
    app.router.add_post(WEBHOOK_PATH, _served("webhook", payments.webhook, watch))
    if is_loopback(settings.host):
        app.router.add_get(PAGE_PATH, _served("test_page", payments.page, watch))
        app.router.add_post(PAGE_PATH, _served("test_page", payments.click, watch))
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", _readiness(channel, watch))
    app.router.add_get("/openapi.json", _description)
    app[DESCRIPTION] = msgspec.json.encode(document(app.router))
    if watch.cors is not None:
        app.middlewares.append(watch.cors.preflights({route.method for route in app.router.routes()}))
    return app


def _served(route: str, serve: Served, watch: Watch) -> Handler:
    """A route of the API: its failures become answers, and it is counted."""
    metrics = watch.metrics

    async def handle(request: web.Request) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        connection.sent_s = began_s = watch.clock_s()
        metrics.in_flight += 1
        exchange = None
        try:
            if watch.draining:
                raise web.HTTPServiceUnavailable
            response = await serve(request, connection)
        except grpc.aio.AioRpcError as error:
            response = watch.problems.of(error).response()
        except web.HTTPException as refusal:
            response = connection.refuse(request, refusal)
        except (ClientGone, ConnectionError):
            metrics.client_disconnects += 1
            response = web.Response(status=GONE)
        finally:
            metrics.in_flight -= 1
            exchange, connection.exchange = connection.exchange, None
            if exchange is not None:
                exchange.call.cancel()  # of no effect on one that has ended, as all have but for a bug
        ended_s = watch.clock_s()
        first_byte_s = (exchange and exchange.first_byte_s) or ended_s
        stream = exchange is not None and exchange.stream
        metrics.observe(route, response.status, stream, first_byte_s - began_s, ended_s - began_s)
        return response

    return handle


def _long_way(chat: Chat) -> Handler:
    """For a chat whose path is spelled in another way."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return cast(web.StreamResponse, await chat.serve(ChatRequest.of(request)))

    return handle


async def _alive(request: web.Request) -> web.StreamResponse:
    """Liveness: the process answers."""
    return web.json_response({"status": "ok"})


async def _description(request: web.Request) -> web.StreamResponse:
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


def _readiness(channel: grpc.aio.Channel, watch: Watch) -> Handler:
    """Readiness: a core that serves is reachable, and this edge is not about to stop."""
    reach = Reach(channel)

    async def ready(request: web.Request) -> web.StreamResponse:
        why = "It is stopping." if watch.draining else await reach.obstacle() and "It cannot reach a core."
        if why:
            return replace(watch.problems.own(503), message=f"This edge takes no requests. {why}").response()
        return web.json_response({"status": "ok"})

    return ready
