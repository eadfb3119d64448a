"""The decoding loop: prompt in, a stream of TokenEvents out. It never prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from llmcli.engine.decoder import Decoder
from llmcli.engine.params import DraftStats, Overflow, SamplingParams, TokenEvent, TopToken
from llmcli.engine.sampling import (
    derive_seed,
    draw,
    filter_logits,
    most_likely,
    one_thread,
    penalize,
)
from llmcli.engine.speculative import Draft, Speculation
from llmcli.engine.transcript import Chosen, Prompt, Transcript
from llmcli.errors import ContextOverflow, InvalidInput, NumericalError


def fit_prompt(
    ids: Sequence[int],
    *,
    n_positions: int,
    max_new_tokens: int | None,
    overflow: Overflow,
    room: int = 1,
) -> tuple[list[int], int]:
    """Cut a prompt that leaves no room in the context.

    ``error`` and ``slide`` need room for ``room`` tokens; ``left`` and ``middle`` make room for
    all that was asked for (half the context where that is the whole of it or more).

    Returns:
        The ids that remain, and how many were dropped.

    Raises:
        InvalidInput: the prompt is empty.
        ContextOverflow: it does not fit, under ``error``.
    """
    ids = list(ids)
    if not ids:
        raise InvalidInput(
            "The prompt is empty.", "Give some text, or --bos to start from the end-of-text token."
        )
    if overflow == "error":
        if len(ids) > n_positions - room:
            share = ", one of them for the continuation" if room else ""
            raise ContextOverflow(
                f"The prompt has {len(ids)} tokens; the context holds {n_positions}{share}.",
                "Shorten it, or pass --overflow left, middle or slide.",
            )
        return ids, 0
    if overflow == "slide":
        limit = n_positions - room
        keep = limit if len(ids) <= limit else max(1, n_positions // 2)
    elif not room:
        keep = n_positions
    elif max_new_tokens is None or max_new_tokens >= n_positions:
        keep = n_positions - n_positions // 2
    else:
        keep = n_positions - max_new_tokens
    if len(ids) <= keep:
        return ids, 0
    if overflow == "middle" and keep > 1:
        tail = keep - keep // 2
        return ids[: keep // 2] + ids[-tail:], len(ids) - keep
    return ids[-keep:], len(ids) - keep


def check_logits(logits: Tensor, position: int) -> None:
    """Raise NumericalError if logits [vocab] hold NaN or +inf, or nothing but -inf."""
    # max() is NaN as soon as one logit is, so one number tells.
    if not math.isfinite(logits.max().item()):
        raise NumericalError(
            f"The model's logits after token {position} are NaN or infinite.",
            "Its weights are damaged, or the precision is too low: try --precision float32.",
        )


def top_tokens(logprobs: Tensor, count: int) -> tuple[TopToken, ...]:
    """Return the ``count`` most likely tokens of log-probabilities [vocab], best first."""
    values, ids = torch.topk(logprobs, min(count, len(logprobs)))
    return tuple(TopToken(i, v) for i, v in zip(ids.tolist(), values.tolist(), strict=True))


def generate(
    decoder: Decoder,
    prompt: Prompt,
    params: SamplingParams,
    *,
    token_bytes: Callable[[int], bytes],
    eos_ids: Collection[int] = (),
    record: int = 0,
    should_stop: Callable[[], bool] = bool,
    draft: Draft | None = None,
    draft_stats: DraftStats | None = None,
) -> Iterator[TokenEvent]:
    """Continue a prompt; ``num_return_sequences`` continuations come one after another.

    Each sequence's last event carries its finish_reason; the texts of its events, joined, are
    the continuation. The sampled text depends on the model, the settings, ``params.seed`` and
    ``record`` alone.

    Args:
        decoder: The model.
        prompt: What to continue; at least one token, with room for one more.
        params: Settings.
        token_bytes: The exact bytes of a token.
        eos_ids: Tokens that end a text.
        record: Which record of a batch this is.
        should_stop: Asked once a token; true ends the sequence as "interrupted".
        draft: Proposes tokens; what comes out is the same, sooner where it guesses well.
        draft_stats: Counts what it proposed.

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    first_logits = decoder.prefill([prompt.ids])[0].clone()
    slid = False
    for index in range(params.num_return_sequences):
        if slid:
            first_logits = decoder.prefill([prompt.ids])[0].clone()
        elif index:
            decoder.rollback([len(prompt.ids)])
        transcript = Transcript(
            prompt,
            params,
            n_positions=decoder.n_positions,
            token_bytes=token_bytes,
            eos_ids=eos_ids,
            index=index,
        )
        generator = torch.Generator().manual_seed(derive_seed(params.seed or 0, record, index))
        ahead = None
        if draft is not None:
            stats = draft_stats or DraftStats()
            ahead = Speculation(decoder, draft, params, generator, stats)
        yield from _decode(decoder, transcript, generator, first_logits, should_stop, ahead)
        slid = transcript.dropped_tokens > prompt.dropped_tokens
        if transcript.finish_reason == "interrupted":
            return


