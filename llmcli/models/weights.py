"""Weights through transformers: read, checked against the config, foreign errors translated."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmcli.errors import (
    CorruptModel,
    LlmcliError,
    OutOfMemory,
    UnsafeModel,
    UnsupportedModel,
    is_out_of_memory,
)
from llmcli.models.check import LAYER, TABLES
from llmcli.models.kinds import Kind

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel


_CLASSES: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "masked": "AutoModelForMaskedLM",
}


# Of a whole text, for a head beside the one that fills gaps.
_POOLER = "{}.pooler."


def load_module(
    model: LanguageModel, *, exact: bool = False, attn_implementation: str | None = None
) -> Any:
    """Return a model's transformers module, in eval mode, on its device.

    Its weights are bfloat16 where the model's precision is, unless ``exact``; else float32.
    ``attn_implementation`` is transformers' own; None leaves it the choice.

    Raises:
        CorruptModel: weights that are missing, unexpected, mis-shaped or unreadable, or hold
            NaN or infinity.
        UnsupportedModel: an architecture that transformers cannot build here.
        OutOfMemory: it does not fit.
    """
    with model.timed("import torch"):
        import torch
    with model.timed("import transformers"):
        import transformers

    if model.threads is not None:
        torch.set_num_threads(model.threads)
    from_pretrained: Any = getattr(transformers, _CLASSES[model.kind]).from_pretrained
    with model.timed("load weights"), quiet_transformers(), _foreign_errors(model):
        module, info = from_pretrained(
            str(model.folder),
            dtype=torch.bfloat16 if model.precision == "bfloat16" and not exact else torch.float32,
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=not model.allow_pickle or None,
            output_loading_info=True,
            attn_implementation=attn_implementation,
            # Named by _check_loading, which transformers' own error does not.
            ignore_mismatched_sizes=True,
        )
        # A folder may say otherwise; whoever reads a model here reads fields by their names.
        module.config.return_dict = True
        _check_loading(model, info, module.base_model_prefix)
        _check_numbers(model, module)
        return module.to(model.device).eval()


def unsupported(precision: str, device: str) -> str | None:
    """Say why transformers cannot run in a precision here; None where it can."""
    if precision in ("int8", "int4"):
        return "only our own kernels have it"
    if precision == "bfloat16" and device == "cpu" and not _has_bfloat16():
        return "this processor has no AVX-512 for bfloat16"
    return None


def _has_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 on this processor faster than one number at a time."""
    import torch

    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and supported is not None and bool(supported())


def resolved_config(model: LanguageModel) -> dict[str, Any]:
    """What transformers makes of config.json, every default filled in; reads no weights.

    Raises:
        UnsupportedModel, CorruptModel: as for :func:`load_module`.
    """
    with model.timed("import transformers"):
        from transformers import AutoConfig

    with quiet_transformers(), _foreign_errors(model):
        config: Any = AutoConfig.from_pretrained(
            str(model.folder), local_files_only=True, trust_remote_code=model.trust_remote_code
        )
        found: dict[str, Any] = config.to_dict()
        return found


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' log lines and bars off stderr; what they say is an error here."""
    from transformers.utils import logging

    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Deprecations of config fields: nothing that whoever runs a model can act on.
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def _check_loading(model: LanguageModel, info: Mapping[str, Any], prefix: str) -> None:
    """Refuse what transformers would have filled in at random or left out.

    What it leaves out for good reason is no error: tables such as a causal mask, which it makes
    itself, and heads beside the model (a classifier, a value head), which a notice names.
    """
    info = {**info, "unexpected_keys": _unexpected(model, info["unexpected_keys"], prefix)}
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


def _unexpected(model: LanguageModel, names: Iterable[str], prefix: str) -> list[str]:
    """The tensors that nothing explains."""
    names = [name for name in names if not TABLES.search(name)]
    masked = model.kind == "masked"
    heads = [
        name
        for name in names
        if (masked and name.startswith(_POOLER.format(prefix)))
        or not (name.startswith(f"{prefix}.") or LAYER.search(name))
    ]
    if heads:
        shown = ", ".join(sorted(heads)[:3]) + (f" and {len(heads) - 3} more" if heads[3:] else "")
        tell = model.detail if masked else model.notify  # BERT was trained with two heads
        tell(f"The weights hold more than a language model, which is left out: {shown}.")
    return sorted(set(names) - set(heads))


def _check_numbers(model: LanguageModel, module: Any) -> None:
    """Refuse weights that are no numbers: what they touch may still look like text."""
    import torch

    for name, parameter in module.named_parameters():
        # A sum is finite unless one of the numbers is not, or it overflows: then all are looked at.
        with torch.inference_mode():
            if parameter.sum().isfinite() or parameter.isfinite().all():
                continue
        raise CorruptModel(
            f"{model.folder}: the tensor {name} holds NaN or infinity.",
            "The file is damaged: fetch the model again.",
        )


@contextmanager
def _foreign_errors(model: LanguageModel) -> Iterator[None]:
    """Turn what transformers, safetensors and torch raise for a bad model into ModelErrors."""
    from huggingface_hub.errors import StrictDataclassError
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
    except (MemoryError, RuntimeError) as exc:
        if is_out_of_memory(exc):
            raise _too_big(model) from exc
        raise CorruptModel(f"{model.folder} cannot be loaded: {_first_line(exc)}") from exc
    except ImportError as exc:
        raise UnsupportedModel(
            f"{model.name} needs a package that is not installed: {_first_line(exc)}",
            "Install it, or use another model.",
        ) from exc
    except pickle.UnpicklingError:
        # torch's own words advise to switch its protection off: they go no further.
        raise UnsafeModel(
            f"{model.folder}: the pickled weights hold something else than tensors.",
            "Choose a model with safetensors.",
        ) from None
    except StrictDataclassError as exc:
        # "Validation error for field 'n_head':", and what is wrong with it on the next line.
        raise CorruptModel(
            f"{model.folder / 'config.json'}: {' '.join(str(exc).split())}.",
            "Fetch the model again.",
        ) from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        if is_out_of_memory(exc):
            raise _too_big(model) from exc
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
