"""Everything llmcli raises on purpose.

::

    LlmcliError                    exit 1   the work failed
    ├── InvalidInput               exit 2   the call or its input is wrong
    │   ├── InvalidText            exit 2   bytes that are not UTF-8, lone surrogates
    │   └── ContextOverflow        exit 2   more tokens than the model's context holds
    ├── GateFailed                 exit 3   a gate that was asked for did not hold
    ├── BatchHadErrors             exit 4   a batch finished, some records are error records
    ├── ModelError                 exit 1   a model cannot be had or cannot be used
    │   ├── ModelNotFound                   no such folder, bundled model or Hub repository
    │   ├── RevisionNotFound                the repository has no such branch, tag or commit
    │   ├── AccessDenied                    private or gated, or a token the Hub rejects
    │   ├── HubUnreachable                  refused, unresolved, silent, too slow, failing
    │   ├── OfflineMiss                     not in the cache while the network is off
    │   ├── CorruptModel                    a file is truncated, altered, or not what it says
    │   ├── UnsupportedModel                an architecture or tokenizer that cannot be used
    │   └── UnsafeModel                     would unpickle or run code without being asked to
    ├── StorageError               exit 1   a file cannot be read or written, a disk is full
    ├── OutOfMemory                exit 1   the memory that is needed cannot be had
    └── NumericalError             exit 1   the model returned NaN or infinite numbers

Each carries a ``message`` (what is wrong, a whole sentence) and a ``cure`` (what to do about
it); the command line prints both on one line and exits with ``exit_code``.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "BatchHadErrors",
    "ContextOverflow",
    "CorruptModel",
    "GateFailed",
    "HubUnreachable",
    "InvalidInput",
    "InvalidText",
    "LlmcliError",
    "ModelError",
    "ModelNotFound",
    "NumericalError",
    "OfflineMiss",
    "OutOfMemory",
    "RevisionNotFound",
    "StorageError",
    "UnsafeModel",
    "UnsupportedModel",
]


class LlmcliError(Exception):
    """The base of everything llmcli raises on purpose.

    Args:
        message: What is wrong: one sentence that ends in a full stop.
        cure: What to do about it: one sentence, or nothing where there is no cure.
    """

    exit_code = 1

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message} {self.cure}".strip()


class InvalidInput(LlmcliError):
    """Raised when an option, an argument or the input text is wrong."""

    exit_code = 2


class InvalidText(InvalidInput):
    """Raised when input is not valid UTF-8 or holds a lone surrogate."""


class ContextOverflow(InvalidInput):
    """Raised when a prompt has more tokens than the model's context holds."""


class GateFailed(LlmcliError):
    """Raised when a gate such as ``--max-ppl`` or ``--fits`` did not hold."""

    exit_code = 3


class BatchHadErrors(LlmcliError):
    """Raised at the end of a batch of which some records are error records."""

    exit_code = 4


class ModelError(LlmcliError):
    """Raised when a model cannot be had, read or used."""


class ModelNotFound(ModelError):
    """Raised when no folder, bundled model or Hub repository has the name."""


class RevisionNotFound(ModelError):
    """Raised when a repository has no such branch, tag or commit."""


class AccessDenied(ModelError):
    """Raised when the Hub answers 401 or 403: private, gated, or a bad token."""


class HubUnreachable(ModelError):
    """Raised when the Hub refuses, does not resolve, stays silent, or keeps failing."""


class OfflineMiss(ModelError):
    """Raised when a model is not in the cache and the network is switched off."""


class CorruptModel(ModelError):
    """Raised when a model's file is truncated, altered, inconsistent or unreadable."""


class UnsupportedModel(ModelError):
    """Raised when an architecture, tokenizer or precision cannot be used here."""


class UnsafeModel(ModelError):
    """Raised when loading would unpickle or execute something nobody asked for."""


class StorageError(LlmcliError):
    """Raised when a file cannot be read or written, or a disk is full."""


class OutOfMemory(LlmcliError):
    """Raised when the memory that is needed cannot be had."""


class NumericalError(LlmcliError):
    """Raised when a model's logits are NaN or infinite."""


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether an exception says that memory could not be had; torch says it by RuntimeError."""
    if isinstance(exc, MemoryError):
        return True
    words = ("not enough memory", "out of memory", "can't allocate", "cannot allocate")
    text = str(exc).lower()
    return isinstance(exc, RuntimeError | OSError) and any(each in text for each in words)
