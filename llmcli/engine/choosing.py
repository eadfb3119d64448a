"""The next token of a sequence, or of many at once: penalties, filters and the draw together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Floats
from llmcli.engine.native.draws import Row, draw_rows
from llmcli.engine.sampling import (
    check_logits,
    check_shaped,
    draw,
    filter_logits,
    filter_steps,
    log_sum_exp,
    most_likely,
    penalize,
    penalized_ids,
    top_tokens,
)
from llmcli.engine.transcript import Chosen, Transcript
from llmcli.errors import InvalidInput, NumericalError

# What the library does; with others a row is left to numpy.
NATIVE_FILTERS = {"temperature", "top_k", "top_p", "min_p"}


def choose(logits: Floats, transcript: Transcript, number: Callable[[int], float]) -> Chosen:
    """Pick the next token from raw logits [vocab].

    Args:
        logits: The model's own.
        transcript: The text so far and its settings.
        number: The random number in [0, 1) for the token at a position of the continuation.

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    params = transcript.params
    check_logits(logits, len(transcript.context))
    shaped = shape_logits(logits, transcript)
    if params.greedy:
        token = most_likely(shaped)
    else:
        token = draw(shaped, number(transcript.history.generated_count))
    # Greedy decoding draws from a distribution with one token in it.
    if params.logprobs is None or params.greedy:
        sampled = 0.0
    else:
        sampled = float(shaped[token]) - log_sum_exp(shaped)
    return _told(logits, transcript, token, sampled)


def choose_all(
    rows: Sequence[tuple[Floats, Transcript, Callable[[int], float]]], *, threads: int = 1
) -> list[Chosen | InvalidInput | NumericalError]:
    """Pick the next token of each of many sequences, or say why it cannot be.

    As :func:`choose` does, which is the reference; what the library can draw is drawn together.

    Args:
        rows: As its arguments; logits are writable, and left as they were.
        threads: How many of the processor's to take.
    """
    chosen: list[Chosen | InvalidInput | NumericalError | None] = [None] * len(rows)
    together: dict[int, Row] = {}
    before: dict[int, tuple[Floats, npt.NDArray[np.int64], Floats]] = {}
    shared = Counter(logits.ctypes.data for logits, _, _ in rows)
    try:
        for place, (logits, transcript, number) in enumerate(rows):
            changed = _drawn_together(logits, transcript)
            if changed is None or len(logits) != len(rows[0][0]):
                continue
            # Sequences of one prompt begin with the same row; a grammar leaves little of one.
            if shared[logits.ctypes.data] > 1 or transcript.constraint is not None:
                logits = logits.copy()
            before[place] = logits, changed, logits[changed]
            together[place] = _row(logits, transcript, number)
        drawn = (draw_rows(list(together.values()), threads=threads) if together else None) or []
    finally:
        for logits, changed, values in before.values():
            logits[changed] = values
    for place, result in zip(together, drawn, strict=False):
        # What is no number is left to choose(), which says what is wrong.
        if result is not None and not np.isnan(before[place][2]).any():
            logits, transcript, _ = rows[place]
            chosen[place] = _told(logits, transcript, result.token, result.logprob)
    return [
        _chosen_alone(*row) if result is None else result
        for row, result in zip(rows, chosen, strict=True)
    ]


def _drawn_together(logits: Floats, transcript: Transcript) -> npt.NDArray[np.int64] | None:
    """The tokens that penalties change, where the library can draw; None where it cannot."""
    params, history = transcript.params, transcript.history
    healed = transcript.prompt.healing_ids and not history.generated_count
    if params.greedy or healed:
        return None
    if transcript.constraint is not None and not _may_be_masked(logits, transcript):
        return None
    if not {name for name, _, _ in filter_steps(params)} <= NATIVE_FILTERS:
        return None
    return penalized_ids(params, history, eos_ids=transcript.eos_ids)


def _may_be_masked(logits: Floats, transcript: Transcript) -> bool:
    """Whether a grammar's mask hides nothing that choose() would complain of, and is there."""
    try:
        transcript.mask(len(logits))
    except InvalidInput:
        return False
    return math.isfinite(logits.max())


def _row(logits: Floats, transcript: Transcript, number: Callable[[int], float]) -> Row:
    """What the library draws from: the logits themselves, with the penalties on them."""
    params, history = transcript.params, transcript.history
    shaped = penalize(logits, params, history, eos_ids=transcript.eos_ids, in_place=True)
    if transcript.constraint is not None:
        shaped[~transcript.mask(len(shaped))] = -np.inf
    return Row(
        logits=shaped,
        number=number(history.generated_count),
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
    )


def _chosen_alone(
    logits: Floats, transcript: Transcript, number: Callable[[int], float]
) -> Chosen | InvalidInput | NumericalError:
    try:
        return choose(logits, transcript, number)
    except (InvalidInput, NumericalError) as exc:
        return exc


def _told(logits: Floats, transcript: Transcript, drawn: int, sampled_logprob: float) -> Chosen:
    """A drawn token, or what a grammar puts in its place, with what was asked about it."""
    params, constraint = transcript.params, transcript.constraint
    token, mass = drawn, None
    if constraint is not None:
        token = constraint.settle(drawn, transcript.tokens_left)
    if params.logprobs is None:
        return Chosen(token=token)
    total = log_sum_exp(logits)
    if constraint is not None:
        allowed = transcript.mask(len(logits))
        # Where the document has to be closed, its one way is all that was allowed.
        kept = logits[allowed] if token == drawn else logits[token : token + 1]
        mass = math.exp(log_sum_exp(kept) - total)
    return Chosen(
        token=token,
        logprob=float(logits[token]) - total,
        sampled_logprob=sampled_logprob if token == drawn else 0.0,
        allowed_mass=mass,
        top=top_tokens(logits, params.logprobs),
    )


def shape_logits(logits: Floats, transcript: Transcript) -> Floats:
    """Return the logits [vocab] that are drawn from; greedy leaves the filters out.

    Raises:
        InvalidInput: the settings forbid every token.
    """
    shaped = _penalized(logits, transcript)
    if transcript.constraint is not None and shaped.max() == -math.inf:
        raise InvalidInput(
            "The settings forbid every token that the grammar allows.",
            "Loosen --logit-bias, --ban or --no-repeat-ngram-size.",
        )
    check_shaped(shaped)
    params = transcript.params
    return shaped if params.greedy else filter_logits(shaped, params)


def _penalized(logits: Floats, transcript: Transcript) -> Floats:
    """Logits [vocab] with penalties; what a beginning or a grammar does not allow is -inf."""
    prompt, params = transcript.prompt, transcript.params
    shaped = penalize(logits, params, transcript.history, eos_ids=transcript.eos_ids)
    if prompt.healing_ids and not transcript.history.generated_count:
        allowed = np.full_like(shaped, -np.inf)
        beginning = np.array(prompt.healing_ids)
        allowed[beginning] = shaped[beginning]
        shaped = allowed
    if transcript.constraint is not None:
        shaped[~transcript.mask(len(shaped))] = -np.inf
    return shaped
