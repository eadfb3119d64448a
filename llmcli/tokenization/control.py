"""Control tokens that a model's own vocabulary can spell, and how to keep a text from it.

The library can be told to take control tokens in a text for text, and then looks for none. But
SentencePiece and WordPiece vocabularies hold ``<s>`` or ``[CLS]`` as pieces like any other, with
the best of scores, and the model finds them by itself. Byte-level BPE has no merges that lead
there.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as Backend

__all__ = ["control_pieces", "without_control_pieces"]

# In front of a piece it makes it one that no text has: the pre-tokeniser leaves no space.
_UNREACHABLE = " "


def control_pieces(backend: Backend) -> frozenset[int]:
    """Ids of control tokens that are pieces of the model; the unknown token is none."""
    model = backend.model
    if model is None:
        return frozenset()
    unknown = getattr(model, "unk_id", None)
    named = getattr(model, "unk_token", None)
    return frozenset(
        token_id
        for token_id, token in backend.get_added_tokens_decoder().items()
        if token.special
        and token_id != unknown
        and token.content != named
        and model.token_to_id(token.content) == token_id
    )


def without_control_pieces(backend: Backend) -> Backend:
    """The same tokenizer, its control pieces out of a text's reach; all other ids as before."""
    control = control_pieces(backend)
    state = json.loads(backend.to_str())
    hidden = {token["content"] for token in state["added_tokens"] if token["id"] in control}
    state["added_tokens"] = [t for t in state["added_tokens"] if t["id"] not in control]
    model = state["model"]
    model["vocab"] = _renamed(model["vocab"], hidden)
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if ("".join(merge) if isinstance(merge, list) else merge.replace(" ", "")) not in hidden
        ]
    state["post_processor"] = None  # it may name what was renamed, and adds nothing here
    plain = Backend.from_str(json.dumps(state))
    plain.encode_special_tokens = True
    return plain


def _renamed(vocabulary: Any, hidden: set[str]) -> Any:
    def name(piece: str) -> str:
        return _UNREACHABLE + piece if piece in hidden else piece

    if isinstance(vocabulary, dict):
        return {name(piece): token_id for piece, token_id in vocabulary.items()}
    return [[name(piece), score] for piece, score in vocabulary]
