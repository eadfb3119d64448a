r"""Where a text may be cut so that its parts, encoded alone, give the ids of the whole.

A pre-tokeniser splits a text into tiles, and no token crosses a tile's edge. So a cut is exact
where (1) every text has a tile's edge, and (2) neither side's tiles depend on the other side.

GPT-2's tiles are the leftmost matches of

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

Let c be the character before a cut, d the one after it.

*c is no space, d is " " or a newline.* No alternative matches a non-space followed by a space,
so (1) holds. The regular expression looks forward only, and never past the first character that
ends a run: on the left, the run that ends in c ends there whether a space or nothing follows, and
every run of spaces before it is followed by a visible character, so ``\s+(?!\S)`` decides as
before. On the right nothing looks back. An apostrophe does no harm: a contraction's letters are
no spaces, so it lies wholly on one side. A cut *after* a space would not do: "a  b" is
"a", " ", " b", but "a " ends in a run of its own and "b" lacks its space.

*c and d are ASCII and of different classes* (letter, digit, other): letters and digits end their
run where the class changes, so letter|digit, letter|other, digit|letter, digit|other are edges,
and other|digit too. But not other|letter: in "x's" the apostrophe takes the letter, and newer
expressions (Llama 3's, GPT-4's) let any character open a word,
``[^\r\n\p{L}\p{N}]?\p{L}+``. And not with an apostrophe as d, which GPT-4o's expression joins to
the word before it. ASCII, because what is a letter elsewhere depends on the Unicode version of
whoever is asked.

Newer expressions are alternations of other terms with the same property for d = " "; some let a
newline follow punctuation (``[\r\n]*``), so there d is never a newline. `_TERMS` lists the terms
that were examined; an expression with any other is not cut.

SentencePiece writes a space as ``▁``: where the pre-tokeniser splits there, or where no piece of
the vocabulary has ``▁`` after another character, no token crosses the edge in front of a space.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

__all__ = ["CutRule", "cut_rule", "last_cut", "last_tile_edge"]

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_MARKED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = (*_CONTRACTIONS, r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+")
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = tuple(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}{first}{_LOWER}{second}{end}"
    for first, second in (("*", "+"), ("+", "*"))
    for end in ("", _MARKED + "?")
)
# Runs of one class: after a cut inside such a run, its rest is a run with the same end.
_RUNS = (
    *_GPT2,
    _MARKED,
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}{1,3}",
    r"\p{N}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
)
_TERMS = (
    *_RUNS,
    *_WORDS,
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
)

# Each pattern ends before d, and one more character follows d.
_SPACE = re.compile(r"\S(?= [\s\S])")
_SPACE_OR_NEWLINE = re.compile(r"\S(?=[ \n][\s\S])")
_OTHER = r"!-&(-/:-@\[-`{-~"  # ASCII punctuation but the apostrophe
_CLASSES = re.compile(rf"[A-Za-z](?=[0-9{_OTHER}])|[0-9](?=[A-Za-z{_OTHER}])|[{_OTHER}](?=[0-9])")
_TILE_MARGIN = 64
_INNER_SPACE = re.compile(r"\S[ \n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRule:
    """Where a tokenizer's input may be cut.

    Attributes:
        newline: Whether d may be a newline, and not only a space.
        classes: Whether a change of class is an edge.
        tiles: Whether the pre-tokeniser may be asked for its edges (`last_tile_edge`).
        joins: Whether one tile may be cut and its parts' tokens joined (byte-level BPE).
        space_joins: Whether this holds inside a run of spaces too.
        drop_space: Whether the tokenizer itself puts a space in front of every text, so that a
            part must be given without the space it begins with.
    """

    newline: bool = False
    classes: bool = False
    tiles: bool = False
    joins: bool = False
    space_joins: bool = False
    drop_space: bool = False


def cut_rule(backend: Backend, *, allow_special: bool = False) -> CutRule | None:
    """The rule for a tokenizer; None where nothing is certain and a text must stay whole.

    Args:
        backend: The tokenizer.
        allow_special: Whether control tokens in the text are tokens.
    """
    active = [
        token
        for token in backend.get_added_tokens_decoder().values()
        if allow_special or not token.special
    ]
    if any(token.rstrip or _INNER_SPACE.search(token.content) for token in active):
        return None  # such a token would swallow, or hold, the space at the edge
    rule = _rule(backend)
    if rule is None or not active:
        return rule
    return CutRule(newline=rule.newline, drop_space=rule.drop_space)


def _rule(backend: Backend) -> CutRule | None:
    normalizer = _state(backend.normalizer)
    steps = _steps(_state(backend.pre_tokenizer), "pretokenizers")
    kinds = [step["type"] for step in steps]
    if getattr(backend.model, "dropout", None):
        return None
    if kinds == ["Metaspace"] and _is_stable(normalizer):
        if steps[0]["replacement"] != "▁":
            return None
        return CutRule() if steps[0]["split"] or _no_inner_space(backend) else None
    if not steps:
        return _piece_rule(backend, normalizer)
    if not _is_stable(normalizer) or not set(kinds) <= {"ByteLevel", "Split", "Digits"}:
        return None
    prefixed = any(step.get("add_prefix_space") for step in steps)
    expressions = [_terms(step) for step in steps if _has_expression(step)]
    if len(expressions) != 1 or expressions[0] is None:
        return None
    terms = expressions[0]
    if prefixed:  # a part that begins with anything but a space would be given one
        return CutRule()
    gpt2 = set(terms) <= set(_GPT2)
    tiles = normalizer is None  # edges of the raw text are not those of the normalised one
    joins = (
        tiles
        and kinds in (["ByteLevel"], ["Split", "ByteLevel"])
        and set(terms) <= set(_RUNS)
        and isinstance(backend.model, BPE)
        and not backend.model.end_of_word_suffix
        and not backend.model.continuing_subword_prefix
    )
    return CutRule(newline=gpt2, classes=True, tiles=tiles, joins=joins, space_joins=joins and gpt2)


def _is_stable(normalizer: dict[str, Any] | None) -> bool:
    """No normaliser, or NFC: a space composes with nothing before it."""
    return normalizer is None or bool(normalizer["type"] == "NFC")


def _has_expression(step: dict[str, Any]) -> bool:
    return step["type"] == "Split" or bool(step["type"] == "ByteLevel" and step["use_regex"])


def _terms(step: dict[str, Any]) -> list[str] | None:
    """The alternatives of a step's regular expression, if all of them were examined."""
    if step["type"] == "ByteLevel":
        return list(_GPT2)
    expression = step["pattern"].get("Regex")
    kept = step["behavior"] == "Isolated" and not step["invert"]
    inverted = step["behavior"] == "Removed" and step["invert"]
    if expression is None or not (kept or inverted):
        return None
    terms = []
    rest = str(expression)
    while rest:
        found = [t for t in _TERMS if rest == t or rest.startswith(t + "|")]
        if not found:
            return None
        terms.append(max(found, key=len))
        rest = rest[len(terms[-1]) + 1 :]
    return terms


