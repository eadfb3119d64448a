"""load(): the only door to a model's weights, through transformers, and checked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import SamplingParams
from llmcli.errors import (
    CorruptModel,
    InvalidInput,
    LlmcliError,
    OutOfMemory,
    UnsupportedModel,
)

if TYPE_CHECKING:
    from llmcli.engine.decoder import Decoder
    from llmcli.engine.gpt2 import GPT2Weights
    from llmcli.models.resolve import ResolvedModel
    from llmcli.tokenization.tokenizer import Tokenizer

Notify = Callable[[str], None]

PRECISIONS = ("float32", "bfloat16", "int8", "int4")

_SAMPLING_KEYS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
)
_CONTEXT_KEYS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length")


def _silent(message: str) -> None:
    pass


def load(
    model: str | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    offline: bool = False,
    refresh: bool = False,
    timeout: float = 10.0,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    notify: Notify = _silent,
) -> LanguageModel:
    """Find a model and load it.

    Args:
        model: A folder, a bundled model's name, or a Hub id; None for gpt2, for which the
            bundled model stands in where it cannot be had.
        revision: A branch, tag or commit on the Hub.
        device: auto, cpu, cuda or mps.
        precision: Of the weights; None for float32 (bfloat16 on cuda).
        threads: Processor threads for the whole process; None leaves torch's own choice.
        offline: Never use the network.
        refresh: Ask the Hub although the model is cached.
        timeout: Seconds the Hub may stay silent.
        allow_pickle: Accept weights in pickle files, which can run code when they are read.
        trust_remote_code: Run Python code that the model brings.
        notify: Called with one sentence about what the user ought to know.

    Raises:
        ModelError: the model cannot be had or used; the subclass says why.
        InvalidInput: an argument is wrong.
        OutOfMemory: it does not fit.
    """
    from llmcli.models.resolve import resolve

    resolved = resolve(
        model,
        revision=revision,
        offline=offline,
        refresh=refresh,
        timeout=timeout,
        allow_pickle=allow_pickle,
        notify=notify,
    )
    return load_resolved(
        resolved,
        device=device,
        precision=precision,
        threads=threads,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        notify=notify,
    )


def load_resolved(
    resolved: ResolvedModel,
    *,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    notify: Notify = _silent,
) -> LanguageModel:
    """Load a model whose files are here; arguments and errors as for :func:`load`."""
    from llmcli.models.inspect import check_model_folder

    if precision is not None and precision not in PRECISIONS:
        raise InvalidInput(f"precision is {precision!r}.", f"Use one of {', '.join(PRECISIONS)}.")
    check_model_folder(
        resolved.folder, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    chosen = _device(device)
    return LanguageModel(
        resolved=resolved,
        device=chosen,
        precision=precision or ("bfloat16" if chosen == "cuda" else "float32"),
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        notify=notify,
    )


def _device(device: str) -> str:
    import torch

    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if have[name])
    if device not in have:
        raise InvalidInput(f"device is {device!r}.", f"Use auto, {', '.join(have)}.")
    if not have[device]:
        raise InvalidInput(f"This machine has no {device} device.", "Use --device cpu.")
    return device


@dataclass(kw_only=True)
class LanguageModel:
    """A model ready to encode, generate and score.

    What is slow is done when it is first asked for.

    Attributes:
        resolved: Its files and where they came from.
        device: cpu, cuda or mps.
        precision: Of its weights.
        timings: Seconds that each step of loading took, by name.
    """

    resolved: ResolvedModel
    device: str
    precision: str
    allow_pickle: bool = False
    trust_remote_code: bool = False
    notify: Notify = _silent
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name as it was asked for."""
        return self.resolved.name

    @property
    def revision(self) -> str | None:
        """The Hub's commit, or the sha256 of a folder's weights."""
        return self.resolved.revision

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.resolved.folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return read_json_object(self.folder / "config.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json; empty where there is none."""
        path = self.folder / "generation_config.json"
        return read_json_object(path) if path.exists() else {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        from llmcli.tokenization.tokenizer import Tokenizer

        with self._timed("tokenizer"):
            return Tokenizer.from_folder(self.folder)

    @cached_property
    def n_positions(self) -> int:
        """The context: the most tokens it can look at.

        Raises:
            UnsupportedModel: config.json does not say.
        """
        text_config = {**self.config, **(self.config.get("text_config") or {})}
        for key in _CONTEXT_KEYS:
            if isinstance(value := text_config.get(key), int):
                return value
        raise UnsupportedModel(
            f"{self.name}: config.json states no context size.",
            f"Set one of {', '.join(_CONTEXT_KEYS[:2])} in it.",
        )

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        for value in (
            self.generation_config.get("eos_token_id"),
            self.config.get("eos_token_id"),
            self.tokenizer.eos_id,
        ):
            if isinstance(value, int):
                return (value,)
            if isinstance(value, list):
                return tuple(value)
        return ()

    @cached_property
    def generation_defaults(self) -> dict[str, Any]:
        """What generation_config.json sets about sampling, by SamplingParams' names.

        ``do_sample: false`` is temperature 0.

        Raises:
            CorruptModel: a value is out of its range.
        """
        config = self.generation_config
        defaults = {key: config[key] for key in _SAMPLING_KEYS if config.get(key) is not None}
        if config.get("do_sample") is False:
            return {"temperature": 0.0}
        try:
            SamplingParams(**defaults, max_new_tokens=None)
        except (InvalidInput, TypeError) as exc:
            raise CorruptModel(
                f"{self.folder / 'generation_config.json'} is invalid: {exc}",
                "Correct or delete the file.",
            ) from exc
        if config.get("do_sample") and not defaults:
            return {"temperature": 1.0}
        return defaults

    @cached_property
    def module(self) -> Any:
        """The transformers model, in eval mode, on its device."""
        return _load_module(self)

    @cached_property
    def _gpt2_weights(self) -> GPT2Weights:
        from llmcli.engine.gpt2 import GPT2Weights

        return GPT2Weights.from_module(self.module)

    def decoder(self) -> Decoder:
        """Return a fresh decoder over this model's weights."""
        from llmcli.engine.gpt2 import GPT2Decoder, supports
        from llmcli.engine.transformers_decoder import TransformersDecoder

        if supports(self.config) and self.precision == "float32":
            return GPT2Decoder(self._gpt2_weights)
        if self.precision in ("int8", "int4"):
            raise UnsupportedModel(
                f"{self.name}: precision {self.precision} is for GPT-2 models.",
                "Use --precision bfloat16.",
            )
        return TransformersDecoder(self.module, n_positions=self.n_positions)

    def generate(self, prompt: str, *, seed: int | None = None, **settings: Any) -> Iterator[str]:
        """Continue a text; the pieces, joined, are the continuation.

        Args:
            prompt: The text to continue; not empty.
            seed: Makes the result repeatable; drawn at random when None.
            settings: Any field of SamplingParams. What is not given is what the model's
                generation_config.json sets, else temperature 0.8 and top_p 0.95.

        Raises:
            InvalidInput: a setting is out of range, the prompt is empty or too long.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.models.continuation import continue_text, sampling_params

        unknown = settings.keys() - {each.name for each in fields(SamplingParams)}
        if unknown:
            raise InvalidInput(f"There is no setting {min(unknown)!r}.", "See SamplingParams.")
        params = sampling_params(self, {**settings, "seed": seed})
        for event in continue_text(self, prompt, params).events:
            if event.text:
                yield event.text

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - start


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        CorruptModel: it is missing, unreadable, no JSON, or no object.
    """
    cure = "Fetch the model again (llmcli models pull)."
    try:
        value = json.loads(path.read_bytes())
    except OSError as exc:
        raise CorruptModel(f"Cannot read {path}: {exc.strerror}.", cure) from exc
    except (ValueError, RecursionError) as exc:
        raise CorruptModel(f"{path} is not valid JSON.", cure) from exc
    if not isinstance(value, dict):
        raise CorruptModel(f"{path} holds no JSON object.", cure)
    return value


def _load_module(model: LanguageModel) -> Any:
    with model._timed("import torch"):
        import torch
    with model._timed("import transformers"):
        from transformers import AutoModelForCausalLM

    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    with model._timed("load weights"), _quiet_transformers(), _foreign_errors(model):
        module, info = from_pretrained(
            str(model.folder),
            dtype=torch.float32 if model.precision == "float32" else torch.bfloat16,
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=not model.allow_pickle or None,
            output_loading_info=True,
        )
        _check_loading(model, info)
        return module.to(model.device).eval()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' log lines and bars off stderr; what they say is an error here."""
    from transformers.utils import logging

    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def _check_loading(model: LanguageModel, info: Mapping[str, Any]) -> None:
    """Refuse what transformers would have filled in at random or left out."""
    for key, words in (
        ("missing_keys", "lack"),
        ("mismatched_keys", "have another shape than config.json says for"),
        ("unexpected_keys", "hold, against config.json,"),
    ):
        names = sorted(str(each[0] if isinstance(each, tuple) else each) for each in info[key])
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            raise CorruptModel(
                f"{model.folder}: the weights {words} {shown}.",
                "The weights and config.json do not belong together: fetch the model again.",
            )


@contextmanager
def _foreign_errors(model: LanguageModel) -> Iterator[None]:
    """Turn what transformers, safetensors and torch raise for a bad model into ModelErrors."""
    from safetensors import SafetensorError

    try:
        yield
    except LlmcliError:
        raise
    except SafetensorError as exc:
        raise CorruptModel(
            f"{model.folder}: the weights cannot be read: {exc}.",
            "The file is damaged: fetch the model again.",
        ) from exc
    except MemoryError as exc:
        raise _too_big(model) from exc
    except RuntimeError as exc:
        if "not enough memory" in str(exc) or "out of memory" in str(exc):
            raise _too_big(model) from exc
        raise CorruptModel(f"{model.folder} cannot be loaded: {_first_line(exc)}") from exc
    except ImportError as exc:
        raise UnsupportedModel(
            f"{model.name} needs a package that is not installed: {_first_line(exc)}",
            "Install it, or use another model.",
        ) from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise UnsupportedModel(
            f"{model.folder} cannot be loaded: {_first_line(exc)}",
            "Check config.json, or fetch the model again.",
        ) from exc


def _too_big(model: LanguageModel) -> OutOfMemory:
    size = sum(path.stat().st_size for path in model.folder.glob("*.safetensors"))
    return OutOfMemory(
        f"{model.name} does not fit into memory: its weights take {size / 1e9:.1f} GB.",
        "Use a smaller model, or --precision bfloat16.",
    )


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return (lines[0] if lines else type(exc).__name__).rstrip(".") + "."
