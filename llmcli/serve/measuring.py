"""The routes that measure texts: what ``score``, ``rank`` and ``next`` print with ``--json``.

Each is a generator that the engine's thread takes a step of between two steps of texts that are
being made.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from llmcli.serve.schema import NextBody, RankBody, ScoreBody
from llmcli.tasks.next import predict
from llmcli.tasks.rank import RankRequest, rank_choices
from llmcli.tasks.score import ScoreRequest, Scoring, nothing_scored

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

Work = Generator[None, None, dict[str, Any]]


def score(model: LanguageModel, asked: ScoreBody) -> Work:
    """How well the model predicts a text; a window at a time.

    Raises:
        InvalidInput: a setting is out of range, or there is nothing to score.
        NumericalError: the logits are NaN or infinite.
    """
    start = time.perf_counter()
    request = ScoreRequest(
        convention=asked.convention,
        context=asked.context,
        stride=asked.stride,
        bos=asked.bos,
        prompt=asked.prompt,
    )
    # A context of the request's own is no other request's.
    scoring = Scoring(model=copy(model), request=request)
    convention = scoring.convention()
    scorer = scoring.scorer(convention)
    for _ in scorer.windows([(None, iter([asked.text]))]):
        yield
    if not scorer.total.weight:
        ((_, tally),) = scoring.scorer(convention).run([(None, iter([asked.text]))])
        raise nothing_scored("The text", tally, convention, prompt=asked.prompt)
    return scoring.answer(scorer.total.score(), convention, start).to_dict()


def rank(model: LanguageModel, asked: RankBody) -> Work:
    """Which of several continuations the model finds likeliest; errors as for `score`."""
    request = RankRequest(
        prompt=asked.prompt,
        choices=tuple(asked.choices),
        normalize=asked.normalize,
        delimiter=asked.delimiter,
        bos=asked.bos,
    )
    yield
    return rank_choices(model, request).to_dict()


def next_tokens(model: LanguageModel, asked: NextBody, given: Mapping[str, Any]) -> Work:
    """What may follow a text, with the settings given; errors as for `score`."""
    yield
    return predict(model, asked.prompt, given, count=asked.count, bos=bool(asked.bos)).to_dict()
