"""From a request to sequences: prompts as tokens, settings in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from llmcli.engine.grammar.source import GrammarSource, json_schema
from llmcli.engine.params import SamplingParams, check_range
from llmcli.engine.scheduler import Request
from llmcli.engine.transcript import Prompt
from llmcli.errors import InvalidInput, LlmcliError
from llmcli.serve.errors import ApiError, api_error
from llmcli.serve.schema import ChatMessage, ChatRequest, CompletionRequest, Filters, Sampling
from llmcli.tasks.chat import Message, check_messages
from llmcli.tasks.prompts import encode_prompt, for_prompt, prepare_prompt, sampling_params
from llmcli.tokenization.infill import infill_of

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.chat import ChatTemplate

DEFAULT_MAX_TOKENS = 16
"""Of a completion, as the OpenAI API has it."""

# Names of the API that are others in SamplingParams.
_NAMES = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
_PARAMS = {field.name for field in fields(SamplingParams)}
# Newer names of the API for what templates know.
_ROLES = {"developer": "system"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPrompt:
    """A prompt of a request.

    Attributes:
        prompt: Its tokens, cut to the context.
        tokens: How many there were before that.
        text: What it says; told with ``echo``.
        unseen: How many of its first tokens are not in the text (a begin token put there).
        eos_ids: Tokens that end its continuation beside the model's own.
    """

    prompt: Prompt
    tokens: int
    text: str = ""
    unseen: int = 0
    eos_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request made ready.

    Attributes:
        prompts: What is continued.
        params: The settings, the same for all.
        n: How many answers each prompt gets.
        best_of: How many are made to choose them from.
        max_tokens: As asked for; 0 where nothing is to follow the prompt.
        stream: Whether the answer comes as it is made.
        include_usage: Whether a stream ends with what it used.
        continuous_usage: Whether each chunk tells what was used by then.
        echo: Whether the prompt stands before its continuation.
        logprobs: How many alternatives are told of each token; None for no log-probabilities.
        token_events: Whether each step is told in full.
        record: Which record of a job the first prompt is; it goes into the random numbers.
    """

    prompts: list[PlannedPrompt]
    params: SamplingParams
    n: int
    best_of: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    echo: bool = False
    logprobs: int | None = None
    token_events: bool = False
    record: int = 0
    continuous_usage: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(each.tokens for each in self.prompts)

    def _tells_prompt(self, index: int) -> bool:
        """Whether a sequence reads its prompt aloud: in a stream each one begins with it."""
        return self.echo and (self.stream or not index)

    def requests(self) -> list[Request]:
        """The sequences: those of the first prompt, then those of the next.

        Raises:
            InvalidInput: the model's own settings leave a prompt no room.
        """
        return [
            Request(
                prompt=planned.prompt,
                params=for_prompt(self.params, planned.tokens),
                record=self.record + place,
                index=index,
                prompt_logprobs=self.logprobs if self._tells_prompt(index) else None,
                prompt_only=self.max_tokens == 0,
                eos_ids=planned.eos_ids,
            )
            for place, planned in enumerate(self.prompts)
            for index in range(self.best_of)
        ]


def plan_completion(model: LanguageModel, asked: CompletionRequest) -> Plan:
    """Make a completion ready.

    Raises:
        ApiError: 400, with what is wrong.
    """
    max_tokens = DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
    # The commands have another default: the model's own, or 100.
    limit: dict[str, int | None] = {"max_new_tokens": max(max_tokens, 1)}
    if asked.max_tokens is None and asked.token_events:
        limit = {}
    n = asked.n or 1
    best_of = n if asked.best_of is None else asked.best_of
    if best_of < n:
        raise _wrong("best_of", f"best_of ({best_of}) is below n ({n}).")
    if best_of > n and asked.stream:
        raise _wrong("best_of", "best_of above n cannot be streamed. Leave one of them out.")
    if best_of > n and asked.echo and asked.logprobs is not None:
        raise _wrong("best_of", "best_of above n does not go with echo and logprobs.")
    if asked.suffix and asked.echo:
        raise _wrong("echo", "echo does not go with suffix.")
    if asked.suffix and asked.heal:
        raise _wrong("heal", "heal does not go with suffix.")
    logprobs = asked.logprobs
    # The best of several are chosen by their log-probabilities.
    needed = 0 if best_of > n and logprobs is None else logprobs
    params = _params(model, asked, limit=limit, logprobs=needed)
    if asked.echo and logprobs is not None and (asked.heal or params.overflow != "error"):
        raise _wrong("echo", "echo with logprobs does not go with heal or overflow.")
    prompts = [
        _prompt(model, asked, each, params, room=min(max_tokens, 1))
        for each in _prompts(asked.prompt)
    ]
    return Plan(
        prompts=prompts,
        params=params,
        n=n,
        best_of=best_of,
        max_tokens=max_tokens,
        stream=bool(asked.stream),
        **_usage(asked),
        echo=bool(asked.echo),
        logprobs=logprobs,
        token_events=bool(asked.token_events),
        record=asked.record,
    )


