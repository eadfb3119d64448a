"""One self-contained page that shows where texts surprised a model, or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmcli.engine.params import TokenEvent
from llmcli.tasks.seen_tokens import SeenToken
from llmcli.terminal.page import Page, shown_bytes
from llmcli.terminal.score_table import bounds_of, number, signed, who
from llmcli.terminal.surprisal import Stretch, stretches

# A character has at most four bytes, so at most four tokens.
_MOST = 4


class TokensPage:
    """Writes the page as tokens come; nothing of the texts is held.

    Args:
        write: Takes the page's bytes.
    """

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._page = Page("tokens", write)
        self._page.begin("stretches")
        self._held: dict[int, list[SeenToken]] = {}

    def add(self, token: SeenToken, text: int = 0) -> None:
        """Add the next token of the text of this number."""
        held = self._held.setdefault(text, [])
        held.append(token)
        *whole, last = stretches(held)
        # The last may wait for the rest of its character, for three more tokens at most.
        if not last.text.endswith("\ufffd") or len(last.tokens) > _MOST:
            whole.append(last)
        self._put(whole, text)
        self._held[text] = [] if whole and whole[-1] is last else list(last.tokens)

    def finish(self, about: Mapping[str, Any]) -> None:
        """End the page; ``about`` is what one of the functions below makes."""
        for text, held in self._held.items():
            self._put(stretches(held), text)
        self._page.end()
        self._page.data("about", about)
        self._page.finish()

    def _put(self, found: Iterable[Stretch], text: int) -> None:
        for stretch in found:
            size = sum(len(token.data) for token in stretch.tokens)
            self._page.item([text, stretch.text, size, list(map(_compact, stretch.tokens))])


def about_score(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of a text's score, as ``score --json`` prints it."""
    return {
        "title": f"Surprisal by {record['model']}",
        "how": _how(record),
        "figures": _figures(record),
        "texts": [{"name": ""}],
        "beside": False,
    }


def about_versus(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of two models' scores, as ``score --vs --json`` prints them."""
    other, difference = record["vs"], record["difference"]
    per = "token" if "nll_per_token" in difference else "byte"
    figures = [
        [f"{label}, {side}", number(of[name]), ""]
        for side, of in (("A", record), ("B", other))
        for name, label in (("perplexity", "perplexity"), ("bits_per_byte", "bits per byte"))
    ]
    interval = difference[f"nll_per_{per}_interval"]
    figures.append(
        [f"B - A, nats a {per}", signed(difference[f"nll_per_{per}"]), bounds_of(interval)]
    )
    if difference["kl_divergence"] is not None:
        figures.append(["KL divergence", number(difference["kl_divergence"]), "nats a token"])
        figures.append(["same likeliest token", f"{difference['same_top']:.1%}", ""])
    return {
        "title": f"{record['model']} and {other['model']} on the same text",
        "how": _how({**record, "precision": "", "revision": None}),
        "figures": figures,
        "texts": [{"name": f"A: {who(record)}"}, {"name": f"B: {who(other)}"}],
        "beside": True,
    }


def about_generated(answers: Sequence[Mapping[str, Any]], *, before: str) -> dict[str, Any]:
    """What the page says of continuations, as ``generate --json`` prints them.

    Args:
        answers: One or several of the same prompt.
        before: What stands before each of them.
    """
    first = answers[0]
    texts = [
        {
            "name": f"continuation {each['index'] + 1}" if len(answers) > 1 else "",
            "note": f"ended by {each['finish_reason']}",
            "before": before,
        }
        for each in answers
    ]
    sampling = [
        f"{name.replace('_', '-')} {value:g}"
        for name in ("temperature", "top_k", "top_p", "min_p")
        if (value := first["sampling"].get(name))
    ]
    drawn = sum(each["completion_tokens"] for each in answers)
    revision = first["revision"]
    return {
        "title": f"Written by {first['model']}",
        "how": [
            *sampling,
            f"seed {first['seed']}",
            first["precision"],
            revision and f"revision {str(revision)[:12]}",
        ],
        "figures": [
            ["prompt tokens", f"{first['prompt_tokens']:,}", ""],
            ["tokens written", f"{drawn:,}", ""],
            ["ended by", ", ".join(dict.fromkeys(str(a["finish_reason"]) for a in answers)), ""],
        ],
        "texts": texts,
        "beside": False,
    }


def drawn_token(event: TokenEvent, token_bytes: Callable[[int], bytes]) -> SeenToken:
    """A token that was drawn, as the page takes it; where it stands is not known."""
    assert event.token_id is not None  # the caller passes drawn tokens only
    return SeenToken(
        index=0,
        id=event.token_id,
        data=event.token_bytes,
        offset=0,
        logprob=event.logprob,
        drawn=event.sampled_logprob,
        top=tuple((each.id, token_bytes(each.id), each.logprob) for each in event.top),
    )


def _figures(record: Mapping[str, Any]) -> list[list[str]]:
    pseudo = "pseudo_" if "pseudo_nll" in record else ""
    names = [f"{pseudo}{name}" for name in ("perplexity", "nll_per_token", "bits_per_byte")]
    found = []
    for name in (*names, "tokens", "words", "bytes"):
        if record[name] is not None:
            label = name.replace("pseudo_", "pseudo-").replace("nll", "nats").replace("_", " ")
            remark = ""
            if name.endswith("perplexity"):
                remark = bounds_of(record[f"{pseudo}perplexity_interval"])
            found.append([label, number(record[name]), remark])
    return found


def _how(record: Mapping[str, Any]) -> list[str]:
    pseudo = "pseudo_nll" in record
    return [
        f"convention {record['convention']}, context {record['context']}, "
        f"stride {record['stride']}",
        "each token given those around it"
        if pseudo
        else "BOS first"
        if record["bos"]
        else "no BOS",
        record["precision"],
        f"revision {str(record['revision'])[:12]}" if record["revision"] else "",
    ]


def _compact(token: SeenToken) -> list[Any]:
    """A token as the page's script reads it."""
    top = [[shown_bytes(data), _rounded(logprob)] for _, data, logprob in token.top]
    return [
        shown_bytes(token.data),
        token.id,
        _rounded(token.logprob),
        token.rank,
        _rounded(token.entropy),
        top,
        _rounded(token.drawn),
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
