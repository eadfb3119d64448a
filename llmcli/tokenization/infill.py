"""Filling in the middle: how the families of code models spell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmcli.errors import UnsupportedModel
from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

__all__ = ["Infill", "infill_of"]


@dataclass(frozen=True, slots=True)
class _Spelling:
    """Tokens of a family.

    Attributes:
        prefix: Before what stands first.
        suffix: Before what stands last.
        middle: Before what is to be made; "" where it follows the prefix itself.
        ends: Tokens that end what is made, where the vocabulary has them.
    """

    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...] = ()


_FAMILIES = (
    # StarCoder, StarCoder2, Granite Code, StableCode.
    _Spelling("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<file_sep>", "<fim_pad>")),
    # SantaCoder.
    _Spelling("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<fim-pad>",)),
    # Qwen2.5-Coder, CodeGemma, Granite 3.
    _Spelling(
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "<|fim_pad|>"),
    ),
    # CodeLlama.
    _Spelling("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
    # DeepSeek-Coder.
    _Spelling("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Codestral: the suffix first, and nothing between prefix and middle.
    _Spelling("[PREFIX]", "[SUFFIX]", ""),
)


@dataclass(frozen=True, slots=True)
class Infill:
    """A prefix and a suffix as a model reads them.

    Attributes:
        ids: Token ids, the model's begin token in front where its tokenizer puts one.
        eos_ids: Tokens that end the middle beside the model's own.
    """

    ids: tuple[int, ...]
    eos_ids: tuple[int, ...]


def infill_of(
    tokenizer: Tokenizer,
    prefix: str | Sequence[int],
    suffix: str,
    *,
    name: str,
    special: SpecialTokens = "text",
) -> Infill:
    """Write a prefix and a suffix for a model that fills in what is between them.

    Args:
        tokenizer: The model's.
        prefix: What stands before; a text, or its tokens.
        suffix: What stands after.
        name: What messages call the model.
        special: What control tokens in both are.

    Raises:
        UnsupportedModel: the tokenizer has no tokens for it.
        InvalidInput: as for `Tokenizer.ids`.
    """
    for family in _FAMILIES:
        names = [mark for mark in (family.prefix, family.suffix, family.middle) if mark]
        marks = _known(tokenizer, names)
        if len(marks) < len(names):
            continue
        before = tokenizer.ids(prefix, special=special) if isinstance(prefix, str) else prefix
        first = [marks[0], *before]
        last = [marks[1], *_following(tokenizer, suffix, special)]
        ids = [*first, *last, marks[2]] if family.middle else [*last, *first]
        if tokenizer.adds_bos and tokenizer.bos_id is not None:
            ids = [tokenizer.bos_id, *ids]
        return Infill(tuple(ids), (*_known(tokenizer, family.ends), *marks))
    raise UnsupportedModel(
        f"{name} has no tokens for filling in the middle.",
        "Use a model that was trained for it, such as Qwen2.5-Coder or StarCoder2.",
    )


def _known(tokenizer: Tokenizer, names: Iterable[str]) -> list[int]:
    """The ids of those tokens that the vocabulary has."""
    found = map(tokenizer.backend.token_to_id, names)
    return [each for each in found if each is not None]


def _following(tokenizer: Tokenizer, text: str, special: SpecialTokens) -> list[int]:
    """The tokens of a text that begins no text: without the space that SentencePiece puts there."""
    if tokenizer.spelling.prefix_space and text:
        ids = tokenizer.ids(f"\n{text}", special=special)
        data = [tokenizer.token_bytes(each) for each in ids[:2]]
        if data == [b" ", b"\n"]:
            return ids[2:]
    return tokenizer.ids(text, special=special)
