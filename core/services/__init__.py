"""The servicers, a few lines per RPC: validate, ask the store, answer."""

from __future__ import annotations

from typing import Any

import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
"""What grpc hands every servicer, and the in-process server alike. Who calls stands in `core.call.current_call`."""
