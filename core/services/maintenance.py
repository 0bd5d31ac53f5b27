"""MaintenanceService: looking after an installation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from worldrouter.v1 import maintenance_pb2, maintenance_pb2_grpc

from core.errors import ServiceUnavailable
from core.services import Context
from storage.interfaces import BackupFailed


class BackupStore(Protocol):
    """What can be backed up."""

    def backup(self) -> AsyncIterator[bytes]:
        """The whole database as of one moment, in pieces of a file. BackupFailed."""
        ...


class MaintenanceServicer(maintenance_pb2_grpc.MaintenanceServiceServicer):
    """For the operator."""

    def __init__(self, store: BackupStore) -> None:
        self._store = store

    async def ExportDatabase(
        self, request: maintenance_pb2.ExportDatabaseRequest, context: Context
    ) -> AsyncIterator[maintenance_pb2.ExportDatabaseResponse]:
        """Stream a copy of the database."""
        try:
            async for piece in self._store.backup():
                yield maintenance_pb2.ExportDatabaseResponse(content=piece)
        except BackupFailed as error:
            raise ServiceUnavailable(f"The backup cannot be made: {error}.") from error
