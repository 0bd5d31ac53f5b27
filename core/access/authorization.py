"""Who may call what: the one table, RPC x role.

`core.access.guard` refuses to register an RPC that has no entry here, so a new RPC is open to nobody until somebody
has decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from core.call import Role

_OPERATOR = frozenset({Role.OPERATOR})
_KEYS = frozenset({Role.API_KEY, Role.SERVICE_KEY, Role.OPERATOR})
_ANYBODY = frozenset(Role)

RPC_ROLES: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        "/grpc.health.v1.Health/Check": _ANYBODY,
        "/grpc.health.v1.Health/List": _ANYBODY,
        "/grpc.health.v1.Health/Watch": _ANYBODY,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _ANYBODY,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANYBODY,
        "/worldrouter.v1.AccountService/CreateAccount": _OPERATOR,
        "/worldrouter.v1.AccountService/GetAccount": _OPERATOR,
        "/worldrouter.v1.AccountService/ListAccounts": _OPERATOR,
        "/worldrouter.v1.AccountService/UpdateAccount": _OPERATOR,
        "/worldrouter.v1.AuthService/CreateApiKey": _OPERATOR,
        "/worldrouter.v1.AuthService/GetApiKey": _OPERATOR,
        "/worldrouter.v1.AuthService/ListApiKeys": _OPERATOR,
        "/worldrouter.v1.AuthService/RevokeApiKey": _OPERATOR,
        "/worldrouter.v1.AuthService/RotateApiKey": _OPERATOR,
        "/worldrouter.v1.AuthService/UpdateApiKey": _OPERATOR,
        "/worldrouter.v1.AuthService/VerifyApiKey": _KEYS,
        "/worldrouter.v1.ChatService/CreateChatCompletion": _KEYS,
        "/worldrouter.v1.ChatService/StreamChatCompletion": _KEYS,
        "/worldrouter.v1.LimitService/DeleteLimit": _OPERATOR,
        "/worldrouter.v1.LimitService/ListLimits": _OPERATOR,
        "/worldrouter.v1.LimitService/SetLimit": _OPERATOR,
        "/worldrouter.v1.MaintenanceService/ExportDatabase": _OPERATOR,
        "/worldrouter.v1.MaintenanceService/ReloadConfiguration": _OPERATOR,
        "/worldrouter.v1.MeteringService/Audit": _OPERATOR,
        "/worldrouter.v1.MeteringService/CreateRefund": _OPERATOR,
        "/worldrouter.v1.MeteringService/CreateTopUp": _OPERATOR,
        "/worldrouter.v1.MeteringService/ExportLedger": _OPERATOR,
        "/worldrouter.v1.MeteringService/GetBalance": _KEYS,
        "/worldrouter.v1.MeteringService/GetUsageRecord": _KEYS,
        "/worldrouter.v1.MeteringService/ListLedgerEntries": _KEYS,
        "/worldrouter.v1.MeteringService/ListUsageRecords": _KEYS,
        "/worldrouter.v1.MeteringService/RebuildUsageSummaries": _OPERATOR,
        "/worldrouter.v1.MeteringService/SummarizeUsage": _KEYS,
        "/worldrouter.v1.PaymentService/CreatePayment": _OPERATOR,
        "/worldrouter.v1.PaymentService/GetPayment": _OPERATOR,
        "/worldrouter.v1.PaymentService/GetTestPaymentPage": _ANYBODY,
        "/worldrouter.v1.PaymentService/HandleWebhook": _ANYBODY,
        "/worldrouter.v1.PaymentService/ListPayments": _OPERATOR,
        "/worldrouter.v1.RawChatService/CreateRawCompletion": _KEYS,
        "/worldrouter.v1.RawChatService/StreamRawCompletion": _KEYS,
        "/worldrouter.v1.RelayService/Relay": _ANYBODY,  # what it carries is authorized each by itself
        "/worldrouter.v1.RoutingService/GetModel": _KEYS,
        "/worldrouter.v1.RoutingService/ListEndpoints": _OPERATOR,
        "/worldrouter.v1.RoutingService/ListModels": _KEYS,
    }
)
"""Roles that may call an RPC, by its full method name. A role that may call it may still be told NOT_FOUND for
what belongs to another account: that is the servicer's to say."""


class UnlistedRpc(Exception):
    """An RPC has no entry in the table; the message names it."""


def roles_for(method: str) -> frozenset[Role]:
    """Roles that may call this RPC ("/package.Service/Method"). Raises UnlistedRpc."""
    roles = RPC_ROLES.get(method)
    if roles is None:
        raise UnlistedRpc(f"{method} has no entry in core.access.authorization.RPC_ROLES")
    return roles
