"""What goes wrong, as clients of the OpenAI API read it."""

from __future__ import annotations

from typing import Any

from llmcli.errors import ContextOverflow, InvalidInput, LlmcliError, UnsupportedModel


class ApiError(Exception):
    """An answer that says what is wrong.

    Args:
        status: Of HTTP.
        message: What is wrong and what to do about it.
        param: The field of the request.
        code: One word for programs.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error as JSON has it."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def api_error(exc: LlmcliError, *, param: str | None = None) -> ApiError:
    """An error of ours for a client; what is said of command-line flags is left out."""
    cure = "Shorten it." if isinstance(exc, ContextOverflow) else exc.cure
    cure = "" if "--" in cure else cure
    text = f"{exc.message} {cure}".strip()
    if isinstance(exc, ContextOverflow):
        return ApiError(400, text, param=param, code="context_length_exceeded")
    if isinstance(exc, UnsupportedModel):  # what was asked for is not this model's
        return ApiError(400, text, param=param, code="unsupported_parameter")
    if isinstance(exc, InvalidInput):
        return ApiError(400, text, param=param, code="invalid_value")
    return ApiError(500, text, code="internal_error")


def engine_died() -> ApiError:
    """The engine failed: nothing can be answered any more."""
    return ApiError(503, "The engine has failed. Restart the server.", code="engine_failed")


def shutting_down() -> ApiError:
    """The server ends."""
    return ApiError(
        503,
        "The server is about to end.",
        code="shutting_down",
        headers={"retry-after": "5", "connection": "close"},
    )


def queue_full() -> ApiError:
    """As many requests wait as may."""
    return ApiError(
        429,
        "Too many requests are waiting. Try again later.",
        code="queue_full",
        headers={"retry-after": "1"},
    )
