"""A masked model, made ready to score texts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.pseudo import PseudoLikelihood
    from llmcli.scoring.windows import Convention
    from llmcli.tasks.score import ScoreRequest


def pseudo_likelihood(
    model: LanguageModel, convention: Convention, request: ScoreRequest
) -> PseudoLikelihood:
    """What scores windows with a masked model.

    Raises:
        UnsupportedModel: the model is none, or its tokenizer has no token for a gap.
    """
    from llmcli.scoring.pseudo import PseudoLikelihood
    from llmcli.tokenization.words import words_of

    tokenizer = model.tokenizer
    return PseudoLikelihood(
        model.masked(),
        mask_id=model.mask_id,
        template=tokenizer.template,
        words=partial(words_of, tokenizer) if convention.name == "pll-word-l2r" else None,
        batch_size=request.batch_size,
        top=request.alternatives,
    )
