"""A prompt and settings made ready: what was given over the model's own, the text as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import Overflow, SamplingParams
from llmcli.errors import ContextOverflow, InvalidInput, UnsupportedModel

if TYPE_CHECKING:
    from llmcli.engine.transcript import Prompt
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

# A model that says nothing of its own about sampling gets these: GPT-2 loops when it decodes
# greedily.
DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}
# A model that sets one of these has said what its distribution is.
_SHAPING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "top_h"}
_SHAPING |= {"epsilon_cutoff", "eta_cutoff"}


def sampling_params(model: LanguageModel, given: Mapping[str, Any]) -> SamplingParams:
    """Return the settings in force: what was given, over the model's own, over llmcli's.

    A seed that was not given is drawn, so that every result can be had again. A ``grammar`` may be
    given as it was written, and is compiled for the model.

    Raises:
        InvalidInput: a value is out of range, or the grammar cannot be used.
    """
    defaults = model.generation_defaults
    if not _SHAPING & defaults.keys():
        # An answer, such as a translation, is the likeliest one, as in transformers.
        usual = DEFAULTS if model.kind == "causal" else {"temperature": 0.0}
        defaults = {**usual, **defaults}
    settings = {**defaults, **given}
    if (written := settings.get("grammar")) is not None:
        settings["grammar"] = model.grammar(written)
    if not given.get("stop"):  # the call's own stop texts take the place of the model's
        settings["stop"] = defaults.get("stop", ())
    settings["bad_words_ids"] = (
        *defaults.get("bad_words_ids", ()),
        *given.get("bad_words_ids", ()),
    )
    if settings.get("grammar") is not None and not given.get("stop"):
        settings["stop"] = ()  # the grammar says where a text ends
    if "max_new_tokens" in settings:
        settings.pop("max_length", None)
    elif "max_length" in settings:
        settings["max_new_tokens"] = None  # up to the length, whatever the prompt's (`for_prompt`)
    if settings.get("num_beams", 1) > 1:
        own = "num_beams" not in given
        if own and (why := _why_no_beams(SamplingParams(**settings))):
            model.notify(f"num_beams of generation_config.json is left out: {why}")
            settings["num_beams"] = 1
        elif "temperature" not in given and not (own and model.generation_config.get("do_sample")):
            settings["temperature"] = 0.0  # beams are searched, not drawn, unless that is asked for
    if settings.get("seed") is None:
        settings["seed"] = new_seed()
    params = SamplingParams(**settings)
    check_combination(params)
    return params


def new_seed() -> int:
    """Draw a seed."""
    import secrets

    return secrets.randbits(32)


def _why_no_beams(params: SamplingParams) -> str | None:
    try:
        _check_beams(params)
    except InvalidInput as exc:
        return exc.message
    return None


def for_prompt(params: SamplingParams, prompt_tokens: int) -> SamplingParams:
    """Settings for a prompt of so many tokens: ``max_length`` says how many may follow it.

    Raises:
        InvalidInput: none may.
    """
    if params.max_length is None or params.max_new_tokens is not None:
        return params
    room = params.max_length - prompt_tokens
    if room < 1:
        raise InvalidInput(
            f"The prompt has {prompt_tokens} tokens, and the model's generation_config.json ends "
            f"a text at {params.max_length} (max_length).",
            "Say how many tokens may follow with -n.",
        )
    return replace(params, max_new_tokens=room)


def with_stops(params: SamplingParams, stops: Sequence[str]) -> SamplingParams:
    """Settings with further stop texts; none with a grammar, which says where a text ends."""
    if params.grammar is not None or not stops:
        return params
    return replace(params, stop=tuple(dict.fromkeys((*params.stop, *stops))))


def check_combination(params: SamplingParams) -> None:
    """Raise InvalidInput if settings exclude each other."""
    if params.grammar is not None and params.stop:
        raise InvalidInput(
            "A stop text does not work with a grammar, which says itself where a text ends.",
            "Leave one of them out.",
        )
    if params.num_beams > 1:
        _check_beams(params)
    elif params.greedy and params.num_return_sequences > 1:
        raise InvalidInput(
            f"{params.num_return_sequences} greedy sequences would all be the same.",
            "Ask for one, or set a temperature above 0.",
        )


def _check_beams(params: SamplingParams) -> None:
    if params.num_return_sequences > params.num_beams:
        raise InvalidInput(
            f"num_return_sequences ({params.num_return_sequences}) is above num_beams "
            f"({params.num_beams}).",
            "Raise num_beams.",
        )
    if params.grammar is not None:
        raise InvalidInput("A grammar does not work with beam search.", "Leave one of them out.")
    if params.logprobs is not None:
        raise InvalidInput("logprobs does not work with beam search.", "Leave one of them out.")
    if params.overflow == "slide":
        raise InvalidInput("overflow slide does not work with beam search.", "Use left.")


def parse_logit_bias(model: LanguageModel, texts: tuple[str, ...]) -> tuple[tuple[int, float], ...]:
    """Return (token id, bias) pairs of ``TOKEN=VALUE`` texts; TOKEN is an id or one token's text.

    Raises:
        InvalidInput: no number after the last ``=``, an id outside the vocabulary, or a text
            that is not exactly one token.
    """
    pairs = []
    for text in texts:
        token, equals, value = text.rpartition("=")
        try:
            bias = float(value)
        except ValueError:
            bias = float("nan")
        if not equals or not token or bias != bias or bias == float("inf"):
            raise InvalidInput(
                f"--logit-bias {text!r} is not TOKEN=VALUE.", "For example ' the=-inf' or '262=2'."
            )
        pairs.append((parse_token(model, token, "--logit-bias"), bias))
    return tuple(pairs)


def parse_bans(model: LanguageModel, texts: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return ``bad_words_ids`` of phrases, each as it is and after a space.

    Raises:
        InvalidInput: a phrase is empty.
    """
    found: dict[tuple[int, ...], None] = {}
    for text in texts:
        if not text.strip(" "):
            raise InvalidInput("--ban has no text.", "Give a word or a phrase.")
        for spelling in dict.fromkeys((text, f" {text.lstrip(' ')}")):
            found[tuple(model.tokenizer.ids(spelling, special="allow"))] = None
    return tuple(found)