def _decode(
    decoder: Decoder,
    transcript: Transcript,
    generator: torch.Generator,
    logits: Tensor,
    should_stop: Callable[[], bool],
    ahead: Speculation | None = None,
) -> Iterator[TokenEvent]:
    """The loop: choose, tell, advance. ``logits`` [vocab] follow the prompt."""
    while True:
        if should_stop():
            yield transcript.interrupt()
            return
        chosen = choose(logits, transcript, generator)
        yield transcript.take(chosen)
        if transcript.finish_reason is not None:
            return
        logits = _advance(decoder, transcript, chosen.token, ahead)


def _advance(
    decoder: Decoder, transcript: Transcript, token: int, ahead: Speculation | None
) -> Tensor:
    """Logits [vocab] after a token; a full context slides first."""
    if len(transcript.context) > decoder.n_positions:
        transcript.slide()
        if ahead is not None:
            ahead.forget()
        return decoder.prefill([transcript.context])[0]
    if ahead is None:
        return decoder.step([token])[0]
    return ahead.advance(transcript.context, transcript.tokens_left)


def choose(logits: Tensor, transcript: Transcript, generator: torch.Generator) -> Chosen:
    """Pick the next token from raw logits [vocab].

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    with one_thread():
        return _choose(logits, transcript, generator)


def _choose(logits: Tensor, transcript: Transcript, generator: torch.Generator) -> Chosen:
    params = transcript.params
    check_logits(logits, len(transcript.context))
    shaped = shape_logits(logits, transcript)
    token = most_likely(shaped) if params.greedy else draw(shaped, generator)
    if params.logprobs is None:
        return Chosen(token=token)
    logprobs = torch.log_softmax(logits, dim=-1)
    return Chosen(
        token=token,
        logprob=float(logprobs[token]),
        # Greedy decoding draws from a distribution with one token in it.
        sampled_logprob=0.0 if params.greedy else float(torch.log_softmax(shaped, dim=-1)[token]),
        top=top_tokens(logprobs, params.logprobs),
    )


def shape_logits(logits: Tensor, transcript: Transcript) -> Tensor:
    """Return the logits [vocab] that are drawn from; greedy leaves the filters out.

    Raises:
        InvalidInput: the settings forbid every token.
    """
    prompt, params = transcript.prompt, transcript.params
    shaped = penalize(logits, params, transcript.history, eos_ids=transcript.eos_ids)
    if prompt.healing_ids and not transcript.history.generated_count:
        allowed = torch.full_like(shaped, -math.inf)
        beginning = torch.tensor(prompt.healing_ids)
        allowed[beginning] = shaped[beginning]
        shaped = allowed
    check_shaped(shaped)
    return shaped if params.greedy else filter_logits(shaped, params)


def check_shaped(shaped: Tensor) -> None:
    """Raise InvalidInput if penalties left no token in logits [vocab], or drove one to infinity."""
    highest = shaped.max().item()
    if highest == -math.inf:
        raise InvalidInput(
            "The settings forbid every token.", "Loosen --logit-bias or --no-repeat-ngram-size."
        )
    if not math.isfinite(highest):
        raise InvalidInput(
            "The settings drive a logit to infinity.",
            "Use a bias and penalties nearer to 0 (and a repetition penalty nearer to 1).",
        )
