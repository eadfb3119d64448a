"""A model ready to encode, generate and score; what is slow is done when first asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llmcli._version import __version__
from llmcli.errors import InvalidInput, UnsupportedModel
from llmcli.reporting import Notify, silent, working

if TYPE_CHECKING:
    from llmcli.engine.decoder import ScoringDecoder
    from llmcli.engine.grammar.constraint import Grammar
    from llmcli.engine.grammar.source import GrammarSource
    from llmcli.engine.grammar.vocabulary import Vocabulary
    from llmcli.engine.masked import MaskedReader
    from llmcli.engine.packed_model import PackedModel
    from llmcli.engine.reading import Reading
    from llmcli.hub.resolve import ResolvedModel
    from llmcli.models.calibration_file import FittedTemperature
    from llmcli.models.kinds import Kind
    from llmcli.tokenization.tokenizer import Tokenizer

# transformers' own sizes of context, where config.json states none.
DEFAULT_CONTEXTS = {
    "gpt2": 1024,
    **dict.fromkeys(("codegen", "gpt_neo", "gpt_neox", "gptj", "llama", "mpt", "opt"), 2048),
    **dict.fromkeys(("falcon", "phi", "olmo"), 2048),
}
DEFAULT_CONTEXT = 2048
# Tokens of the source that an encoder has read while its decoder is tried.
_PROBE_SOURCE = 5


@dataclass(kw_only=True)
class LanguageModel:
    """A model ready to encode, generate and score.

    What is slow is done when it is first asked for.

    Attributes:
        resolved: Its files and where they came from.
        device: cpu, cuda or mps.
        precision: Of its weights.
        threads: Processor threads; None to measure how many are fastest.
        notify: Called with a sentence that whoever loads the model should read.
        detail: Called with a sentence for who wants to know more.
        timings: Seconds that each step of loading took, by name.
        calibration: A temperature that was fitted to it; decoders divide their logits by it.
    """

    resolved: ResolvedModel
    device: str
    precision: str
    allow_pickle: bool = False
    trust_remote_code: bool = False
    threads: int | None = None
    notify: Notify = silent
    detail: Notify = silent
    timings: dict[str, float] = field(default_factory=dict)
    calibration: FittedTemperature | None = None

    @property
    def name(self) -> str:
        """The model's name as it was asked for."""
        return self.resolved.name

    @property
    def revision(self) -> str | None:
        """The Hub's commit, or the sha256 of a folder's weights."""
        return self.resolved.revision

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of what computes."""
        from importlib.metadata import version  # 10 ms

        libraries = ("torch", "transformers", "tokenizers")
        return {"llmcli": __version__, **{name: version(name) for name in libraries}}

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.resolved.folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        from llmcli.models.config import read_config

        return read_config(self.folder / "config.json")

    @cached_property
    def kind(self) -> Kind:
        """What it was made for."""
        from llmcli.models.kinds import kind_of

        return kind_of(self.config)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json; empty where there is none.

        An encoder with a decoder says how it answers in config.json where it has no such file,
        as transformers reads it.
        """
        from llmcli.models.config import read_generation_config, settings_of

        path = self.folder / "generation_config.json"
        if self.kind == "encoder-decoder" and not path.exists():
            return settings_of(self.config, self.folder / "config.json")
        return read_generation_config(path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            CorruptModel: it is unreadable, or has ids that the embedding has no row for.
        """
        from llmcli.models.check import check_tokenizer
        from llmcli.tokenization.tokenizer import Tokenizer

        with self.timed("tokenizer"):
            tokenizer = Tokenizer.from_folder(self.folder, rows=self.rows)
            if self.rows is not None:
                check_tokenizer(tokenizer, vocab_size=self.rows, folder=self.folder)
            return tokenizer

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token; none for a row that only pads the embedding."""
        return self.tokenizer.token_bytes(token_id)

    @cached_property
    def n_positions(self) -> int:
        """The context: the most tokens it can look at.

        That of config.json; where it states none, what transformers takes for the kind, or
        `DEFAULT_CONTEXT` for kinds that need none (ALiBi, state spaces).
        """
        from llmcli.models.config import context_size, text_part
        from llmcli.models.kinds import usable_positions

        default = DEFAULT_CONTEXTS.get(self.config["model_type"], DEFAULT_CONTEXT)
        return usable_positions(text_part(self.config), context_size(self.config) or default)

    @property
    def source_positions(self) -> int:
        """The most tokens that an encoder can read; the decoder's context where none is stated."""
        stated = self.config.get("max_encoder_position_embeddings")
        return stated if isinstance(stated, int) else self.n_positions

    @property
    def states_context(self) -> bool:
        """Whether config.json states a context; kinds that need none (ALiBi) often do not."""
        from llmcli.models.config import context_size

        return context_size(self.config) is not None

    def limit_context(self, tokens: int) -> None:
        """Make the context so many tokens; to be called before it is asked for.

        Raises:
            InvalidInput: config.json states a smaller one.
        """
        if self.states_context and tokens > self.n_positions:
            raise InvalidInput(
                f"A context of {tokens} was asked for, and that of {self.name} is "
                f"{self.n_positions}.",
                f"Ask for {self.n_positions} or fewer.",
            )
        self.n_positions = tokens

    @cached_property
    def rows(self) -> int | None:
        """The tokens that the embedding has rows for; None where config.json does not say."""
        from llmcli.models.config import text_part

        size = text_part(self.config).get("vocab_size", self.config.get("vocab_size"))
        return size if isinstance(size, int) else None

    def own_ids(self, value: Any, *, source: str) -> tuple[int, ...]:
        """The token ids of a field of a config that the embedding has rows for.

        Null and negative ids, which say that there is none, are left out in silence; ids
        beyond the rows with a notice.

        Args:
            value: An id, a list of ids, or nothing.
            source: The field and its file, for the notice.
        """
        found = value if isinstance(value, list) else [value]
        ids = [each for each in found if isinstance(each, int) and each >= 0]
        beyond = [each for each in ids if self.rows is not None and each >= self.rows]
        if beyond:
            self.notify(
                f"{source} names the token {beyond[0]}, and the model has {self.rows:,} "
                "rows: it is left out."
            )
        return tuple(each for each in ids if each not in beyond)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text; those that the embedding has no row for are left out."""
        for name, config in (
            ("generation_config.json", self.generation_config),
            ("config.json", self.config),
        ):
            ids = self.own_ids(config.get("eos_token_id"), source=f"eos_token_id of {name}")
            if ids:
                return ids
        return () if self.tokenizer.eos_id is None else (self.tokenizer.eos_id,)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its tokens as grammars see them."""
        from llmcli.engine.grammar.vocabulary import Vocabulary

        with self.timed("vocabulary"):
            return Vocabulary(self.tokenizer, rows=self.rows, eos_ids=self.eos_ids)

    def grammar(self, source: GrammarSource | Grammar) -> Grammar:
        """A grammar for its tokens, to be passed with the settings of a continuation.

        Args:
            source: What was written; a grammar that is one already stays as it is.

        Raises:
            InvalidInput: it cannot be used; see `Grammar`.
        """
        from llmcli.engine.grammar.constraint import Grammar

        return source if isinstance(source, Grammar) else Grammar(source, self.vocabulary)

    @cached_property
    def generation_defaults(self) -> dict[str, Any]:
        """What generation_config.json sets about sampling, by SamplingParams' names.

        ``do_sample: false`` is temperature 0.

        Raises:
            CorruptModel: a value is out of its range.
        """
        from llmcli.models.generation_defaults import generation_defaults

        return generation_defaults(self)

    @cached_property
    def reading(self) -> Reading:
        """How transformers' module can be read.

        Raises:
            UnsupportedModel: it is not causal, or cannot be read at all.
        """
        from llmcli.engine.reading import find_reading, probe_text

        module = self.module
        if self.kind == "encoder-decoder":
            from llmcli.engine.answering import Answering

            module = Answering(module, probe_text(module, _PROBE_SOURCE))
        return find_reading(module, name=self.name, n_positions=self.n_positions)

    @cached_property
    def module(self) -> Any:
        """The transformers model, in eval mode, on its device.

        A precision that transformers has not here gives way to a finer one, with a notice;
        :attr:`precision` says what it became.
        """
        from llmcli.models.precision import settle_precision
        from llmcli.models.weights import load_module, unsupported

        settle_precision(self, why_not=lambda precision: unsupported(precision, self.device))
        return load_module(self)

    @cached_property
    def packed(self) -> PackedModel | None:
        """Its weights for our own kernels; None where transformers has to compute."""
        if self.device != "cpu" or self.kind != "causal":
            return None
        from llmcli.models.prepared import packed_model

        return packed_model(self)

    def decoder(self) -> ScoringDecoder:
        """Return a fresh decoder over this model's weights.

        Raises:
            UnsupportedModel: it continues no texts.
        """
        self.require_kind("causal")
        return self._calibrated(self._decoder())

    def answering(self, source: Sequence[int]) -> ScoringDecoder:
        """Return a decoder of answers, once the encoder has read a source (token ids).

        Raises:
            UnsupportedModel: it answers no texts.
        """
        self.require_kind("encoder-decoder")
        with self.timed("import torch"):
            from llmcli.engine.answering import Answering
            from llmcli.engine.transformers_decoder import TransformersDecoder

        module = Answering(self.module, source)
        decoder = TransformersDecoder(module, reading=self.reading, n_positions=self.n_positions)
        return self._calibrated(decoder)

    def masked(self) -> MaskedReader:
        """Return a reader of texts with gaps.

        Raises:
            UnsupportedModel: it fills none.
        """
        self.require_kind("masked")
        with self.timed("import torch"):
            from llmcli.engine.masked import MaskedReader

        return MaskedReader(self.module)

    @property
    def mask_id(self) -> int:
        """The token that stands for a gap.

        Raises:
            UnsupportedModel: its tokenizer has none.
        """
        found = self.tokenizer.mask_id
        if found is None:
            raise UnsupportedModel(
                f"{self.name} has no token for a gap (mask_token).",
                "Name it in tokenizer_config.json, or use another masked model.",
            )
        return found

    def require_kind(self, kind: Kind) -> None:
        """Refuse a model that was made for something else.

        Raises:
            UnsupportedModel: it was.
        """
        from llmcli.models.kinds import check_kind

        check_kind(self.config, name=self.name, kinds=(kind,))

    def _calibrated(self, decoder: ScoringDecoder) -> ScoringDecoder:
        if self.calibration is None:
            return decoder
        from llmcli.engine.tempered_decoder import TemperedDecoder

        return TemperedDecoder(decoder, self.calibration.temperature)

    def _decoder(self) -> ScoringDecoder:
        if self.packed is not None:
            from llmcli.engine.native_decoder import NativeDecoder

            return NativeDecoder(self.packed, n_positions=self.n_positions, threads=self.threads)
        with self.timed("import torch"):
            from llmcli.engine.transformers_decoder import TransformersDecoder

        return TransformersDecoder(self.module, reading=self.reading, n_positions=self.n_positions)

    def for_another_thread(self) -> Self:
        """The same weights with a tokenizer of its own, for no two threads may ask one at once."""
        other = copy(self)
        other.__dict__.pop("tokenizer", None)
        return other

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time spent inside to :attr:`timings`, and tell what is done."""
        working(f"loading {self.name}: {step}")
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.timings[step] = self.timings.get(step, 0.0) + spent