def parse_token(model: LanguageModel, text: str, option: str) -> int:
    """Return the id of a token that is given by its id or its text.

    Args:
        model: The model.
        text: An id, or the text of one token; a control token by its name.
        option: Which option it is for, for the message.

    Raises:
        InvalidInput: a text that is not exactly one token, or a token the model has no row for.
    """
    tokenizer = model.tokenizer
    given = text.isdecimal() and int(text) < tokenizer.vocab_size
    ids = [int(text)] if given else tokenizer.ids(text, special="allow")
    if len(ids) != 1:
        pieces = [repr(model.token_bytes(each).decode("utf-8", "replace")) for each in ids[:8]]
        shown = f": {', '.join(pieces)}{', ...' if ids[8:] else ''}" if pieces else ""
        raise InvalidInput(
            f"{option}: {text!r} is {len(ids)} tokens for {model.name}{shown}.",
            "Give the text of one token (mind the leading space) or its id; "
            "'llmcli encode' shows both.",
        )
    rows = model.config.get("vocab_size")
    if isinstance(rows, int) and ids[0] >= rows:
        raise InvalidInput(
            f"{option}: {model.name} has no row for the token {text!r}.", "Name another token."
        )
    return ids[0]


def encode_prompt(
    model: LanguageModel,
    text: str,
    *,
    bos: bool = False,
    special: SpecialTokens = "text",
    overflow: Overflow = "left",
    template: bool = True,
) -> list[int]:
    """Return a prompt's token ids, the begin token in front where the model's own template has it.

    A long text is read no further than the context under ``overflow`` "error". Without
    ``template`` they are the text's own.

    Raises:
        ContextOverflow: that is so, and it goes further.
        UnsupportedModel: ``bos`` and the model has no such token, or ids beyond its embedding.
    """
    tokenizer = model.tokenizer
    ids = _ids(tokenizer, text, special, model.n_positions if overflow == "error" else None)
    rows = model.config.get("vocab_size")
    if special == "allow" and isinstance(rows, int) and max(ids, default=0) >= rows:
        token = tokenizer.token_string(max(ids))
        raise InvalidInput(
            f"{model.name} has no row for the special token {token!r}.", "Leave it out of the text."
        )
    if bos and tokenizer.bos_id is None:
        raise UnsupportedModel(f"{model.name} has no begin-of-text token.", "Leave out --bos.")
    if tokenizer.bos_id is not None and (bos or (template and ids and tokenizer.adds_bos)):
        ids = [tokenizer.bos_id, *ids]
    return ids


