"""MaintenanceService: looking after an installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from worldrouter.v1 import maintenance_pb2, maintenance_pb2_grpc

from core.errors import Conflict, InvalidRequest, ServiceUnavailable
from core.reload import Reloaded
from core.services import Context
from core.settings import BadSettings
from storage.errors import BackupFailed, ConfigurationRefused


class BackupStore(Protocol):
    """What can be backed up."""

    def backup(self) -> AsyncIterator[bytes]:
        """The whole database as of one moment, in pieces of a file. BackupFailed."""
        ...


class MaintenanceServicer(maintenance_pb2_grpc.MaintenanceServiceServicer):
    """For the operator."""

    def __init__(self, store: BackupStore, reload: Callable[[], Awaitable[Reloaded]]) -> None:
        """`reload` loads the configuration again: BadSettings, StoreError."""
        self._store = store
        self._reload = reload

    async def ExportDatabase(
        self, request: maintenance_pb2.ExportDatabaseRequest, context: Context
    ) -> AsyncIterator[maintenance_pb2.ExportDatabaseResponse]:
        """Stream a copy of the database."""
        try:
            async for piece in self._store.backup():
                yield maintenance_pb2.ExportDatabaseResponse(content=piece)
        except BackupFailed as error:
            raise ServiceUnavailable(f"The backup cannot be made: {error}.") from error

    async def ReloadConfiguration(
        self, request: maintenance_pb2.ReloadConfigurationRequest, context: Context
    ) -> maintenance_pb2.ReloadConfigurationResponse:
        """Load the configuration again."""
        try:
            found = await self._reload()
        except BadSettings as error:
            raise InvalidRequest(f"The configuration is refused: {error}") from error
        except ConfigurationRefused as error:
            raise Conflict(f"The configuration is refused: {error}") from error
        return maintenance_pb2.ReloadConfigurationResponse(
            version=found.settings.version, model_count=len(found.settings.models), waiting_settings=found.waiting
        )
