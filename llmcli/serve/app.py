"""The server's routes, over an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmcli.serve.answers import Answer, CompletionFace, Face
from llmcli.serve.engine import Engine, Job
from llmcli.serve.errors import ApiError, engine_died, shutting_down
from llmcli.serve.fingerprint import system_fingerprint
from llmcli.serve.gate import Gate, Record, Rules
from llmcli.serve.generating import Generating
from llmcli.serve.plan import Plan, plan_completion
from llmcli.serve.schema import CompletionRequest, parse

if TYPE_CHECKING:
    from llmcli.tokenization.chat import ChatTemplate

T = TypeVar("T")
R = TypeVar("R", bound=Struct)

# An engine that did not show itself for so long is stuck. A step of a large model on a slow
# machine takes seconds.
_STUCK_SECONDS = 120.0


class App:
    """The routes.

    Args:
        engine: Started.
        template: How conversations are written; None where the model has no way.
        rules: What is let in.
        timeout: Seconds that an answer may take; None for any.
        noted: Called with each request's record.

    Attributes:
        draining: Whether the server is about to end.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        template: Callable[[], ChatTemplate],
        rules: Rules,
        timeout: float | None = None,
        noted: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.engine = engine
        self.draining = False
        self._model = engine.model
        self._template = template
        self._timeout = timeout
        self._noted = noted
        self._created = int(time.time())
        # One thread prepares requests, for a tokenizer is not asked by several at once.
        self._preparing = ThreadPoolExecutor(1, "prepare")
        self.asgi = Gate(self._routes(), rules, draining=lambda: self.draining, noted=noted)

    def close(self) -> None:
        """Let the threads go."""
        self._preparing.shutdown()

    def _routes(self) -> Starlette:
        generating = partial(
            Generating,
            engine=self.engine,
            answer=self._answer,
            timeout=self._timeout,
            finished=self._finished,
        )
        return Starlette(
            routes=[
                Route(
                    "/v1/completions",
                    generating(prepare=partial(self._prepare, self._plan_completion)),
                    methods=["POST"],
                ),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._models),
                Route("/health", self._health),
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
            ],
            exception_handlers={ApiError: _api_error, HTTPException: _http_error, 500: _bug},
        )

    # -- text --------------------------------------------------------------------------------

    async def _prepare(
        self, plan: Callable[[bytes], tuple[Plan, Face]], body: bytes
    ) -> tuple[Plan, Face]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._preparing, plan, body)

    def _plan_completion(self, body: bytes) -> tuple[Plan, Face]:
        plan = plan_completion(self._model, self._read(body, CompletionRequest))
        return plan, CompletionFace(plan=plan, token_bytes=self._model.token_bytes)

    def _read(self, body: bytes, kind: type[R]) -> R:
        """Read a request to the model that is served.

        Raises:
            ApiError: 400, or 404 for another model.
        """
        asked = parse(body, kind)
        name = getattr(asked, "model", None)
        if name not in (None, self._model.name):
            raise ApiError(
                404,
                f"There is no model {name[:200]!r} here; {self._model.name} is served.",
                param="model",
                code="model_not_found",
            )
        return asked

    def _answer(self, plan: Plan, face: Face) -> Answer:
        return Answer(
            plan=plan,
            face=face,
            model=self._model.name,
            fingerprint=self.fingerprint,
            token_bytes=self._model.token_bytes,
            drops_space=self._model.tokenizer.spelling.prefix_space,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of all that an answer depends on beside the request."""
        return system_fingerprint(self._model, self.engine.decoder)

    def _finished(self, job: Job, answer: Answer) -> None:
        pass

    # -- what there is -----------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        described = {
            "id": self._model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "llmcli",
            "max_model_len": self.engine.n_positions,
            "precision": self._model.precision,
            "revision": self._model.revision,
        }
        name = request.path_params.get("name")
        if name is None:
            return json_response({"object": "list", "data": [described]})
        if name != self._model.name:
            raise ApiError(404, f"There is no model {name[:200]!r} here.", code="model_not_found")
        return json_response(described)

    async def _health(self, request: Request) -> Response:
        return self._alive({"status": "ok"})

    async def _livez(self, request: Request) -> Response:
        age = time.monotonic() - self.engine.last_tick
        if age > _STUCK_SECONDS:
            raise ApiError(503, f"The engine did nothing for {age:.0f} s.", code="engine_stuck")
        return self._alive({"status": "ok", "last_tick_seconds": age})

    async def _readyz(self, request: Request) -> Response:
        if self.draining:
            raise shutting_down()
        return self._alive(
            {
                "status": "ok",
                "model": self._model.name,
                "slots": self.engine.slots,
                "running": self.engine.running,
                "waiting": self.engine.waiting,
            }
        )

    def _alive(self, content: dict[str, Any]) -> Response:
        if self.engine.failure is not None:
            raise engine_died()
        return json_response(content)


def json_response(content: object) -> Response:
    """An answer of JSON."""
    return Response(msgspec.json.encode(content), media_type="application/json")


def _error_response(error: ApiError) -> Response:
    return Response(
        msgspec.json.encode(error.body()),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def _api_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)  # registered for it alone
    return _error_response(exc)


def _http_error(request: Request, exc: Exception) -> Response:
    """Routes and methods that are none, in the API's words."""
    assert isinstance(exc, HTTPException)  # registered for it alone
    words = {404: f"There is no {request.url.path[:200]} here.", 405: "Use another method."}
    text = words.get(exc.status_code, exc.detail)
    headers = dict(exc.headers or {})
    return _error_response(ApiError(exc.status_code, text, code="not_found", headers=headers))


def _bug(request: Request, exc: Exception) -> Response:
    return _error_response(ApiError(500, "Something unexpected went wrong.", code="internal_error"))
