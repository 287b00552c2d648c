"""The routes that change what is served: only where a file of admin keys is set."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response

from service.engine.contract import BundleError
from service.errors import Conflict, FieldError, NotReady
from service.http.parsing import decode, validate
from service.http.responses import JsonResponse
from service.http.security import Keys
from service.models.fleet import Fleet, described
from service.models.store import NAME, Serving, ServingBody, models_of
from service.settings import Settings


def add_routes(app: FastAPI, fleet: Fleet, keys: Keys, settings: Settings) -> None:
    """`GET /admin/models`, `PUT /admin/models/NAME`, `POST /admin/models/NAME/rollback`."""

    def admitted(request: Request) -> None:
        keys.client(request.headers.get("authorization"))

    def known(request: Request) -> str:
        name = str(request.path_params["name"])
        store = settings.models
        if store is None:
            raise Conflict("one bundle is served, and no store that could be changed")
        if not NAME.fullmatch(name) or name not in models_of(store):
            rule = f"one of {', '.join(models_of(store))}"
            raise Conflict(f"name: {rule}, got {name[:100]!r}", [FieldError("name", rule, name)])
        return name

    async def models(request: Request) -> Response:
        """What is served of each model."""
        admitted(request)
        return JsonResponse({"models": described(fleet)})

    async def put(request: Request) -> Response:
        """Serve `{"active": "2", "canary": {...}, "shadow": "3"}` of a model from now on.

        Answers once this process serves it; other workers follow as they look at the store.
        """
        admitted(request)
        name = known(request)
        payload: Any = decode(await request.body(), request.headers)
        serving = Serving.of(validate(ServingBody, payload))
        try:
            await fleet.change(name, serving, lasting=True)
        except BundleError as error:
            fleet.refused(name, error)
            raise Conflict(f"refused, what was served goes on: {error}") from None
        return JsonResponse({"models": described(fleet)})

    async def rollback(request: Request) -> Response:
        """Serve what was active before; what another worker was told just now is not older."""
        admitted(request)
        name = known(request)
        try:
            await fleet.catch_up(name)
            fleet.roll_back(name, "asked by an admin")
        except BundleError as error:
            raise Conflict(str(error)) from None
        except NotReady as error:
            raise Conflict(error.detail) from None
        return JsonResponse({"models": described(fleet)})

    for path, handler, method in (
        ("/admin/models", models, "GET"),
        ("/admin/models/{name}", put, "PUT"),
        ("/admin/models/{name}/rollback", rollback, "POST"),
    ):
        app.router.add_route(path, handler, methods=[method])
