"""The admin port: /metrics for Prometheus, /healthz. It asks for no credential, so it is on loopback by default."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from core.process.listen import CannotListen


class AdminServer:
    """A running admin port; `url` says where. Made by `start`."""

    def __init__(self, runner: web.AppRunner, url: str) -> None:
        self._runner = runner
        self.url = url

    @classmethod
    async def start(cls, registries: Iterable[CollectorRegistry], host: str, port: int) -> AdminServer:
        """Serve the metrics of these registries. CannotListen when the port is taken."""
        sources = tuple(registries)

        async def metrics(_: web.Request) -> web.Response:
            body = b"".join(generate_latest(registry) for registry in sources)
            return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

        async def alive(_: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        app = web.Application()
        app.add_routes([web.get("/metrics", metrics), web.get("/healthz", alive)])
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise CannotListen(f"cannot listen for metrics on {host} port {port}: {error.strerror}") from None
        shown = f"[{host}]" if ":" in host else host
        return cls(runner, f"http://{shown}:{runner.addresses[0][1]}")

    async def stop(self) -> None:
        """Close it."""
        await self._runner.cleanup()
