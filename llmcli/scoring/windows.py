"""Which tokens are scored in which window, by each convention (standard library only).

A text's perplexity depends on what each token was conditioned on. A convention says it: where
the windows begin, which of a window's tokens count, with what weight, and what stands before
the first token. The generators here take a text's token ids in pieces of any size, hold about
one window of them, and yield the same windows however the pieces were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, get_args

from llmcli.errors import InvalidInput

ConventionName = Literal["default", "hf", "lm-eval", "llama.cpp", "pll", "pll-word-l2r"]

PSEUDO: tuple[ConventionName, ...] = ("pll", "pll-word-l2r")
"""Those of masked models."""

_WITHOUT_STRIDE: tuple[ConventionName, ...] = ("lm-eval", "llama.cpp", *PSEUDO)
HF_STRIDE = 512
LLAMA_CPP_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Window:
    """One pass of the model: it reads ``tokens[:-1]`` and is asked for ``tokens[first:]``.

    Attributes:
        tokens: Token ids, at most context + 1 of them.
        first: Index in ``tokens`` of the first token that is scored, at least 1; 0 in the
            conventions of masked models, which read what follows a token, too.
        position: Index in the text of ``tokens[first]``; the text begins at 0, and a BOS that is
            scored itself is at -1.
        weight: How much each scored token counts in the mean; 1 but in the hf convention.
    """

    tokens: Sequence[int]
    first: int
    position: int
    weight: float = 1.0

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """A named way to cut a text into windows.

    Attributes:
        name: ``default``, ``hf``, ``lm-eval``, ``llama.cpp``, ``pll`` or ``pll-word-l2r``.
        context: The most tokens the model reads at once.
        stride: Tokens from the beginning of one window to that of the next.
        bos: The id put before the text, or None.
        bos_in_text: Whether that id is also the text's own first token, which is scored.

    Raises:
        InvalidInput: a stride or context out of range, or a BOS that the convention needs.
    """

    name: ConventionName
    context: int
    stride: int
    bos: int | None
    bos_in_text: bool = False

    def __post_init__(self) -> None:
        least = {"llama.cpp": 4, "pll": 1, "pll-word-l2r": 1}.get(self.name, 2)
        if self.context < least:
            raise InvalidInput(
                f"The context is {self.context} tokens.",
                f"The {self.name} convention needs at least {least}.",
            )
        if self.name in _WITHOUT_STRIDE:
            return
        if not 0 < self.stride < self.context:
            raise InvalidInput(
                f"--stride is {self.stride}.",
                f"It must be from 1 to {self.context - 1}, less than the context "
                f"({self.context}); --convention lm-eval scores windows that do not overlap.",
            )

    @property
    def pseudo(self) -> bool:
        """Whether it sums pseudo-log-likelihoods, each token given those around it."""
        return self.name in PSEUDO

    @property
    def scores_every_token(self) -> bool:
        """Whether each token of a text is scored exactly once, with weight 1."""
        return self.pseudo or (self.bos is not None and self.name in ("default", "lm-eval"))

    def windows(self, pieces: Iterable[Sequence[int]], *, skip: int = 0) -> Iterator[Window]:
        """Cut a text into windows, in order.

        Args:
            pieces: The text's token ids, in pieces of any size.
            skip: How many of the first tokens are a prompt: read, but not scored.

        Raises:
            InvalidInput: llama.cpp: fewer than two whole windows.
        """
        found = _GENERATORS[self.name](self, pieces)
        return _without_prompt(found, skip) if skip else found


def make_convention(
    name: ConventionName,
    *,
    n_positions: int,
    bos_id: int | None,
    context: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    adds_bos: bool = False,
) -> Convention:
    """A convention with its own defaults filled in.

    Args:
        name: Which convention.
        n_positions: The model's context.
        bos_id: The model's BOS (or end-of-text) token, None where it has none.
        context: Read fewer tokens at once than the model could.
        stride: For ``default`` (context / 2) and ``hf`` (512, or half of a smaller context).
        bos: Whether BOS stands before the text; None means as the convention does: yes for
            ``default`` and ``lm-eval``, no for ``hf`` and ``llama.cpp``.
        adds_bos: Whether the tokenizer begins every text with BOS. lm-evaluation-harness takes
            that token for one of the text, after the BOS of its own.

    Raises:
        InvalidInput: a value out of range, or one that the convention does not have.
    """
    if name not in get_args(ConventionName):
        raise InvalidInput(
            f"convention is {name!r}.", f"Use one of {', '.join(get_args(ConventionName))}."
        )
    if context is not None and context > n_positions:
        raise InvalidInput(
            f"--context is {context}.", f"The model reads at most {n_positions} tokens."
        )
    if context is None:
        context = min(LLAMA_CPP_CONTEXT, n_positions) if name == "llama.cpp" else n_positions
    if stride is not None and name in _WITHOUT_STRIDE:
        raise InvalidInput(
            f"The {name} convention has no stride.", "Leave out --stride, or set --context."
        )
    if stride is None:
        stride = HF_STRIDE if name == "hf" and context > HF_STRIDE else max(1, context // 2)
    if name in _WITHOUT_STRIDE:
        stride = context
    return Convention(
        name=name,
        context=context,
        stride=stride,
        bos=_choose_bos(name, bos_id, bos),
        bos_in_text=adds_bos and name == "lm-eval",
    )


def _choose_bos(name: ConventionName, bos_id: int | None, bos: bool | None) -> int | None:
    if name == "lm-eval" and bos is False:
        raise InvalidInput("The lm-eval convention always begins with BOS.", "Leave out --no-bos.")
    if name in PSEUDO and bos is not None:
        raise InvalidInput(
            f"The {name} convention reads a text between the tokens that its tokenizer adds.",
            "Leave out --bos and --no-bos.",
        )
    wanted = name in ("default", "lm-eval") if bos is None else bos
    if wanted and bos_id is None:
        raise InvalidInput(
            "The model's tokenizer has neither a BOS nor an end-of-text token.",
            "Use --no-bos, which leaves the first token out"
            + (", with another --convention." if name == "lm-eval" else "."),
        )
    return bos_id if wanted else None


class _Tape:
    """A stretch of a token stream, filled from the pieces on demand, dropped from the left."""

    def __init__(self, pieces: Iterable[Sequence[int]], bos: int | None) -> None:
        self._pieces = iter(pieces if bos is None else chain(((bos,),), pieces))
        self._held: list[int] = []
        self._begin = 0

    def fill(self, until: int) -> int:
        """Read until index ``until`` is passed or the stream ends; return where it stands."""
        while self._begin + len(self._held) < until:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held.extend(piece)
        return min(until, self._begin + len(self._held))

    def take(self, begin: int, end: int) -> list[int]:
        return self._held[begin - self._begin : end - self._begin]

    def drop(self, before: int) -> None:
        # Now and then, not each time: deleting from the left of a list moves the rest.
        surplus = min(before - self._begin, len(self._held))
        if surplus > len(self._held) // 2:
            del self._held[:surplus]
            self._begin += surplus


def _default(convention: Convention, pieces: Iterable[Sequence[int]]) -> Iterator[Window]:
    """Every token once; from the second window on, after at least context - stride others.

    With context 4, stride 2 and BOS written ``^``, the text ``abcdefg`` gives ``^|abcd``,
    ``bcd|ef``, ``def|g`` (scored tokens stand right of the bar).
    """
    tape = _Tape(pieces, convention.bos)
    offset = 0 if convention.bos is None else 1
    begin, scored = 0, 1
    while tape.fill(scored + 1) > scored:
        end = tape.fill(begin + convention.context + 1)
        yield Window(tape.take(begin, end), scored - begin, scored - offset)
        scored = end
        begin += convention.stride
        tape.drop(begin)


def _hf(convention: Convention, pieces: Iterable[Sequence[int]]) -> Iterator[Window]:
    """The sliding window of the Hugging Face guide to perplexity, its weighting included.

    The guide multiplies each window's mean loss by one less than the tokens it is a mean over
    (its correction for the label shift, right for the first window only), so a token of a later
    window counts (n - 1) / n.
    """
    tape = _Tape(pieces, convention.bos)
    offset = 0 if convention.bos is None else 1
    begin, scored = 0, 1
    while tape.fill(scored + 1) > scored:
        end = tape.fill(begin + convention.context)
        fresh = end - scored
        weight = 1.0 if begin == 0 else (fresh - 1) / fresh
        yield Window(tape.take(begin, end), scored - begin, scored - offset, weight)
        scored = end
        begin += convention.stride
        tape.drop(begin)


def _lm_eval(convention: Convention, pieces: Iterable[Sequence[int]]) -> Iterator[Window]:
    """lm-evaluation-harness's rolling windows, ``get_rolling_token_windows(context_len=1)``.

    Windows do not overlap, the last reaches back to a whole context. With context 4 the text
    ``abcdefg`` gives ``^|abcd`` and ``cd|efg``.
    """
    context = convention.context
    offset = 1
    if convention.bos_in_text and convention.bos is not None:
        pieces, offset = _begun_with(convention.bos, pieces), 2
    tape = _Tape(pieces, convention.bos)
    scored = 1
    while tape.fill(scored + 1) > scored:
        end = tape.fill(scored + context)
        begin = max(0, end - context - 1)
        yield Window(tape.take(begin, end), scored - begin, scored - offset)
        scored = end
        tape.drop(end - context)


def _begun_with(token: int, pieces: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """The pieces with a token before the first; none before an empty text."""
    begun = False
    for piece in pieces:
        if piece and not begun:
            begun = True
            yield (token,)
        yield piece


def _llama_cpp(convention: Convention, pieces: Iterable[Sequence[int]]) -> Iterator[Window]:
    """llama-perplexity: whole windows side by side, the second half of each counts."""
    context = convention.context
    tape = _Tape(pieces, convention.bos)
    offset = 0 if convention.bos is None else 1
    held = tape.fill(2 * context)
    if held < 2 * context:
        raise InvalidInput(
            f"The text has {held} tokens; the llama.cpp convention needs two whole windows, "
            f"{2 * context}.",
            "Give a longer text, a smaller --context, or another --convention.",
        )
    begin = 0
    while tape.fill(begin + context) == begin + context:
        tokens = tape.take(begin, begin + context)
        if convention.bos is not None:
            tokens[0] = convention.bos
        first = context // 2 + 1
        yield Window(tokens, first, begin + first - offset)
        begin += context
        tape.drop(begin)


def _side_by_side(convention: Convention, pieces: Iterable[Sequence[int]]) -> Iterator[Window]:
    """Stretches of at most a context, each token of which is asked for."""
    tape = _Tape(pieces, None)
    begin = 0
    while (end := tape.fill(begin + convention.context)) > begin:
        yield Window(tape.take(begin, end), 0, begin)
        begin = end
        tape.drop(begin)


_GENERATORS: dict[
    ConventionName, Callable[[Convention, Iterable[Sequence[int]]], Iterator[Window]]
] = {
    "default": _default,
    "hf": _hf,
    "lm-eval": _lm_eval,
    "llama.cpp": _llama_cpp,
    **dict.fromkeys(PSEUDO, _side_by_side),
}


def _without_prompt(found: Iterator[Window], skip: int) -> Iterator[Window]:
    """The windows with the text's first ``skip`` tokens unscored; empty windows are left out."""
    for window in found:
        surplus = min(max(0, skip - window.position), window.scored)
        if surplus < window.scored:
            yield replace(window, first=window.first + surplus, position=window.position + surplus)
