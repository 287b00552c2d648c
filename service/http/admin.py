"""Routes that change the served versions; they exist only if a file of admin keys is set."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response

from service.engine.contract import BundleError
from service.errors import Conflict, FieldError, NotReady
from service.http.parsing import decode, validate
from service.http.responses import JsonResponse, served_models
from service.http.security import Keys
from service.models.fleet import Fleet
from service.models.store import ServingBody, ServingConfig
from service.models.versions import NAME, scan_store
from service.settings import Settings


class AdminApi:
    """`GET /admin/models`, `PUT /admin/models/NAME`, `POST /admin/models/NAME/rollback`."""

    def __init__(self, fleet: Fleet, keys: Keys, settings: Settings) -> None:
        self._fleet, self._keys, self._store = fleet, keys, settings.models

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        for path, handler, method in (
            ("/admin/models", self.models, "GET"),
            ("/admin/models/{name}", self.put, "PUT"),
            ("/admin/models/{name}/rollback", self.rollback, "POST"),
        ):
            app.router.add_route(path, handler, methods=[method])

    async def models(self, request: Request) -> Response:
        """List the versions that each model serves."""
        self._authenticate(request)
        return self._served_models()

    async def put(self, request: Request) -> Response:
        """Serve `{"active": "2", "canary": {...}, "shadow": "3"}` of a model from now on.

        Responds once this process serves it; other workers follow at their next look at the store.
        """
        self._authenticate(request)
        name = self._model_name(request)
        payload: Any = decode(await request.body(), request.headers)
        serving = ServingConfig.of(validate(ServingBody, payload))
        try:
            await self._fleet.change(name, serving, persist=True)
        except BundleError as error:
            self._fleet.record_refusal(name, error)
            raise Conflict(f"refused, the served versions stay: {error}") from None
        return self._served_models()

    async def rollback(self, request: Request) -> Response:
        """Serve the previous active version again.

        A change that another worker has just written to the store counts as the latest one.
        """
        self._authenticate(request)
        name = self._model_name(request)
        try:
            await self._fleet.sync_with_store(name)
            # A response that is cancelled must not cancel the write.
            await asyncio.shield(self._fleet.roll_back(name, "requested by an admin"))
        except BundleError as error:
            raise Conflict(str(error)) from None
        except NotReady as error:
            raise Conflict(error.detail) from None
        return self._served_models()

    def _authenticate(self, request: Request) -> None:
        self._keys.client(request.headers.get("authorization"))

    def _model_name(self, request: Request) -> str:
        """Return the model of the path. Raises Conflict unless the store has it."""
        name = str(request.path_params["name"])
        if self._store is None:
            raise Conflict("the service serves one bundle and no store; set RERANK_MODELS")
        names = scan_store(self._store).models
        if not NAME.fullmatch(name) or name not in names:
            rule = f"one of {', '.join(names)}"
            raise Conflict(f"name: {rule}, got {name[:100]!r}", [FieldError("name", rule, name)])
        return name

    def _served_models(self) -> Response:
        return JsonResponse(served_models(self._fleet))