def _ids(tokenizer: Tokenizer, text: str, special: SpecialTokens, limit: int | None) -> list[int]:
    from llmcli.tokenization.large_text import PIECE_CHARS, encode_pieces

    if limit is None or len(text) <= PIECE_CHARS:
        return tokenizer.ids(text, special=special)
    ids: list[int] = []
    for piece in encode_pieces(tokenizer, [text], special=special):
        ids += piece.ids
        if len(ids) > limit:
            raise ContextOverflow(
                f"The prompt has more than {limit} tokens, which the context holds.",
                "Shorten it, or pass --overflow left, middle or slide.",
            )
    return ids


def fit_prompt(
    ids: Sequence[int],
    *,
    n_positions: int,
    max_new_tokens: int | None,
    overflow: Overflow,
    room: int = 1,
) -> tuple[list[int], int]:
    """Cut a prompt that leaves no room in the context.

    ``error`` and ``slide`` need room for ``room`` tokens; ``left`` and ``middle`` make room for
    all that was asked for (half the context where that is the whole of it or more).

    Returns:
        The ids that remain, and how many were dropped.

    Raises:
        InvalidInput: the prompt is empty.
        ContextOverflow: it does not fit, under ``error``.
    """
    ids = list(ids)
    if not ids:
        raise InvalidInput(
            "The prompt is empty.", "Give some text, or --bos to start from the end-of-text token."
        )
    if overflow == "error":
        if len(ids) > n_positions - room:
            share = ", one of them for the continuation" if room else ""
            raise ContextOverflow(
                f"The prompt has {len(ids)} tokens; the context holds {n_positions}{share}.",
                "Shorten it, or pass --overflow left, middle or slide.",
            )
        return ids, 0
    if overflow == "slide":
        limit = n_positions - room
        keep = limit if len(ids) <= limit else max(1, n_positions // 2)
    elif not room:
        keep = n_positions
    elif max_new_tokens is None or max_new_tokens >= n_positions:
        keep = n_positions - n_positions // 2
    else:
        keep = n_positions - max_new_tokens
    if len(ids) <= keep:
        return ids, 0
    if overflow == "middle" and keep > 1:
        tail = keep - keep // 2
        return ids[: keep // 2] + ids[-tail:], len(ids) - keep
    return ids[-keep:], len(ids) - keep


def prepare_prompt(
    model: LanguageModel,
    ids: list[int],
    params: SamplingParams,
    *,
    heal: bool = False,
    room: int = 1,
) -> Prompt:
    """Cut a prompt to the context and, with ``heal``, take its last token back.

    Healing leaves a prompt of one token as it is (something must be left to continue), and one
    that ends in a control token. ``room`` is how many tokens must fit behind the prompt.

    Raises:
        InvalidInput: the prompt is empty or does not fit, or the grammar's shortest text does not.
    """
    from llmcli.engine.transcript import Prompt

    grammar = params.grammar
    if grammar is not None:
        if heal:
            raise InvalidInput("Healing does not work with a grammar.", "Leave one of them out.")
        limit = params.max_new_tokens or model.n_positions
        grammar.check_room(limit)
        room = max(room, grammar.shortest(limit))
    kept, dropped = fit_prompt(
        ids,
        n_positions=model.n_positions,
        max_new_tokens=params.max_new_tokens,
        overflow=params.overflow,
        room=room,
    )
    tokenizer = model.tokenizer
    if not heal or len(kept) < 2 or kept[-1] in tokenizer.special_ids:
        # After nothing but control tokens a text begins.
        space = tokenizer.spelling.first_space if tokenizer.special_ids.issuperset(kept) else b""
        if grammar is not None:  # it speaks of every byte
            space = b""
        return Prompt(ids=tuple(kept), dropped_tokens=dropped, healed=space)
    removed = tokenizer.token_bytes(kept[-1])
    beginning = tuple(
        token
        for token in range(tokenizer.vocab_size)
        if token not in tokenizer.special_ids and model.token_bytes(token).startswith(removed)
    )
    return Prompt(
        ids=tuple(kept[:-1]), dropped_tokens=dropped, healed=removed, healing_ids=beginning
    )
