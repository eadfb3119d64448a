"""Stop strings: however the text is cut, the same characters come out, and none too many."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmcli.engine.stopping import StopMatcher

# Few letters, so that stop strings overlap with the text, with each other and with themselves.
LETTERS = st.sampled_from("abé")
TEXT = st.text(LETTERS, max_size=40)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    text = draw(TEXT)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def by_definition(text: str, stops: list[str], keep: bool) -> tuple[str, str | None]:
    """Read a character at a time; the longest stop string that ends there cuts the text."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end if keep else end - len(stop)], stop
    return text, None


@settings(max_examples=500)
@given(pieces=cut_texts(), stops=STOPS, keep=st.booleans())
@example(pieces=["aab"], stops=["ab", "aab"], keep=False)
@example(pieces=["a", "a", "a", "b"], stops=["aab"], keep=False)
def test_the_text_however_cut(pieces: list[str], stops: list[str], keep: bool) -> None:
    matcher = StopMatcher(stops, keep=keep)
    out = "".join([matcher.push(piece) for piece in pieces])
    matched = matcher.matched
    out += matcher.flush()
    assert (out, matched) == by_definition("".join(pieces), stops, keep)


@settings(max_examples=300)
@given(pieces=cut_texts(), stops=STOPS)
def test_no_more_is_held_back_than_could_be_a_stop(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    read = out = ""
    for piece in pieces:
        read += piece
        out += matcher.push(piece)
        if matcher.matched is not None:
            break
        held = read[len(out) :]
        possible = {stop[:n] for stop in stops for n in range(len(stop))}
        longest = max((s for s in possible if read.endswith(s)), key=len, default="")
        assert held == longest


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("one EN") == "one "
    assert matcher.push("D two") == ""
    assert matcher.matched == "END"
    assert matcher.push("three") == ""
    assert matcher.flush() == ""


def test_without_stop_strings_everything_passes() -> None:
    matcher = StopMatcher([])
    assert matcher.push("anything") == "anything"
    assert matcher.flush() == ""
