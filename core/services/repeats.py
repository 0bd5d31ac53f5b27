"""Requests that their callers may repeat: what an idempotency key stands for, and how long it is kept."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from typing import Any

from google.protobuf.message import Message

from core.call import current_call
from core.errors import InvalidRequest
from storage.errors import StoreError
from storage.interfaces import IdempotencyStore
from storage.records import Once

_log = logging.getLogger(__name__)

KEPT_S = 7 * 24 * 3600
FORGET_EVERY_S = 3600.0
FORGOTTEN = (
    "CreateAccount",
    "UpdateAccount",
    "CreateApiKey",
    "UpdateApiKey",
    "RotateApiKey",
    "RevokeApiKey",
    "SetLimit",
    "DeleteLimit",
    "CreatePayment",
)
"""RPCs whose keys are freed after KEPT_S. Those that move money are kept for good: the number of an invoice must not be
credited again a month later."""

_KEY = re.compile(r"[\x20-\x7e]{1,128}")


def once(request: Message, key: str, **resolved: str) -> Once | None:
    """What is to be done once for this key; None without one. Raises InvalidRequest.

    The key is the RPC's and the caller's alone. Its body is the request without it, fields that may be left out as
    they were `resolved`, masks in order.
    """
    if not key:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidRequest("idempotency_key must be 1 to 128 printable ASCII characters.", param="idempotency_key")
    body: Any = type(request)()
    body.CopyFrom(request)
    body.ClearField("idempotency_key")
    for name, value in resolved.items():
        setattr(body, name, value)
    if "update_mask" in body.DESCRIPTOR.fields_by_name:
        body.update_mask.paths.sort()
    digest = hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
    caller = current_call.get().caller
    return Once(
        _scope(body.DESCRIPTOR.name.removesuffix("Request")) + (caller.key_id or caller.role.value), key, digest
    )


def once_required(request: Message, key: str, **resolved: str) -> Once:
    """`once` for RPCs that must not be sent without a key. Raises InvalidRequest."""
    required = once(request, key, **resolved)
    if required is None:
        raise InvalidRequest("idempotency_key is required.", param="idempotency_key")
    return required


async def forget(store: IdempotencyStore) -> None:
    """Free keys that were kept long enough, now and every hour until the end of the process."""
    while True:
        try:
            for rpc in FORGOTTEN:
                await store.forget_keys(_scope(rpc), older_than_s=KEPT_S)
        except StoreError as error:
            _log.warning("Old idempotency keys could not be removed: %s", error)
        await asyncio.sleep(FORGET_EVERY_S)


def _scope(rpc: str) -> str:
    return f"{rpc} of "