def _piece_rule(backend: Backend, normalizer: dict[str, Any] | None) -> CutRule | None:
    """BPE over the whole text with ``▁`` for a space, as Llama 2 has it."""
    steps = _steps(normalizer, "normalizers")
    prefixed = [step["type"] for step in steps] == ["Prepend", "Replace"]
    spelt = bool(steps) and steps[-1]["type"] == "Replace" and steps[-1]["content"] == "▁"
    if not spelt or len(steps) != 1 + prefixed:
        return None
    if steps[-1]["pattern"] != {"String": " "} or (prefixed and steps[0]["prepend"] != "▁"):
        return None
    return CutRule(drop_space=prefixed) if _no_inner_space(backend) else None


def _no_inner_space(backend: Backend) -> bool:
    """Whether the model is BPE and none of its pieces has ``▁`` after another character."""
    if not isinstance(backend.model, BPE):
        return False
    vocabulary = backend.get_vocab(with_added_tokens=False)
    inner = any("▁" in piece.lstrip("▁") for piece in vocabulary)
    return not inner


def _state(component: Any) -> dict[str, Any] | None:
    state: dict[str, Any] | None = (
        None if component is None else json.loads(component.__getstate__())
    )
    return state


def _steps(state: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if state is None:
        return []
    if state["type"] != "Sequence":
        return [state]
    return [inner for step in state[key] for inner in _steps(step, key)]


def last_cut(text: str, rule: CutRule, searched: int = 0) -> int:
    """The last certain cut in a text after ``searched``, where none was found; 0 for none."""
    space = _SPACE_OR_NEWLINE if rule.newline else _SPACE
    patterns = (space, _CLASSES) if rule.classes else (space,)
    for window in (256, 4096, len(text)):
        for pattern in patterns:
            start = max(0, searched - 2, len(text) - window)
            if found := [match.end() for match in pattern.finditer(text, start)]:
                return found[-1]
    return 0


def last_tile_edge(text: str, backend: Backend) -> int:
    """The last edge that the pre-tokeniser itself finds and that no further text can move.

    For a text that begins at an edge and holds no cut that `last_cut` knows (Chinese without
    spaces). An edge is certain where enough follows to see the end of a contraction, and, because
    a run of spaces is read to its end, where something other than spaces follows. An edge after a
    space will not do: of "a  b" the second space is a tile, but "a  " ends in a tile of two.
    """
    settled = min(len(text) - _TILE_MARGIN, len(text.rstrip()) - 1)
    edges = (end for _, (_, end) in backend.pre_tokenizer.pre_tokenize_str(text))
    return max((end for end in edges if end <= settled and not text[end - 1].isspace()), default=0)
