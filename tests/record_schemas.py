"""JSON schemas of everything that ``--json`` prints, made of the code's own types.

A record is made of the same pieces as in the code: types of `llmcli.shapes`, and dataclasses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc, getdoc
from typing import Any, NotRequired, TypedDict, get_type_hints

import msgspec

from llmcli.engine.params import SamplingParams
from llmcli.scoring.calibration import Calibration
from llmcli.scoring.labels import LabelFigures
from llmcli.shapes import common, inside, scores, texts, things
from llmcli.tasks.calibrate_generations import Depth, Match
from llmcli.tasks.calibrate_labels import Conformal
from llmcli.tasks.inspect.attention import HeadSummary
from llmcli.tasks.inspect.attribution import Attribution
from llmcli.tasks.inspect.request import Overview
from llmcli.tasks.next import FilterEffect
from llmcli.tasks.prompt_templates import PromptTemplate
from llmcli.tasks.rank import RankedChoice

_told: dict[str, dict[str, str]] = {}
_open: set[str] = set()


def made_of(
    name: str,
    about: str,
    *pieces: Any,
    without: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    open: bool = False,
    **more: Any,
) -> Any:
    """A type with the fields of others.

    Args:
        name: What it is called in the schema.
        about: What it is.
        pieces: The others: TypedDicts and dataclasses.
        without: Fields that it has not.
        optional: Fields that it need not have.
        open: Whether it has those of a batch's input, too.
        more: Further fields, or others in the place of the pieces'.
    """
    hints: dict[str, Any] = {}
    _told[name] = {}
    for piece in pieces:
        hints |= get_type_hints(piece, localns={"Grammar": dict}, include_extras=True)
        _told[name] |= _told.get(piece.__name__) or dict(_attributes(getdoc(piece) or ""))
    hints |= more
    for each in without:
        del hints[each]
    for each in optional:
        hints[each] = NotRequired[hints[each]]
    made: Any = TypedDict(name, hints)  # type: ignore[misc]
    made.__doc__ = about
    if open:
        _open.add(name)
    return made


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """What a docstring tells of attributes."""
    _, _, section = docstring.partition("Attributes:\n")
    for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section, re.M):
        yield name, " ".join(text.replace("``", "").split())


# -- the pieces ------------------------------------------------------------------------------


class GRAMMAR(TypedDict):
    kind: str
    sha256: str


SAMPLING = made_of(
    "Sampling",
    "Sampling settings in force.",
    SamplingParams,
    without=("seed",),
    optional=("grammar",),
    logit_bias=list[tuple[int, float | None]],
    sequence_bias=list[tuple[list[int], float | None]],
    grammar=GRAMMAR,
)
SAMPLED = made_of("Sampled", "Where it came from.", common.Provenance, sampling=SAMPLING)
NEXT = made_of(
    "Next",
    "What may come next.",
    SAMPLED,
    candidates=list[texts.Candidate],
    entropy=float,
    filters=list[FilterEffect],
    prompt_tokens=int,
)
RANKED = made_of(
    "Ranking", "Choices, the likeliest first.", scores.Ranked, common.Provenance,
    choices=list[RankedChoice],
)  # fmt: skip
CLASSIFIED = made_of("Classification", "Which label fits.", common.Provenance, scores.Classified)
FILLED = made_of("Filling", "What may stand in the gaps.", texts.Filled, common.Provenance)
CONTINUATION = made_of("Continuation", "A continuation.", texts.Generated, SAMPLED)
ENCODED = made_of("Encoding", "A text's tokens.", texts.Encoded, common.Source)
FIGURES, PSEUDO = ((scores.Figures, scores.PerplexityInterval),
                   (scores.PseudoFigures, scores.PseudoInterval))  # fmt: skip
HOW = (scores.Convention, scores.Timed, common.Provenance)


class READING(TypedDict):
    bos: bool
    heal: bool
    special: str
    context: int | None


LOGGED = made_of(
    "Logged",
    "A generation, and what is needed to make it again.",
    CONTINUATION,
    id=int,
    created=str,
    prompt=str,
    token_ids=list[int],
    reading=READING,
)


class ATTENTION(TypedDict):
    window: tuple[int, int]
    heads: list[HeadSummary]
    maps: list[inside.AttentionMap]


VIEWS = ("overview", "attention", "lens", "attribution", "heads_off", "neighbours")


def _row(of: Any) -> list[Any]:
    """A row of a batch, and one with which something is wrong."""
    row = made_of(f"{of.__name__}Row", f"{of.__doc__} A row of a batch.", common.Row, of, open=True)
    return [row, ERROR]


ERROR = made_of("Error", "A record with which something is wrong.", common.ErrorRow, open=True)


def _scores() -> list[Any]:
    found = [made_of("Token", "A token: --tokens.", scores.ScoredToken)]
    for prefix, figures in (("", FIGURES), ("Pseudo", PSEUDO)):
        second = made_of(f"{prefix}Second", "The second model.", *figures, common.Provenance)
        whole = made_of(f"{prefix}Score", "The score of a text.", *figures, *HOW)
        found += [
            whole,
            made_of(f"{prefix}Total", "The last of several records.", scores.Total, whole),
            made_of(f"{prefix}Part", "A part of the text: --by.", scores.Part, figures[0]),
            made_of(f"{prefix}Row", "A row of a batch.", common.Row, figures[0], open=True),
            made_of(f"{prefix}Versus", "Two models: --vs.", whole, vs=second,
                    difference=scores.Difference),
        ]  # fmt: skip
    return [*found, ERROR]


def _encodings() -> list[Any]:
    found = [ENCODED, *_row(ENCODED)]
    for name, about, piece, open in (
        ("EncodedFile", "The tokens of one of several files.", texts.Encoded, True),
        ("Cut", "A text cut to --max-tokens.", texts.Truncated, True),
        ("Part", "A part of a text: --split.", texts.Chunk, True),
        ("Fit", "Whether a text has so many tokens: --fits.", texts.Fits, True),
        ("Comparison", "What a tokenizer makes of it: --compare.", texts.Compared, False),
        ("Ids", "The file that -o named.", texts.IdFile, False),
        ("Count", "How many tokens a text has: --count.", texts.Counted, True),
    ):
        found.append(made_of(name, about, piece, common.Source, open=open))
    return found


def _calibrations() -> list[Any]:
    corrected: Any = made_of("Corrected", "With a correction.", LabelFigures, correction=str)
    fit = made_of("Fit", "With a fit on top.", corrected, scale=float, bias=dict[str, float] | None)
    match = made_of("Matched", "A setting that was found.", Match, flags=str | None)
    return [
        made_of("Tokens", "How right the probabilities of tokens are.",
                Calibration, scores.Convention, common.Provenance),
        made_of("Labels", "How right the probabilities of labels are: --labels.",
                common.Provenance, inputs=int, errors=int, held_out=int, labels=dict[str, int],
                template=str, corrections=list[corrected], fit=fit, conformal=Conformal),
        made_of("Generations", "How sure the model is of what it writes: --generations.",
                SAMPLED, samples=int, length=int, prompts=int, texts=int, blocks=list[Depth],
                overall=Depth, match=match | None, seed=int),
    ]  # fmt: skip


RECORDS: dict[str, list[Any]] = {
    "generate": [CONTINUATION, *_row(CONTINUATION)],
    "chat": [made_of("Answer", "The model's answer.", texts.Reply, SAMPLED)],
    "next": [NEXT, *_row(NEXT)],
    "fill": [FILLED, *_row(FILLED)],
    "encode": _encodings(),
    "decode": [made_of("Text", "What the ids stand for.", texts.Decoded, open=True)],
    "score": _scores(),
    "rank": [RANKED, *_row(RANKED)],
    "classify": [CLASSIFIED, *_row(CLASSIFIED)],
    "pairs": [made_of("Counted", "In how many pairs the good one is likelier.",
                      scores.Pairs, scores.Convention, common.Provenance)],
    "calibrate": _calibrations(),
    "inspect": [made_of("Inspection", "What the model does with a text.",
                        inside.Inspected, common.Provenance, optional=VIEWS,
                        overview=made_of("Look", "A first look.", Overview,
                                         prediction=inside.Prediction),
                        attention=ATTENTION, lens=inside.Lens, attribution=Attribution,
                        heads_off=inside.HeadsOff, neighbours=inside.Neighbours)],
    "train": [things.Trained],
    "bench": [made_of("Row", things.Measured.__doc__ or "", things.Measured, open=True)],
    "serve": [things.Serving],
    "models-list": [things.ModelEntry],
    "models-pull": [things.ModelFetched],
    "models-show": [things.ModelDescription],
    "models-remove": [things.ModelRemoved],
    "models-repair": [things.ModelRepaired],
    "models-path": [things.ModelPath],
    "templates-list": [things.TemplateEntry],
    "templates-show": [made_of("Template", "A template.", PromptTemplate, options=dict[str, Any],
                               defaults=dict[str, str], places=list[str])],
    "templates-path": [things.Place],
    "config-show": [things.Setting],
    "config-path": [things.Place],
    "log-path": [things.LogPlace],
    **{f"log-{name}": [LOGGED] for name in ("list", "search", "show", "export")},
    "log-replay": [things.Replayed],
    "replay": [things.Replayed],
}  # fmt: skip
"""The kinds of records that a command prints."""

# These are written in one way in every record.
_UTC = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"
_PATTERNS = {
    "revision": r"^([0-9a-f]{40}|[0-9a-f]{64})$",
    "created": _UTC,
    "last_used": _UTC,
}


def schema(command: str) -> dict[str, Any]:
    """The schema of a line that a command prints with ``--json``."""
    kinds, definitions = msgspec.json.schema_components(
        RECORDS[command], ref_template="#/$defs/{name}"
    )
    for name, definition in definitions.items():
        _complete(name, definition)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"llmcli {command.replace('-', ' ', 1)} --json",
        "anyOf": list(kinds),
        "$defs": dict(sorted(definitions.items())),
    }


def _complete(name: str, definition: dict[str, Any]) -> None:
    """What the types do not say: what is closed, how some texts are written, what fields are."""
    if "properties" not in definition:
        return
    about = cleandoc(definition.pop("description", ""))
    told = dict(_attributes(about)) | _told.get(name, {})
    if about:
        definition["description"] = " ".join(about.partition("\n\n")[0].replace("``", "").split())
    definition["additionalProperties"] = name in _open
    for field, value in definition["properties"].items():
        value.pop("default", None)
        if field in told:
            value["description"] = told[field]
        if field in _PATTERNS:
            kinds = [value, *value.get("anyOf", [])]
            text = next(each for each in kinds if each.get("type") == "string")
            text["pattern"] = _PATTERNS[field]
