"""From a folder to a loaded model: the only door to a model's weights, and it checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

from llmcli.errors import InvalidInput
from llmcli.hub.resolve import ResolvedModel
from llmcli.models.kinds import CAUSAL, Kind, check_kind
from llmcli.models.language_model import LanguageModel
from llmcli.models.options import LoadOptions
from llmcli.reporting import Notify, silent

M = TypeVar("M", bound=LanguageModel)


def load_resolved(
    resolved: ResolvedModel,
    options: LoadOptions,
    *,
    kinds: Collection[Kind] = CAUSAL,
    notify: Notify = silent,
    detail: Notify = silent,
) -> LanguageModel:
    """Load a model whose files are here.

    Args:
        resolved: The files.
        options: How it runs; which model they name does not count.
        kinds: What the model may have been made for.
        notify: Called with one sentence about what the user ought to know.
        detail: Called with one sentence for who wants to know more.

    Raises:
        ModelError: the model cannot be used; the subclass says why.
        InvalidInput: the device is none of this machine's.
        OutOfMemory: it does not fit.
    """
    return load_as(LanguageModel, resolved, options, kinds=kinds, notify=notify, detail=detail)


def load_as(
    kind: type[M],
    resolved: ResolvedModel,
    options: LoadOptions,
    *,
    kinds: Collection[Kind] = CAUSAL,
    notify: Notify,
    detail: Notify = silent,
) -> M:
    """Load a model as one of a kind of ours; the rest as for :func:`load_resolved`."""
    from llmcli.models.check import check_model_folder, unread_weights

    if resolved.adapter is not None:
        from llmcli.models.adapter import merge_adapter

        check_model_folder(resolved.folder, allow_pickle=options.allow_pickle)
        resolved = merge_adapter(replace(resolved, adapter=None), resolved.adapter, notify=notify)
    found = check_model_folder(
        resolved.folder,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    check_kind(found.config, name=resolved.name, kinds=kinds)
    if unread := unread_weights(resolved.folder):
        taken = "shards" if len(found.weights) > 1 else found.weights[0].name
        detail(f"The weights are read from {taken}; not read: {', '.join(unread)}.")
    device = _device(options.device)
    return kind(
        resolved=resolved,
        device=device,
        precision=options.precision or ("bfloat16" if device == "cuda" else "float32"),
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        threads=options.threads,
        notify=notify,
        detail=detail,
    )


def _device(device: str) -> str:
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if have[name])
    if not have[device]:
        raise InvalidInput(f"This machine has no {device} device.", "Use --device cpu.")
    return device


def _may_have_gpu() -> bool:
    """Whether it is worth the second that asking torch takes: no driver's file, no GPU."""
    if not sys.platform.startswith("linux"):
        return True
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/proc/driver/nvidia", "/dev/nvmap")
    return any(os.path.exists(path) for path in drivers)
