"""JSON schemas at random, and texts that are made to fit them.

    python tests/grammar_schemas.py [COUNT] [MODEL]

makes that many schemas, continues a prompt with each of them greedily and drawn, with and without
a tight limit, and counts the texts that jsonschema finds invalid.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmcli.api import load
from llmcli.engine.decoder import Decoder
from llmcli.engine.generation import generate
from llmcli.engine.grammar.constraint import Grammar
from llmcli.engine.grammar.source import json_schema
from llmcli.engine.params import SamplingParams
from llmcli.engine.transcript import Prompt
from llmcli.errors import InvalidInput
from llmcli.models.language_model import LanguageModel

_NAMES = st.sampled_from(["name", "age", "a b", "größe", 'q"uote', "", "x", "a/b", "\t"])
_SMALL = st.integers(0, 6)
_FORMATS = st.sampled_from(["date", "time", "date-time", "email", "ipv4", "uuid", "hostname"])
_PATTERNS = st.sampled_from(
    [
        "^[a-z]{2,5}$",
        "^\\d{3}-\\d{4}$",
        "[A-Z]",
        "^(red|green|blue)$",
        "^a.*z$",
        "x{3}",
        "\\w+\\s\\w+",
    ]
)
_VALUES = st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=6)


def _optional(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


def _of(kind: str, **strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return _optional(**strategies).map(lambda found: {"type": kind, **found})


_LEAVES = st.one_of(
    st.just({}),
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(lambda values: {"enum": values}, st.lists(_VALUES, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, _VALUES),
    _of("integer", minimum=st.integers(-50, 5), maximum=st.integers(6, 500)),
    _of("integer", exclusiveMinimum=st.integers(-50, 5), multipleOf=st.sampled_from([1, 2, 3, 10])),
    _of("number", minimum=st.integers(-5, 0), exclusiveMaximum=st.sampled_from([0.5, 1, 10, 1e3])),
    _of("number", multipleOf=st.sampled_from([0.5, 0.25, 5])),
    _of("string", minLength=_SMALL, maxLength=st.integers(6, 20)),
    _of("string", pattern=_PATTERNS),
    _of("string", format=_FORMATS),
)


def _nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def objects(found: dict[str, Any]) -> dict[str, Any]:
        names = list(found.get("properties", {}))
        return {**found, "required": names[: found.pop("_required", 0)]}

    return st.one_of(
        _of("array", items=inner, minItems=st.integers(0, 2), maxItems=st.integers(2, 5)),
        st.builds(
            lambda first, rest: {"type": "array", "prefixItems": first, "items": rest},
            st.lists(inner, min_size=1, max_size=3),
            st.just(False) | inner,
        ),
        _optional(
            properties=st.dictionaries(_NAMES, inner, max_size=4),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(
                st.sampled_from(["^x_", "^[0-9]+$"]), inner, max_size=1
            ),
            minProperties=st.integers(0, 3),
            maxProperties=st.integers(3, 5),
            _required=st.integers(0, 3),
        ).map(lambda found: objects({"type": "object", **found})),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"oneOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(
            lambda part: {
                "$defs": {"part": part},
                "type": "array",
                "items": {"$ref": "#/$defs/part"},
            },
            inner,
        ),
    )


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of the keywords that are supported."""
    return st.recursive(_LEAVES, _nested, max_leaves=8)


def texts(
    model: LanguageModel, decoder: Decoder, grammar: Grammar, prompt: str, seed: int
) -> Iterator[tuple[str, str | None]]:
    """Texts of a grammar and how each ended: greedy and drawn, with room and with hardly any."""
    ids = tuple(model.tokenizer.ids(prompt))
    shortest = grammar.shortest()
    for temperature in (0.0, 1.0):
        for limit in (shortest, shortest + 3, shortest + 40):
            params = SamplingParams(
                temperature=temperature, seed=seed, max_new_tokens=max(1, limit), grammar=grammar
            )
            events = list(
                generate(
                    decoder,
                    Prompt(ids=ids),
                    params,
                    token_bytes=model.token_bytes,
                    eos_ids=model.eos_ids,
                )
            )
            yield "".join(event.text for event in events), events[-1].finish_reason


def flaws(schema: Any, text: str) -> str | None:
    """What jsonschema finds wrong with a text; None for nothing."""
    text = text.replace('"0000-', '"2000-')  # Python's dates know no such year
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))
    except ValueError as exc:
        return f"no JSON: {exc}"
    except jsonschema.ValidationError as exc:
        return str(exc.message)
    return None


def check(
    model: LanguageModel,
    decoder: Decoder,
    count: int,
    tell: Callable[[Any, str, str], None],
    *,
    seed: int = 0,
) -> Counter[str]:
    """Check so many schemas, and call ``tell`` with those of which a text is invalid.

    Args:
        model: Whose tokens the texts are made of.
        decoder: What gives the logits.
        count: How many schemas.
        tell: Called with a schema, its text and what is wrong.
        seed: Of what is drawn.
    """
    counts: Counter[str] = Counter()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(schemas())
    def each(schema: dict[str, Any]) -> None:
        try:
            jsonschema.validators.validator_for(schema).check_schema(schema)
            grammar = model.grammar(json_schema(schema))
        except (InvalidInput, jsonschema.SchemaError):
            counts["refused"] += 1
            return
        counts["schemas"] += 1
        for text, ended in texts(model, decoder, grammar, "The king said", seed):
            counts["texts"] += 1
            counts[str(ended)] += 1
            if flaw := flaws(schema, text):
                counts["invalid"] += 1
                tell(schema, text, flaw)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each()
    return counts


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    model = load(sys.argv[2] if len(sys.argv) > 2 else "fable")
    start = time.perf_counter()

    def tell(schema: Any, text: str, flaw: str) -> None:
        print(json.dumps(schema), "made", text, ":", flaw, flush=True)

    print(dict(check(model, model.decoder(), count, tell)), f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