def plan_chat(model: LanguageModel, asked: ChatRequest, template: ChatTemplate) -> Plan:
    """Make an answer in a conversation ready; errors as for :func:`plan_completion`."""
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise _wrong("max_tokens", "Give max_tokens or max_completion_tokens, not both.")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise _wrong("top_logprobs", "top_logprobs goes with logprobs.")
    grammar = _grammar(asked)
    max_tokens = asked.max_tokens or asked.max_completion_tokens
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    # The chat command has another default: the model's own, or 100.
    limit = {} if max_tokens is None and asked.token_events else {"max_new_tokens": max_tokens}
    stops = template.stops if grammar is None else ()  # a grammar says where an answer ends
    params = _params(model, asked, limit=limit, logprobs=logprobs, stops=stops, grammar=grammar)
    ids = chat_ids(model, asked.messages, template)
    n = asked.n or 1
    return Plan(
        prompts=[_fitted(model, ids, params, param="messages")],
        params=params,
        n=n,
        best_of=n,
        max_tokens=max_tokens,
        stream=bool(asked.stream),
        **_usage(asked),
        logprobs=logprobs,
        token_events=bool(asked.token_events),
        record=asked.record,
    )


def chat_ids(
    model: LanguageModel, messages: Sequence[ChatMessage], template: ChatTemplate
) -> list[int]:
    """Messages as the model reads them, the assistant's turn begun.

    Raises:
        ApiError: the template cannot write them.
    """
    turns = [Message(_ROLES.get(each.role, each.role), _content(each)) for each in messages]
    try:
        check_messages(turns, source="messages")
        return template.encode(model.tokenizer, [each.to_dict() for each in turns])
    except LlmcliError as exc:
        raise api_error(exc, param="messages") from exc


def _content(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)


def _grammar(asked: ChatRequest) -> GrammarSource | None:
    """What an answer is held to."""
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_schema" and (wanted.json_schema is None or not wanted.json_schema.name):
        raise _wrong("response_format", "response_format json_schema needs a name and a schema.")
    schema: Any = {"type": "object"}
    if wanted.json_schema is not None and wanted.json_schema.schema is not None:
        schema = wanted.json_schema.schema
    try:
        source = json_schema(schema)
        source.compiled()
    except InvalidInput as exc:
        raise api_error(exc, param="response_format") from exc
    except LlmcliError as exc:  # the package is not there
        raise ApiError(
            400, exc.message, param="response_format", code="unsupported_parameter"
        ) from exc
    return source


