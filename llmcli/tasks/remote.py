"""A model that a server has loaded (`llmcli serve`), asked for what commands ask of one here."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import FinishReason, SamplingParams, TokenEvent, TopToken
from llmcli.errors import InvalidInput, LlmcliError
from llmcli.tasks.generate import Continuation
from llmcli.tasks.next import Candidate, FilterEffect, NextToken
from llmcli.tasks.provenance import params_of

if TYPE_CHECKING:
    import httpx2

    from llmcli.scoring.statistics import Score
    from llmcli.tasks.score import ScoreRequest

# Names of SamplingParams that are others on the way.
_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "num_return_sequences": "n",
}
# More than any context: to its end.
_NO_END = 1 << 31


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A calibration as a server tells of it."""

    record: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.record


class RemoteModel:
    """What is known of a server's model; see Described.

    Args:
        about: Where it is from, as `provenance` tells it.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.name: str = about["model"]
        self.revision: str | None = about["revision"]
        self.precision: str = about["precision"]
        self.device: str = about["device"]
        self.versions: dict[str, str] = about["versions"]
        fitted = about.get("calibration")
        self.calibration = None if fitted is None else _Fitted(fitted)
        self.timings: dict[str, float] = {}  # it was loaded long ago
        self._bytes: dict[int, bytes] = {}

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token that the server has told of."""
        return self._bytes[token_id]

    def learn(self, tokens: Iterable[Mapping[str, Any]]) -> None:
        """Note the bytes of tokens: objects with ``id`` and ``bytes``."""
        for each in tokens:
            self._bytes[each["id"]] = bytes(each["bytes"])


@dataclass(slots=True, kw_only=True)
class RemoteText:
    """Continuations that a server makes.

    Attributes:
        model: Its model.
        params: The settings that it drew with.
        continuation: The steps, as they come.
    """

    model: RemoteModel
    params: SamplingParams
    continuation: Continuation


