"""The description of the routes that programs read, made of the requests' own types."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from llmcli._version import __version__
from llmcli.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeBody,
    NextBody,
    RankBody,
    ScoreBody,
    TokenizeBody,
)

_POSTS: tuple[tuple[str, str, type[Struct]], ...] = (
    ("/v1/completions", "Continue texts.", CompletionRequest),
    ("/v1/chat/completions", "Answer in a conversation.", ChatRequest),
    ("/v1/score", "How well the model predicts a text.", ScoreBody),
    ("/v1/rank", "Which continuation is the likeliest.", RankBody),
    ("/v1/next", "What may follow a text.", NextBody),
    ("/tokenize", "Text to token ids.", TokenizeBody),
    ("/detokenize", "Token ids to text.", DetokenizeBody),
)
_GETS = (
    ("/v1/models", "The model that is served."),
    ("/tokenizer_info", "What the tokenizer is."),
    ("/health", "Whether the engine lives."),
    ("/livez", "The same, and when it last did something."),
    ("/readyz", "Whether requests are taken."),
)
POSTS = frozenset(path for path, _, _ in _POSTS)
"""Routes that take a body."""
PATHS = frozenset([*(each[0] for each in _POSTS), *(each[0] for each in _GETS)]) | {
    "/",
    "/metrics",
    "/openapi.json",
}
"""All routes."""

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REFUSALS = {
    "400": "Something is wrong with the request; param names the field.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "415": "The body is not said to be JSON.",
    "429": "Too many requests wait.",
    "503": "The server is about to end, or its engine failed.",
    "504": "The answer took too long.",
}


def openapi(*, keys: bool) -> dict[str, Any]:
    """The description; ``keys`` says whether one is asked for."""
    _, schemas = msgspec.json.schema_components(
        [body for _, _, body in _POSTS], ref_template="#/components/schemas/{name}"
    )
    for _, _, body in _POSTS:  # unknown fields are refused
        schemas[body.__name__]["additionalProperties"] = False
    paths: dict[str, Any] = {}
    for path, words, body in _POSTS:
        content = {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
        paths[path] = {
            "post": {
                "summary": words,
                "requestBody": {"required": True, "content": {"application/json": content}},
                "responses": _responses(_REFUSALS),
            }
        }
    for path, words in _GETS:
        refusals = {code: _REFUSALS[code] for code in ("401", "503")}
        paths[path] = {"get": {"summary": words, "responses": _responses(refusals)}}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "llmcli", "version": __version__},
        "paths": paths,
        "components": {"schemas": {**schemas, "Error": _ERROR}},
    }
    if keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return described


def _responses(refusals: dict[str, str]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    done = {
        "description": "Done.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
    return {"200": done} | {
        code: {"description": words, "content": error} for code, words in refusals.items()
    }
