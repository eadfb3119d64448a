"""How an encoder with a decoder is asked: the source, its language, and how the answer begins."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput, UnsupportedModel
from llmcli.tasks.prompts import encode_prompt, fit_prompt

if TYPE_CHECKING:
    from llmcli.engine.transcript import Prompt
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import SpecialTokens

# Tokens that name languages: fra_Latn (NLLB) and fr_XX (mBART), __fr__ (M2M100), >>fra<< (Marian).
_CODES = re.compile(r"([a-z]{2,3}_[A-Z][A-Za-z]{1,3})|__([a-z]{2,3})__|>>([A-Za-z_]{2,12})<<")
_SHOWN = 12  # languages that a message lists


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """What only an encoder with a decoder can be told.

    Attributes:
        source_lang: The source's language, as the model calls it; None for the tokenizer's own.
        target_lang: The answer's language.
        prefix: How the answer begins.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    prefix: str = ""

    def check(
        self,
        model: LanguageModel,
        *,
        overflow: str,
        heal: bool = False,
        bos: bool = False,
        draft: bool = False,
    ) -> None:
        """Refuse what does not go with the kind of model.

        Raises:
            InvalidInput: it does not; the message names it.
        """
        answers = model.kind == "encoder-decoder"
        own = {
            "--source-lang": self.source_lang is not None,
            "--target-lang": self.target_lang is not None,
            "--prefix": bool(self.prefix),
        }
        others = {"--heal": heal, "--bos": bos, "--draft": draft}
        others["--overflow slide"] = overflow == "slide"
        for option, given in (others if answers else own).items():
            if given and answers:
                raise InvalidInput(
                    f"{option} does not go with {model.name}, which answers a text.",
                    "Leave it out, or use a model that continues texts.",
                )
            if given:
                raise InvalidInput(
                    f"{option} does not go with {model.name}, which continues a text.",
                    "Leave it out, or use an encoder with a decoder, such as NLLB.",
                )


class Answers:
    """What a model of an encoder and a decoder is given.

    Args:
        model: The model.
        settings: Languages and the answer's beginning.
        special: What control tokens in a source are.

    Attributes:
        prefix: How the answer begins.

    Raises:
        InvalidInput: the model does not have a language.
        UnsupportedModel: nothing says how its answers begin.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: AnswerSettings | None = None,
        *,
        special: SpecialTokens = "text",
    ) -> None:
        settings = settings or AnswerSettings()
        self._model = model
        self._special = special
        self._start = _start_of(model)
        self.prefix = settings.prefix
        before, after = model.tokenizer.template
        self._forced: int | None = None
        if settings.source_lang is not None:
            before, after = self._spoken(settings.source_lang, before, after)
        if settings.target_lang is not None:
            spelling, token = self._language(settings.target_lang)
            if spelling.startswith(">>"):  # said to the encoder
                before = (*before, token)
            else:
                self._forced = token
        self._before, self._after = before, after

    def params(self, params: SamplingParams) -> SamplingParams:
        """The settings, with the language that the answer must begin with.

        Raises:
            InvalidInput: they hold the answer to a grammar.
        """
        if params.grammar is not None:
            raise InvalidInput(
                f"A grammar does not go with {self._model.name}, which answers a text.",
                "Use a model that continues texts.",
            )
        if self._forced is None:
            return params
        return replace(params, forced_bos_token_id=(self._forced,))

    def source(self, text: str, params: SamplingParams) -> tuple[tuple[int, ...], int]:
        """A text as the encoder reads it, and how many of its tokens were dropped to fit.

        Raises:
            InvalidInput: it is empty, or does not fit.
        """
        room = self._model.source_positions - len(self._before) - len(self._after)
        ids = encode_prompt(
            self._model, text, special=self._special, overflow=params.overflow, template=False
        )
        if not ids:
            raise InvalidInput("The prompt is empty.", "Give some text.")
        kept, dropped = fit_prompt(
            ids,
            n_positions=room,
            max_new_tokens=params.max_new_tokens,
            overflow=params.overflow,
            room=0,
        )
        return (*self._before, *kept, *self._after), dropped

    def prompt(self, params: SamplingParams, dropped: int) -> Prompt:
        """How the answer begins: the model's start token, and what was asked for.

        Raises:
            InvalidInput: that leaves no room for more.
        """
        from llmcli.engine.transcript import Prompt

        tokenizer = self._model.tokenizer
        if not self.prefix:
            return Prompt(
                ids=(self._start,), dropped_tokens=dropped, healed=tokenizer.spelling.first_space
            )
        ids = [self._start, *params.forced_bos_token_id[:1], *tokenizer.ids(self.prefix)]
        fit_prompt(
            ids,
            n_positions=self._model.n_positions,
            max_new_tokens=params.max_new_tokens,
            overflow="error",
        )
        return Prompt(ids=tuple(ids), dropped_tokens=dropped)

    @cached_property
    def token_bytes(self) -> Callable[[int], bytes]:
        """The exact bytes of a token; control tokens, such as a language's, have none."""
        special, spell = self._model.tokenizer.special_ids, self._model.token_bytes
        return lambda token: b"" if token in special else spell(token)

    @cached_property
    def _languages(self) -> dict[str, tuple[str, int]]:
        """By what each language is called: its token and that token's id."""
        found = {}
        tokenizer, rows = self._model.tokenizer, self._model.rows
        for text, token in tokenizer.backend.get_vocab().items():
            match = _CODES.fullmatch(text)
            known = match and (token in tokenizer.special_ids or text.startswith(">>"))
            if match and known and (rows is None or token < rows):
                found[next(name for name in match.groups() if name)] = (text, token)
        return found

    def _language(self, name: str) -> tuple[str, int]:
        languages = self._languages
        match = _CODES.fullmatch(name)
        bare = next(each for each in match.groups() if each) if match else name
        if bare in languages:
            return languages[bare]
        if not languages:
            raise InvalidInput(
                f"{self._model.name} has no tokens for languages.",
                "Say it in the prompt if the model was trained so, as T5 was: "
                "'translate English to German: ...'.",
            )
        near = sorted(each for each in languages if each[:2] == bare[:2])
        shown = (near or sorted(languages))[:_SHOWN]
        more = ", ..." if len(languages) > len(shown) else ""
        raise InvalidInput(
            f"{self._model.name} has no token for the language {name!r}.",
            f"It has {len(languages)} languages: {', '.join(shown)}{more}.",
        )

    def _spoken(
        self, name: str, before: tuple[int, ...], after: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokenizer's template with another language in it."""
        _, token = self._language(name)
        known = {number for _, number in self._languages.values()}
        if known.isdisjoint((*before, *after)):
            raise InvalidInput(
                f"{self._model.name} is not told which language a text is in.",
                "Leave out --source-lang.",
            )
        return (
            tuple(token if each in known else each for each in before),
            tuple(token if each in known else each for each in after),
        )


def _start_of(model: LanguageModel) -> int:
    """The token that answers begin with, by transformers' rules."""
    for name, config in (
        ("generation_config.json", model.generation_config),
        ("config.json", model.config),
    ):
        value = config.get("decoder_start_token_id")
        if ids := model.own_ids(value, source=f"decoder_start_token_id of {name}"):
            return ids[0]
    start = model.tokenizer.bos_id
    if start is None:
        raise UnsupportedModel(
            f"{model.name} does not say which token an answer begins with.",
            "Add decoder_start_token_id to its config.json.",
        )
    return start