class Client:
    """Speaks to a server.

    Args:
        url: Where it is: ``http://...`` or ``unix:PATH``.
        key: What opens it.
        model: The model that it has to have; None for whichever it has.
    """

    def __init__(self, url: str, *, key: str | None = None, model: str | None = None) -> None:
        import httpx2

        self._url = url
        self._model = model
        self._exceptions = (httpx2.HTTPError, httpx2.InvalidURL)
        path = url.removeprefix("unix:")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            self._http = httpx2.Client(
                base_url=url if path == url else "http://localhost",
                headers=headers,
                timeout=httpx2.Timeout(None, connect=10.0),
                transport=httpx2.HTTPTransport(uds=None if path == url else path),
                trust_env=False,
            )
        except self._exceptions as exc:
            raise self._unreachable(exc) from exc

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for an answer of JSON.

        Raises:
            InvalidInput: the server says that the request is wrong.
            LlmcliError: it cannot be reached, or cannot answer.
        """
        try:
            answer = self._http.post(path, json=self._named(body))
            return self._content(answer)
        except self._exceptions as exc:
            raise self._unreachable(exc) from exc

    def served(self) -> dict[str, Any]:
        """What the server says of its model: ``about``, ``sampling`` and ``max_model_len``.

        Raises:
            LlmcliError: it cannot be reached, or is no server of llmcli's.
        """
        try:
            content = self._content(self._http.get("/v1/models"))
            found = content["data"][0]
            return {**found["llmcli"], "max_model_len": found["max_model_len"]}
        except self._exceptions as exc:
            raise self._unreachable(exc) from exc
        except (KeyError, IndexError, TypeError) as exc:
            raise LlmcliError(f"{self._url} is no server of llmcli's.", "Check --server.") from exc

    def chunks(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Ask for a stream; yield its chunks. Errors as for `post`."""
        try:
            with self._http.stream("POST", path, json={**self._named(body), "stream": True}) as it:
                if it.status_code != 200:
                    it.read()
                    self._content(it)
                for line in it.iter_lines():
                    if line.startswith("data: {"):
                        chunk = json.loads(line.removeprefix("data: "))
                        if "error" in chunk:
                            raise LlmcliError(f"The server broke off: {chunk['error']['message']}")
                        yield chunk
        except self._exceptions as exc:
            raise self._unreachable(exc) from exc

    def _named(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {**body, **({} if self._model is None else {"model": self._model})}

    def _content(self, answer: httpx2.Response) -> dict[str, Any]:
        try:
            content = answer.json()
            if answer.status_code == 200:
                return dict(content)
            message = str(content["error"]["message"])
        except (ValueError, KeyError, TypeError) as exc:
            raise LlmcliError(
                f"{self._url} gives no answer of llmcli's (status {answer.status_code}).",
                "Check --server.",
            ) from exc
        if answer.status_code in (400, 404, 413):
            raise InvalidInput(message)
        if answer.status_code == 401:
            raise LlmcliError(message, "Pass --api-key-file.")
        raise LlmcliError(f"The server says: {message}")

    def _unreachable(self, exc: Exception) -> LlmcliError:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        return LlmcliError(
            f"Cannot reach {self._url}: {reason.rstrip('.')}.", "Is 'llmcli serve' running there?"
        )

    # -- what commands ask -------------------------------------------------------------------

    def continue_text(
        self,
        text: str,
        given: Mapping[str, Any],
        *,
        how: Mapping[str, Any],
        should_stop: Callable[[], bool] = bool,
    ) -> RemoteText:
        """Have a text continued; the first step is awaited.

        Args:
            text: The prompt.
            given: Settings, by SamplingParams' names.
            how: Further fields of the request.
            should_stop: Asked once a step; true ends what is under way as "interrupted".
        """
        body = {"prompt": text, **request_fields(given), **how, "token_events": True}
        return self._text(self.chunks("/v1/completions", body), should_stop)

    def answer(
        self,
        messages: Sequence[Mapping[str, str]],
        given: Mapping[str, Any],
        *,
        should_stop: Callable[[], bool] = bool,
    ) -> RemoteText:
        """Have messages answered; as `continue_text`."""
        body = {"messages": list(messages), **request_fields(given), "token_events": True}
        return self._text(self.chunks("/v1/chat/completions", body), should_stop)

    def _text(
        self, chunks: Iterator[dict[str, Any]], should_stop: Callable[[], bool]
    ) -> RemoteText:
        first = next(chunks, None)
        if first is None or "llmcli" not in first:
            raise LlmcliError(f"{self._url} is no server of llmcli's.", "Check --server.")
        told = first["llmcli"]
        model = RemoteModel(told["model"])
        beside = {"num_return_sequences": told["n"], "seed": first["seed"]}
        params = params_of({**told["sampling"], **beside})
        events = _in_order(_events(model, first, chunks), told["n"], should_stop)
        continuation = Continuation(
            prompt_tokens=told["prompt_tokens"],
            dropped_tokens=told["dropped_tokens"],
            events=events,
        )
        return RemoteText(model=model, params=params, continuation=continuation)

    def next_tokens(
        self, text: str, given: Mapping[str, Any], *, count: int, bos: bool
    ) -> tuple[RemoteModel, NextToken, dict[str, Any]]:
        """What may follow a text: what it is told by, the distribution, and all of it as JSON."""
        body = {"prompt": text, "count": count, "bos": bos, **request_fields(given)}
        record = self.post("/v1/next", body)
        model = RemoteModel(record)
        model.learn(record["candidates"])
        found = NextToken(
            candidates=tuple(
                Candidate(
                    id=each["id"],
                    logprob=each["logprob"],
                    sampled_logprob=each["sampled_logprob"],
                )
                for each in record["candidates"]
            ),
            entropy=record["entropy"],
            filters=tuple(FilterEffect(**each) for each in record["filters"]),
        )
        return model, found, record

    def score(self, text: str, request: ScoreRequest) -> tuple[Score, dict[str, Any]]:
        """How well the server's model predicts a text: the figures, and all of it as JSON."""
        from llmcli.scoring.statistics import Score

        names = ("convention", "context", "stride", "bos", "prompt")
        fields = {name: getattr(request, name) for name in names}
        record = self.post("/v1/score", {"text": text, **fields})
        interval = record["perplexity_interval"]
        score = Score(
            tokens=record["tokens"],
            words=record["words"],
            bytes=record["bytes"],
            nll=record["nll"],
            complete=record["bits_per_byte"] is not None,
            interval=None if interval is None else (interval[0], interval[1]),
            block_tokens=record["interval"]["block_tokens"],
        )
        return score, record

    def logit_bias(self, texts: Sequence[str]) -> dict[str, float]:
        """The biases of ``TOKEN=VALUE`` texts, by the server's tokens.

        Raises:
            InvalidInput: one of them is none, or no token.
        """
        found = {}
        for text in texts:
            token, _, value = text.rpartition("=")
            try:
                bias = float(value)
            except ValueError as exc:
                raise InvalidInput(
                    f"--logit-bias {text!r} is not TOKEN=VALUE.", "For example ' the=-5'."
                ) from exc
            if not -100 <= bias <= 100:
                raise InvalidInput(f"A server takes no bias of {bias}.", "Use -100 to 100.")
            if token.isdecimal():
                found[token] = bias
                continue
            body = {"prompt": token, "add_special_tokens": False}
            ids = self.post("/tokenize", body)["tokens"]
            if len(ids) != 1:
                raise InvalidInput(f"--logit-bias: {token!r} is {len(ids)} tokens.", "Name one.")
            found[str(ids[0])] = bias
        return found


def request_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by SamplingParams' names as fields of a request."""
    named = {_NAMES.get(name, name): value for name, value in given.items()}
    if "max_tokens" in named and named["max_tokens"] is None:
        named["max_tokens"] = _NO_END
    return {name: value for name, value in named.items() if value not in (None, (), {})}


def _events(
    model: RemoteModel, first: dict[str, Any], chunks: Iterator[dict[str, Any]]
) -> Iterator[TokenEvent]:
    for chunk in chain([first], chunks):
        for choice in chunk["choices"]:
            for record in choice["token_events"]:
                yield _event(model, record)


def _event(model: RemoteModel, record: Mapping[str, Any]) -> TokenEvent:
    model.learn(record["top"])
    reason: FinishReason | None = record["finish_reason"]
    return TokenEvent(
        index=record["index"],
        text=record["text"],
        token_id=record["token_id"],
        token_bytes=bytes(record["bytes"]),
        logprob=record["logprob"],
        sampled_logprob=record["sampled_logprob"],
        top=tuple(TopToken(each["id"], each["logprob"]) for each in record["top"]),
        finish_reason=reason,
        stop=record["stop"],
        dropped_tokens=record["dropped_tokens"],
        allowed_mass=record["allowed_mass"],
    )


def _in_order(
    events: Iterator[TokenEvent], count: int, should_stop: Callable[[], bool]
) -> Iterator[TokenEvent]:
    """The events of the first sequence, then those of the next, whichever came first."""
    waiting: dict[int, deque[TokenEvent]] = {index: deque() for index in range(count)}
    for index in range(count):
        while True:
            if waiting[index]:
                event = waiting[index].popleft()
            elif should_stop():
                yield TokenEvent(index=index, text="", finish_reason="interrupted")
                return
            else:
                event = next(events)
                if event.index != index:
                    waiting[event.index].append(event)
                    continue
            yield event
            if event.finish_reason is not None:
                break
