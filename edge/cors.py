"""Browsers on other sites: which origins may read our answers (`cors_origins`), and what they ask before (preflights).

Answers never allow credentials in CORS's sense, cookies: API keys come in a header that a page sets itself.
Source of the rules: the Fetch standard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from aiohttp import web
from aiohttp.typedefs import Middleware

from edge.answer import EXPOSED_HEADERS

ANY = "*"
ALLOW_ORIGIN = "Access-Control-Allow-Origin"
REQUEST_METHOD = "Access-Control-Request-Method"
MAX_AGE_S = 7200
"""For which a browser remembers a preflight's answer; Chrome's upper limit."""
_VARY: Mapping[str, str] = {"Vary": "Origin"}


class Cors:
    """Adds what lets pages of these origins read an answer; `"*"` among them stands for all."""

    def __init__(self, origins: Collection[str]) -> None:
        exposed = {"Access-Control-Expose-Headers": ", ".join(EXPOSED_HEADERS)}
        listed = () if ANY in origins else origins
        self._listed = {origin: {ALLOW_ORIGIN: origin, **exposed, **_VARY} for origin in listed}
        self._others = {ALLOW_ORIGIN: ANY, **exposed} if ANY in origins else _VARY

    def headers(self, request_headers: Mapping[str, str]) -> Mapping[str, str]:
        """What every answer to a request with these headers carries."""
        return self._listed.get(request_headers.get("Origin", ""), self._others)

    def preflights(self, methods: Collection[str]) -> Middleware:
        """Answers preflights, of any path and without a key, with 204: to other origins without leave to go on."""
        leave = {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            # The star is for all that SDKs add; of Authorization it does not speak.
            "Access-Control-Allow-Headers": "Authorization, Content-Type, *",
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }

        @web.middleware
        async def answer(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            asked = request.headers
            if request.method != "OPTIONS" or REQUEST_METHOD not in asked:
                return await handler(request)
            return web.Response(status=204, headers=leave if ALLOW_ORIGIN in self.headers(asked) else None)

        return answer
