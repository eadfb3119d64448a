"""A request to look into a model, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import ContextOverflow, InvalidInput
from llmcli.tasks.inspect.attention import Attention, AttentionWatcher, HeadSummary, fit_window
from llmcli.tasks.inspect.attribution import Attribution, Progress, attribute
from llmcli.tasks.inspect.heads import HeadsOff, switch_off
from llmcli.tasks.inspect.lens import Lens, look_through
from llmcli.tasks.inspect.neighbours import Neighbours, find_neighbours
from llmcli.tasks.inspect.opened import Head, Opened, open_model, within_memory
from llmcli.tasks.prompts import encode_prompt, parse_token

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

View = Literal["overview", "attention", "lens", "attribution", "heads_off", "neighbours"]
# Above this many tokens an attribution would take as many passes over as many tokens.
MOST_ATTRIBUTED = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRequest:
    """What to look at.

    Attributes:
        views: What to compute.
        text: The text; None where only neighbours are asked for.
        bos: Put the begin-of-text token first.
        position: Look at the prediction after this token, as if the text ended there; None for
            the last. A causal model has not seen what comes later anyway.
        layer: The layer whose attention matrices are kept; None for all.
        head: The head whose matrix is kept; None for all of the layer.
        maps: Keep attention matrices at all.
        window: Tokens (first, end) shown of a text that is too long to be shown whole.
        cells: The most entries that all attention matrices together may have.
        every_position: The lens looks at every position of the window, not at the last alone.
        target: Text or id of the token whose attribution is asked for; None for the likeliest.
        contrast: The token to compare it with.
        steps: Of integrated gradients.
        heads_off: Heads, as (layer, head), to switch off.
        neighbours: Text or id of the token whose neighbours are asked for.
        count: How many tokens each list has.
    """

    views: frozenset[View]
    text: str | None = None
    bos: bool = False
    position: int | None = None
    layer: int | None = None
    head: int | None = None
    maps: bool = True
    window: tuple[int, int] | None = None
    cells: int = 4_000_000
    every_position: bool = True
    target: str | None = None
    contrast: str | None = None
    steps: int = 64
    heads_off: tuple[Head, ...] = ()
    neighbours: str | None = None
    count: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A first look.

    Attributes:
        n_layers: Layers of the model.
        n_heads: Heads of each.
        prediction: The likeliest next token, as (id, logprob).
        settled: The first layer after which the likeliest token stays the final one; -1 where it
            is so for the embedding.
        previous: Heads with the most mass on the token before, first first.
        first: Heads with the most mass on the first token.
        spread: Heads with the highest entropy.
    """

    n_layers: int
    n_heads: int
    prediction: tuple[int, float]
    settled: int
    previous: tuple[HeadSummary, ...]
    first: tuple[HeadSummary, ...]
    spread: tuple[HeadSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            **asdict(self),
            "prediction": {"id": self.prediction[0], "logprob": self.prediction[1]},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was seen; views that were not asked for are None.

    Attributes:
        tokens: The text's token ids, up to the position looked at.
        n_layers: Layers of the model.
        n_heads: Heads of each.
        window: First token and the one after the last that matrices and the lens show.
    """

    tokens: tuple[int, ...]
    n_layers: int
    n_heads: int
    window: tuple[int, int]
    overview: Overview | None = None
    attention: Attention | None = None
    lens: Lens | None = None
    attribution: Attribution | None = None
    heads_off: HeadsOff | None = None
    neighbours: Neighbours | None = None

    @property
    def shows_window(self) -> bool:
        """Whether anything shown is cut to the window."""
        whole = self.lens is not None and len(self.lens.layers[0]) > 1
        return whole or (self.attention is not None and bool(self.attention.maps))

    @property
    def views(self) -> dict[str, Any]:
        """The views that are there, ready for JSON."""
        found = {
            "overview": self.overview,
            "attention": self.attention,
            "lens": self.lens,
            "attribution": self.attribution,
            "heads_off": self.heads_off,
            "neighbours": self.neighbours,
        }
        return {name: view.to_dict() for name, view in found.items() if view is not None}

    @property
    def named_tokens(self) -> set[int]:
        """Every token that a view names by its id."""
        found = set(self.tokens)
        if self.overview is not None:
            found.add(self.overview.prediction[0])
        if self.lens is not None:
            found |= {t for row in self.lens.layers for cell in row for t, _ in cell.top}
        if (shown := self.attribution) is not None:
            pair = (shown.target, shown.contrast, shown.baseline)
            found |= {token for token in pair if token is not None}
        if self.heads_off is not None:
            found |= {each.id for each in self.heads_off.candidates}
        if self.neighbours is not None:
            found |= {self.neighbours.token, *(token for token, _ in self.neighbours.nearest)}
        return found

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "tokens": list(self.tokens),
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "window": list(self.window),
            **self.views,
        }


def inspect_model(
    model: LanguageModel, request: InspectRequest, *, progress: Progress | None = None
) -> Inspection:
    """Look into a model.

    Raises:
        InvalidInput: an empty text, a token that is none, a layer, head, position or window that
            is not there.
        ContextOverflow: more tokens than the model reads.
        ModelError: the model cannot be loaded, or its architecture does not show its inside.
        OutOfMemory: a part needs more memory than there is.
    """
    # All that can be known from the tokenizer is checked before the weights are read.
    neighbour = _token(model, request.neighbours, "--neighbours")
    target = _token(model, request.target, "--attribute")
    contrast = _token(model, request.contrast, "--contrast")
    ids = [] if request.text is None else _ids(model, request)
    opened = open_model(model)
    check_heads(opened, request)
    end = len(ids)
    window = _window(opened, request, end)
    found: dict[str, Any] = {}
    if "neighbours" in request.views and neighbour is not None:
        known = min(len(opened.embeddings), model.tokenizer.vocab_size)
        found["neighbours"] = find_neighbours(opened.embeddings[:known], neighbour, request.count)
    if request.views & {"overview", "attention", "lens"}:
        with within_memory(f"The attention of {end} tokens"):
            found |= _look(opened, request, ids, window)
    if "heads_off" in request.views:
        with within_memory(f"Two passes over {end} tokens"):
            found["heads_off"] = switch_off(opened, ids, request.heads_off, request.count)
    if "attribution" in request.views:
        with within_memory(f"The gradient for {end} tokens"):
            if target is None:
                target = int(opened.logits(opened.residuals(ids)[-1, -1:]).argmax())
            found["attribution"] = attribute(
                opened,
                ids,
                target=target,
                contrast=contrast,
                baseline=_baseline(model),
                steps=request.steps,
                progress=progress,
            )
    return Inspection(
        tokens=tuple(ids),
        n_layers=opened.n_layers,
        n_heads=opened.n_heads,
        window=window,
        **found,
    )


def _look(
    opened: Opened, request: InspectRequest, ids: Sequence[int], window: tuple[int, int]
) -> dict[str, Any]:
    """One pass over the text for all that it shows."""
    start, end = window
    watcher = AttentionWatcher(start, end, _wanted(opened, request))
    last = len(ids) - 1
    begin = start if "lens" in request.views and request.every_position else last
    states = opened.residuals(ids, start=begin, on_attention=watcher)
    found: dict[str, Any] = {}
    attention = watcher.result()
    if "attention" in request.views:
        found["attention"] = attention
    if "lens" in request.views:
        stop = end if request.every_position else len(ids)
        found["lens"] = look_through(
            opened, states[:, : stop - begin], start=begin, count=request.count
        )
    if "overview" in request.views:
        lens = look_through(opened, states[:, -1:], start=last, count=1)
        found["overview"] = _overview(opened, attention.heads, lens)
    return found


def _overview(opened: Opened, heads: Sequence[HeadSummary], lens: Lens) -> Overview:
    def most(name: str) -> tuple[HeadSummary, ...]:
        return tuple(sorted(heads, key=lambda each: -getattr(each, name))[:3])

    return Overview(
        n_layers=opened.n_layers,
        n_heads=opened.n_heads,
        prediction=lens.layers[-1][0].top[0],
        settled=lens.settled[0] - 1,
        previous=most("previous"),
        first=most("first"),
        spread=most("entropy"),
    )


def _wanted(opened: Opened, request: InspectRequest) -> list[Head]:
    if "attention" not in request.views or not request.maps:
        return []
    layers = range(opened.n_layers) if request.layer is None else [request.layer]
    heads = range(opened.n_heads) if request.head is None else [request.head]
    return [(layer, head) for layer in layers for head in heads]


def _window(opened: Opened, request: InspectRequest, tokens: int) -> tuple[int, int]:
    most = fit_window(tokens, len(_wanted(opened, request)), request.cells)
    if request.window is None:
        return max(0, tokens - most), tokens
    start, end = request.window
    if not 0 <= start < end <= tokens:
        raise InvalidInput(
            f"The window {start}:{end} is not within the {tokens} tokens looked at.",
            f"Use A:B with 0 <= A < B <= {tokens}.",
        )
    if end - start > most:
        raise InvalidInput(
            f"The window has {end - start} tokens; at most {most} can be shown.",
            "Make it smaller, or choose a --layer and a --head.",
        )
    return start, end


def check_heads(opened: Opened, request: InspectRequest) -> None:
    """Raise InvalidInput if the request names a layer or a head that is not there."""
    asked = [(request.layer, request.head), *request.heads_off]
    for layer, head in asked:
        for what, value, count in (
            ("layer", layer, opened.n_layers),
            ("head", head, opened.n_heads),
        ):
            if value is not None and not 0 <= value < count:
                raise InvalidInput(
                    f"There is no {what} {value}: {opened.name} has {count}, counted from 0.",
                    f"Use 0 to {count - 1}.",
                )


def _ids(model: LanguageModel, request: InspectRequest) -> list[int]:
    ids = encode_prompt(model, request.text or "", bos=request.bos)
    if not ids:
        raise InvalidInput("The text is empty.", "Give some text, or --bos.")
    if request.position is not None:
        if not 0 <= request.position < len(ids):
            raise InvalidInput(
                f"Position {request.position} is outside the text, where nothing is seen: it has "
                f"{len(ids)} tokens, counted from 0.",
                f"Use 0 to {len(ids) - 1}.",
            )
        ids = ids[: request.position + 1]
    if len(ids) > model.n_positions:
        raise ContextOverflow(
            f"The text has {len(ids)} tokens; the model reads {model.n_positions}.",
            "Shorten it, or look at an earlier --position.",
        )
    if "attribution" in request.views and len(ids) > MOST_ATTRIBUTED:
        raise InvalidInput(
            f"The text has {len(ids)} tokens; attribution takes {MOST_ATTRIBUTED} at most.",
            "Shorten it, or look at an earlier --position.",
        )
    return ids


def _token(model: LanguageModel, text: str | None, option: str) -> int | None:
    return None if text is None else parse_token(model, text, option)


def _baseline(model: LanguageModel) -> int | None:
    """What stands for no information: the end-of-text token, where there is one."""
    tokenizer = model.tokenizer
    return tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id