def _wrong(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")


def _usage(asked: Sampling) -> dict[str, bool]:
    """When a stream tells what it used, by Plan's names."""
    if asked.stream_options is None:
        return {"include_usage": False}
    if not asked.stream:
        raise _wrong("stream_options", "stream_options goes with stream.")
    wanted = asked.stream_options
    return {
        "include_usage": wanted.include_usage,
        "continuous_usage": wanted.include_usage and wanted.continuous_usage_stats,
    }


# -- settings --------------------------------------------------------------------------------


def _params(
    model: LanguageModel,
    asked: Sampling,
    *,
    limit: Mapping[str, int | None],
    logprobs: int | None,
    stops: tuple[str, ...] = (),
    grammar: GrammarSource | None = None,
) -> SamplingParams:
    given = {
        **given_settings(model, asked),
        **limit,
        "logprobs": logprobs,
        "num_beams": 1,
        "grammar": grammar,
        "stop": (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
    }
    for field in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        if field in given:
            _in_range(field, given[field])
    try:
        params = sampling_params(model, given)
        if stops:
            given["stop"] = tuple(dict.fromkeys((*params.stop, *stops)))
            params = sampling_params(model, {**given, "seed": params.seed})
    except InvalidInput as exc:
        raise api_error(exc) from exc
    return params


def given_settings(model: LanguageModel, asked: Filters) -> dict[str, Any]:
    """What a request sets, by SamplingParams' names.

    Raises:
        ApiError: a token is none.
    """
    given: dict[str, Any] = {}
    for field in asked.__struct_fields__:
        name, value = _NAMES.get(field, field), getattr(asked, field)
        if name in _PARAMS and value is not None:
            given[name] = value
    return {**given, "logit_bias": _logit_bias(model, asked.logit_bias or {})}


def _in_range(field: str, value: float) -> None:
    try:
        check_range(field, value)
    except InvalidInput as exc:
        raise api_error(exc, param=field) from exc


def _logit_bias(model: LanguageModel, given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    pairs = []
    for name, bias in given.items():
        if not (name.isascii() and name.isdecimal() and len(name) < 12):
            raise _wrong("logit_bias", f"logit_bias: {name[:40]!r} is not a token id.")
        pairs.append((_known(model, int(name), "logit_bias"), bias))
    return tuple(pairs)


# -- prompts ---------------------------------------------------------------------------------


def _prompts(given: str | list[Any]) -> list[str | list[int]]:
    """Prompts of what may be a text, texts, token ids or lists of them."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise _wrong("prompt", "The prompt is an empty list.")
    if all(isinstance(each, int) for each in given):
        return [given]
    if all(isinstance(each, str) for each in given) or all(
        isinstance(each, list) for each in given
    ):
        return given
    raise _wrong("prompt", "The prompt mixes texts and token ids. Give a list of one kind.")


def _prompt(
    model: LanguageModel,
    asked: CompletionRequest,
    given: str | list[int],
    params: SamplingParams,
    *,
    room: int,
) -> PlannedPrompt:
    tokenizer = model.tokenizer
    if isinstance(given, list):
        for token in given:
            _known(model, token, "prompt")
    if asked.suffix:
        return _fill_in(model, asked, given, params)
    if isinstance(given, list):
        text = tokenizer.decode_bytes(given).decode("utf-8", "replace")
        return _fitted(model, given, params, room=room, text=text)
    try:
        # All tokens are wanted, for the message that tells how many there are.
        ids = encode_prompt(model, given, bos=bool(asked.bos), special=asked.special or "text")
    except LlmcliError as exc:
        raise api_error(exc, param="prompt") from exc
    begun = ids[:1] == [tokenizer.bos_id] and (bool(asked.bos) or tokenizer.adds_bos)
    return _fitted(
        model, ids, params, room=room, text=given, unseen=int(begun), heal=bool(asked.heal)
    )


def _fitted(
    model: LanguageModel,
    ids: list[int],
    params: SamplingParams,
    *,
    room: int = 1,
    heal: bool = False,
    param: str = "prompt",
    text: str = "",
    unseen: int = 0,
) -> PlannedPrompt:
    try:
        if not ids:
            raise InvalidInput("The prompt is empty.", "Give some text.")
        prompt = prepare_prompt(model, ids, params, heal=heal, room=room)
    except InvalidInput as exc:
        raise api_error(exc, param=param) from exc
    return PlannedPrompt(prompt=prompt, tokens=len(ids), text=text, unseen=unseen)


def _known(model: LanguageModel, token: int, param: str) -> int:
    rows = model.rows or model.tokenizer.vocab_size
    if token >= rows:
        raise _wrong(param, f"{param}: there is no token {token}; the model has {rows}.")
    return token


def _fill_in(
    model: LanguageModel, asked: CompletionRequest, given: str | list[int], params: SamplingParams
) -> PlannedPrompt:
    """A gap as a model that was taught to fill it reads what is around it."""
    try:
        found = infill_of(
            model.tokenizer,
            given,
            asked.suffix or "",
            name=model.name,
            special=asked.special or "text",
        )
    except LlmcliError as exc:
        raise api_error(exc, param="suffix") from exc
    return replace(_fitted(model, list(found.ids), params), eos_ids=found.eos_ids)
