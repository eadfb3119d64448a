"""What clients may ask: the fields of each request, their types and ranges."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from llmcli.engine.params import MAX_SEED, Overflow
from llmcli.scoring.statistics import Normalize
from llmcli.scoring.windows import ConventionName
from llmcli.serve.errors import ApiError

R = TypeVar("R", bound=Struct)

Count = Annotated[int, Meta(ge=1, le=128)]
TokenId = Annotated[int, Meta(ge=0)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
Text = Annotated[str, Meta(min_length=1)]
Stops = Annotated[list[Text], Meta(max_length=64)]

HARMLESS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields of the OpenAI API that change no answer here: they are taken and not looked at."""

_PATH = re.compile(r" - at `\$\.?(.*)`$")


class StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False  # of vLLM
    include_obfuscation: bool = False


class Filters(Struct, kw_only=True):
    """What shapes one distribution; what is not given is the model's own setting, or llmcli's."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    # Ours, beside those of the OpenAI API.
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Share | None = None
    top_h: Share | None = None
    epsilon_cutoff: Annotated[float, Meta(ge=0, lt=1)] | None = None
    eta_cutoff: Annotated[float, Meta(ge=0, lt=1)] | None = None
    repetition_penalty: Positive | None = None
    no_repeat_ngram_size: Annotated[int, Meta(ge=0)] | None = None
    overflow: Overflow | None = None


class Sampling(Filters, kw_only=True):
    """How texts are made, whichever route makes them."""

    model: str | None = None
    n: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None
    stop: Text | Stops | None = None
    # Ours.
    ignore_eos: bool | None = None
    keep_stop: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    token_events: bool | None = None
    record: Annotated[int, Meta(ge=0)] = 0


class CompletionRequest(Sampling, kw_only=True):
    """The body of ``/v1/completions``."""

    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    best_of: Count | None = None
    echo: bool | None = None
    logprobs: Alternatives | None = None
    suffix: str | None = None
    # Ours.
    bos: bool | None = None
    heal: bool | None = None
    special: Literal["text", "allow", "forbid"] | None = None


class ContentPart(Struct, kw_only=True):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, kw_only=True):
    """A turn of a conversation."""

    role: str
    content: str | list[ContentPart]
    name: str | None = None
    refusal: None = None
    tool_calls: None = None


class JsonSchema(Struct, kw_only=True):
    """A schema that the answer follows."""

    name: str = ""
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """What an answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampling, kw_only=True):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    response_format: ResponseFormat | None = None


class TokenizeBody(Struct, kw_only=True):
    """The body of ``/tokenize``: a text, or messages as the template writes them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Struct, kw_only=True):
    """The body of ``/detokenize``."""

    model: str | None = None
    tokens: list[TokenId]


class ScoreBody(Struct, kw_only=True):
    """The body of ``/v1/score``; fields as the options of ``llmcli score``."""

    text: Text
    model: str | None = None
    convention: ConventionName = "default"
    context: Annotated[int, Meta(ge=2)] | None = None
    stride: Annotated[int, Meta(ge=1)] | None = None
    bos: bool | None = None
    prompt: str = ""


class RankBody(Struct, kw_only=True):
    """The body of ``/v1/rank``; fields as the options of ``llmcli rank``."""

    choices: Annotated[list[Text], Meta(min_length=1, max_length=1024)]
    model: str | None = None
    prompt: str = ""
    normalize: Normalize = "none"
    delimiter: str | None = None
    bos: bool | None = None


class NextBody(Filters, kw_only=True):
    """The body of ``/v1/next``; fields as the options of ``llmcli next``."""

    prompt: Text
    model: str | None = None
    count: Annotated[int, Meta(ge=1, le=1024)] = 10
    bos: bool | None = None


# Fields of the OpenAI API that would change the answer, and cannot be honoured.
_REFUSED = {
    "audio": "It answers in text alone",
    "function_call": "Calls of functions are not supported",
    "functions": "Calls of functions are not supported",
    "modalities": "It answers in text alone",
    "moderation": "Texts are not moderated",
    "prediction": "Predicted outputs are not supported",
    "reasoning_effort": "The model's reasoning cannot be steered",
    "tool_choice": "Calls of tools are not supported",
    "tools": "Calls of tools are not supported",
    "parallel_tool_calls": "Calls of tools are not supported",
    "verbosity": "The length of answers is not steered",
    "web_search_options": "There is no web search",
}
_IDLE: dict[str, list[object]] = {
    "modalities": [["text"]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "parallel_tool_calls": [True, False],
}


def parse(body: bytes, kind: type[R]) -> R:
    """Read a request.

    Raises:
        ApiError: 400, with what is wrong and where.
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ApiError(400, f"The body is not valid JSON: {exc}.", code="invalid_json") from exc
    if not isinstance(given, dict):
        raise ApiError(400, "The body is not a JSON object.", code="invalid_json")
    _check_names(given, kind)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as exc:
        text = str(exc)
        found = _PATH.search(text)
        path = found[1] if found else None
        message = text[: found.start()] if found else text
        name = path or (missing[1] if (missing := re.search("field `(.*?)`", text)) else None)
        place = f"{path}: {message[:1].lower()}{message[1:]}" if path else message
        raise ApiError(400, f"{place}.", param=name, code="invalid_value") from exc


def _check_names(given: dict[str, Any], kind: type[Struct]) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    chat = issubclass(kind, Sampling)
    for name in given.keys() - known & _REFUSED.keys() if chat else ():
        value = given[name]
        if value and value not in _IDLE.get(name, []):
            raise ApiError(
                400, f"{name}: {_REFUSED[name]}.", param=name, code="unsupported_parameter"
            )
    taken = known | HARMLESS | (_REFUSED.keys() if chat else set())
    unknown = sorted(given.keys() - taken)
    if unknown:
        names = ", ".join(name[:80] for name in unknown[:8])
        raise ApiError(
            400,
            f"Unknown field{'s' if len(unknown) > 1 else ''}: {names}.",
            param=unknown[0],
            code="unknown_parameter",
        )
