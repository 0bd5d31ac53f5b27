"""The admin port: metrics for Prometheus and liveness. It asks for no key, so it listens on loopback."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from edge.server import bind


async def start_admin(registry: CollectorRegistry, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve `registry` at /metrics, and /healthz; returns what to `cleanup()` and the port. Raises CannotListen."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def alive(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    bound = bind(host, port)
    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", alive)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, bound).start()
    return runner, int(bound.getsockname()[1])
