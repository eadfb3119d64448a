"""Room on the disk: looked at before the first step, and named when it is gone."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from llmcli.errors import StorageError

_PROBE_BYTES = 1 << 20


def check_room(folder: Path, model: nn.Module) -> None:
    """Refuse a run that is sure to fill the disk: a checkpoint and the model must fit beside it.

    A checkpoint has the weights and, at the least, one number of the optimizer for each weight
    that is trained.

    Raises:
        StorageError: there is less room.
    """
    trained = [each for each in model.parameters() if each.requires_grad]
    saved = sum(each.nbytes for each in model.parameters() if each.requires_grad)
    needed = saved + sum(4 * each.numel() for each in trained)  # a checkpoint
    needed += sum(2 * each.numel() for each in trained)  # the model, in 16 bits if not in 32
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"No space left on device: a checkpoint and the model take at least "
            f"{needed / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB.",
            "Free some space or choose another --output.",
        )


def cannot_write(folder: Path, exc: Exception) -> StorageError:
    """Return what to raise when a file of the run could not be written.

    torch and safetensors do not always say why; the system does, when it is asked again.
    """
    known = exc if isinstance(exc, OSError) else _reason(folder)
    cure = "Free some space; what is saved already is kept, and --resume goes on from there."
    if known is not None and known.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cure = "Choose another --output."
    return StorageError(f"Cannot write {folder}: {known.strerror if known else exc}.", cure)


def is_failed_write(exc: Exception) -> bool:
    """Whether a foreign exception says that a file could not be written."""
    if isinstance(exc, OSError):
        return exc.errno not in (None, errno.ENOMEM, errno.EPIPE)
    if isinstance(exc, SafetensorError):
        return "I/O error" in str(exc) or "IoError" in str(exc)
    return "PytorchStreamWriter" in str(exc) or "inline_container" in str(exc)


def _reason(folder: Path) -> OSError | None:
    """What the system says when the folder is written to; None if it takes more."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return exc
    return None
