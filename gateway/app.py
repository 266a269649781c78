"""The HTTP application: the webhook door, and whether this process is alive and ready."""

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.webhook_door import WebhookDoor
from runtime.clock import SystemClock
from runtime.local import Local
from storage.errors import DatabaseUnavailableError


def make_app(local: Local) -> Starlette:
    """Return the application for one running system."""
    door = WebhookDoor(database=local.database, jobs=local.jobs, keyring=local.keyring, clock=SystemClock())

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(_request: Request) -> Response:
        try:
            async with local.database.begin_dispatch() as db:
                await db.execute(text("SELECT 1"))
        except (SQLAlchemyError, DatabaseUnavailableError, OSError):
            return JSONResponse({"status": "no database"}, status_code=503)
        return JSONResponse({"status": "ready"})

    return Starlette(
        routes=[
            Route("/webhooks/{token}", door.receive, methods=["POST"]),
            Route("/healthz", live, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
        ]
    )
