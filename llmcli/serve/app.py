"""The server's routes, over an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from llmcli.errors import LlmcliError
from llmcli.serve.answers import Answer, ChatFace, CompletionFace, Face
from llmcli.serve.engine import Engine, EngineDied, QueueFull
from llmcli.serve.errors import ApiError, api_error, engine_died, queue_full, shutting_down
from llmcli.serve.fingerprint import system_fingerprint
from llmcli.serve.gate import Gate, Record, Rules
from llmcli.serve.generating import Generating
from llmcli.serve.measuring import next_tokens, rank, score
from llmcli.serve.metrics import CONTENT_TYPE, Metrics
from llmcli.serve.openapi import PATHS, openapi
from llmcli.serve.plan import Plan, given_settings, plan_chat, plan_completion
from llmcli.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeBody,
    NextBody,
    RankBody,
    ScoreBody,
    TokenizeBody,
    parse,
)
from llmcli.serve.tokens import detokenize, tokenize, tokenizer_info
from llmcli.tasks.prompts import sampling_params
from llmcli.tasks.provenance import provenance, settings_record

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from llmcli.tokenization.chat import ChatTemplate

T = TypeVar("T")
R = TypeVar("R", bound=Struct)

# An engine that did not show itself for so long is stuck. A step of a large model on a slow
# machine takes seconds.
_STUCK_SECONDS = 120.0
_PAGE = Path(__file__).with_name("page.html")
# It is complete in itself, and speaks to this server alone.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class App:
    """The routes.

    Args:
        engine: Started.
        template: How conversations are written; None where the model has no way.
        rules: What is let in.
        timeout: Seconds that an answer may take; None for any.
        noted: Called with each request's record.
        tracer: Makes a span of each answer; None for none.

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
        tracer: Tracer | None = None,
    ) -> None:
        self.engine = engine
        self._tracer = tracer
        self.draining = False
        self._model = engine.model
        self._find_template = template
        self._timeout = timeout
        self._created = int(time.time())
        # One thread prepares requests, for a tokenizer is not asked by several at once.
        self._preparing = ThreadPoolExecutor(1, "prepare")
        self._metrics = Metrics(engine, PATHS)

        def note(record: Record) -> None:
            self._metrics.note_request(record)
            noted(record)

        self._openapi = openapi(keys=bool(rules.keys))
        self.asgi = Gate(self._routes(), rules, draining=lambda: self.draining, noted=note)

    def close(self) -> None:
        """Let the threads go."""
        self._preparing.shutdown()

    def _routes(self) -> Starlette:
        generating = partial(
            Generating,
            engine=self.engine,
            answer=self._answer,
            timeout=self._timeout,
            finished=self._metrics.note_job,
            tracer=self._tracer,
        )

        def post(
            path: str, kind: type[R], handle: Callable[[R], Awaitable[dict[str, Any]]]
        ) -> Route:
            return Route(path, partial(self._post, kind, handle), methods=["POST"])

        return Starlette(
            routes=[
                Route(
                    "/v1/completions",
                    generating(
                        prepare=partial(self._prepare, self._plan_completion),
                        operation="text_completion",
                    ),
                    methods=["POST"],
                ),
                Route(
                    "/v1/chat/completions",
                    generating(prepare=partial(self._prepare, self._plan_chat), operation="chat"),
                    methods=["POST"],
                ),
                post("/v1/score", ScoreBody, self._score),
                post("/v1/rank", RankBody, self._rank),
                post("/v1/next", NextBody, self._next),
                post("/tokenize", TokenizeBody, self._tokenize),
                post("/detokenize", DetokenizeBody, self._detokenize),
                Route("/tokenizer_info", self._tokenizer_info),
                Route("/metrics", self._show_metrics),
                Route("/openapi.json", self._describe),
                Route("/", self._page),
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
        return await self._on_thread(plan, body)

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
            about=provenance(self._model),
            drops_space=self._model.tokenizer.spelling.prefix_space,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of all that an answer depends on beside the request."""
        return system_fingerprint(self._model, self.engine.decoder)

    def _plan_chat(self, body: bytes) -> tuple[Plan, Face]:
        plan = plan_chat(self._model, self._read(body, ChatRequest), self._template())
        return plan, ChatFace(plan=plan, token_bytes=self._model.token_bytes)

    def _template(self) -> ChatTemplate:
        """How conversations are written.

        Raises:
            ApiError: the model was not made for them.
        """
        try:
            return self._found_template
        except LlmcliError as exc:
            raise api_error(exc, param="messages") from exc

    @cached_property
    def _found_template(self) -> ChatTemplate:
        return self._find_template()

    # -- tokens and figures ------------------------------------------------------------------

    async def _post(
        self, kind: type[R], handle: Callable[[R], Awaitable[dict[str, Any]]], request: Request
    ) -> Response:
        """Answer a request that is not a text's."""
        try:
            asked = await self._on_thread(self._read, await request.body(), kind)
            return json_response(await handle(asked))
        except ClientDisconnect:
            return Response()  # nobody reads it
        except QueueFull:
            raise queue_full() from None
        except EngineDied:
            raise engine_died() from None
        except LlmcliError as exc:
            raise api_error(exc) from exc

    async def _on_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call on the thread that alone asks the tokenizer."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._preparing, partial(function, *args))

    async def _score(self, asked: ScoreBody) -> dict[str, Any]:
        return await self.engine.work(score(self.engine.measuring, asked))

    async def _rank(self, asked: RankBody) -> dict[str, Any]:
        return await self.engine.work(rank(self.engine.measuring, asked))

    async def _next(self, asked: NextBody) -> dict[str, Any]:
        given = given_settings(self._model, asked)
        return await self.engine.work(next_tokens(self.engine.measuring, asked, given))

    async def _tokenize(self, asked: TokenizeBody) -> dict[str, Any]:
        return await self._on_thread(tokenize, self._model, asked, self._template)

    async def _detokenize(self, asked: DetokenizeBody) -> dict[str, Any]:
        return await self._on_thread(detokenize, self._model, asked)

    async def _tokenizer_info(self, request: Request) -> Response:
        info = await self._on_thread(tokenizer_info, self._model, lambda: self._found_template)
        return json_response(info)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def _page(self, request: Request) -> Response:
        return Response(
            _PAGE.read_bytes(),
            media_type="text/html",
            headers={"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"},
        )

    async def _describe(self, request: Request) -> Response:
        return json_response(self._openapi)

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
            "llmcli": {
                "about": provenance(self._model),
                "sampling": settings_record(sampling_params(self._model, {"num_beams": 1})),
            },
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
