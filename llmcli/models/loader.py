"""load(): the only door to a model's weights, through transformers, and checked."""

from __future__ import annotations

from dataclasses import replace

from llmcli.errors import InvalidInput
from llmcli.hub.resolve import ResolvedModel
from llmcli.models.language_model import LanguageModel
from llmcli.reporting import Notify, silent

PRECISIONS = ("float32", "bfloat16", "int8", "int4")


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
    notify: Notify = silent,
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
    from llmcli.hub.resolve import resolve

    resolved = resolve(
        model,
        revision=revision,
        offline=offline,
        refresh=refresh,
        timeout=timeout,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
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
    notify: Notify = silent,
) -> LanguageModel:
    """Load a model whose files are here; arguments and errors as for :func:`load`."""
    from llmcli.models.check import check_model_folder

    if precision is not None and precision not in PRECISIONS:
        raise InvalidInput(f"precision is {precision!r}.", f"Use one of {', '.join(PRECISIONS)}.")
    if resolved.adapter is not None:
        from llmcli.models.adapter import merge_adapter

        check_model_folder(resolved.folder, allow_pickle=allow_pickle)
        resolved = merge_adapter(replace(resolved, adapter=None), resolved.adapter, notify=notify)
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
