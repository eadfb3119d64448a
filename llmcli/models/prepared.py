"""Weights made ready for our own engine, so that the second run starts at once.

The first load of a model goes through transformers, which reads and checks it. If its family
has a blueprint, the weights that transformers resolved are packed, and the logits of a probe
text are compared with transformers' own. They agree: the packed weights are kept, and later runs
import neither torch nor transformers. They do not, or the family is refused: transformers
serves. Any doubt, such as another size or time of a file or another format, goes the
transformers way again.

::

    $XDG_CACHE_HOME/llmcli/prepared/     (~/.cache/llmcli/prepared)
        HASH-int8.arrays                 HASH: of the model folder's path
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmcli.hub import cache
from llmcli.hub.inventory import not_deleted

if TYPE_CHECKING:
    from llmcli.engine.arrayfile import ArrayFile
    from llmcli.engine.blueprint import Blueprint
    from llmcli.engine.families import Names
    from llmcli.engine.native.library import Precision
    from llmcli.engine.packed_model import PackedModel
    from llmcli.models.language_model import LanguageModel

_FORMAT = 3
_SUFFIX = ".arrays"
_TEMPORARY = ".preparing-"
_ABANDONED = 3600.0  # seconds: no model takes so long
_PROBE_TOKENS = 64
# Up to so many bytes of float32 weights a second copy is packed to be compared.
_LARGEST_TRIED = 4 << 30
# How far native logits may be from transformers', in root mean squares over the logits' spread:
# float32 differs in the order of sums alone; the others by what they round away. A wrong
# activation, a norm in another place or positions off by one are beyond all of these.
_NEAR = {"float32": 1e-4, "bfloat16": 0.15, "int8": 0.35, "int4": 1.0}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model's prepared weights are, and what they must be made of."""

    path: Path
    key: str


def prepared_folder() -> Path:
    """Where prepared weights are kept; it need not exist."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(parent)) / "llmcli" / "prepared"


def prepared_files(folder: Path) -> list[Path]:
    """The files prepared of the model in a folder, whether or not they still fit it."""
    return sorted(prepared_folder().glob(f"{_folder_hash(folder)}-*"))


def remove_prepared(folders: Iterable[Path]) -> int:
    """Delete what was prepared of the models in folders; returns its size.

    Raises:
        StorageError: A file could not be deleted.
    """
    freed = 0
    for path in [path for folder in folders for path in prepared_files(folder)]:
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError as error:
            raise not_deleted(path, error) from error
        freed += size
    return freed


def packed_model(model: LanguageModel) -> PackedModel | None:
    """Return a model for our own kernels, a prepared one where it is there.

    Returns:
        None where transformers has to serve. Why is said by a notice, or in detail where that
        is what was asked for or the family has no blueprint.

    Raises:
        ModelError: transformers cannot load the model; see :mod:`llmcli.models.weights`.
        OutOfMemory: it does not fit.
        InvalidInput: ``LLMCLI_NATIVE`` names what this processor lacks.
    """
    from llmcli.engine.native.library import SWITCH, library

    if library() is None:
        if os.environ.get(SWITCH):
            model.detail(f"{SWITCH}={os.environ[SWITCH]}: transformers computes.")
        else:
            model.notify(
                "Our own kernels are not there, so transformers computes, which is slower. "
                "Install llmcli from a wheel, or with a C compiler."
            )
        return None
    place = _place(model)
    with model.timed("prepared weights"):
        packed = _read(place)
    return packed or _prepare(model, place)


def _folder_hash(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]


def _place(model: LanguageModel) -> _Place:
    files = list(cache.weight_files(model.folder, allow_pickle=model.allow_pickle))
    states = [(path.name, path.resolve().name, path.stat()) for path in files]
    key = {
        "format": _FORMAT,
        "byteorder": sys.byteorder,
        "precision": model.precision,
        "revision": model.resolved.commit,
        "config": hashlib.sha256((model.folder / "config.json").read_bytes()).hexdigest(),
        "files": [
            [name, target, stat.st_size, stat.st_mtime_ns, stat.st_ino]
            for name, target, stat in states
        ],
    }
    name = f"{_folder_hash(model.folder)}-{model.precision}{_SUFFIX}"
    return _Place(prepared_folder() / name, json.dumps(key))


# -- the second run --------------------------------------------------------------------------


def _read(place: _Place) -> PackedModel | None:
    """The model of prepared weights; None where there are none that fit."""
    from llmcli.engine.arrayfile import ArrayFile

    try:
        file = ArrayFile(place.path)
        return _open(file) if file.about.get("key") == place.key else None
    except (OSError, ValueError, TypeError, KeyError):  # not what was written
        return None


def _open(file: ArrayFile) -> PackedModel:
    from llmcli.engine.blueprint import Blueprint
    from llmcli.engine.packed_model import PackedModel

    return PackedModel(Blueprint.from_json(file.about["blueprint"]), file.mapped())


# -- the first run ---------------------------------------------------------------------------


def _prepare(model: LanguageModel, place: _Place) -> PackedModel | None:
    """Load through transformers, pack, compare, and keep what the next run needs."""
    from llmcli.engine import families
    from llmcli.models.weights import load_module, resolved_config

    try:
        families.describe(resolved_config(model))  # before the weights, which may be large
        module = load_module(model, exact=True)
        blueprint, names = families.describe(module.config.to_dict(), _class_of(module))
        weights = _Weights(blueprint, names, module)
        weights.check()
        if not weights.finite:
            raise families.Refusal("its logits are not all finite, so nothing can be compared")
    except families.Refusal as refusal:
        model.detail(f"Our own kernels do not compute {model.name} ({refusal}): transformers does.")
        return None
    distance = None
    if model.precision != "float32":
        with model.timed("compare with transformers"):
            distance = _distance_of_float32(weights)
    if distance is None or distance <= _NEAR["float32"]:
        with _packed(model, weights, place) as (packed, keep):
            with model.timed("compare with transformers"):
                own = _distance(packed, weights.expected)
            if own <= _NEAR[model.precision]:
                if place == _place(model):  # nobody changed the files meanwhile
                    keep()
                return packed
            distance = own
    model.notify(
        f"Our own kernels differ from transformers on {model.name}, by {distance:.2g} of the "
        "logits' spread: transformers computes, which is slower. Please report it."
    )
    if model.precision == "float32":
        model.__dict__["module"] = module
    return None


def _class_of(module: Any) -> str:
    """The class's name; with its module's where that is not transformers."""
    kind = type(module)
    ours = kind.__module__.startswith("transformers.models.")
    return str(kind.__name__ if ours else f"{kind.__module__}.{kind.__name__}")


class _Weights:
    """A loaded module's weights by role, and its logits after each token of a probe text."""

    def __init__(self, blueprint: Blueprint, names: Names, module: Any) -> None:
        import torch

        self.blueprint = blueprint
        self._names = names
        self._state = module.state_dict()
        room = min(_PROBE_TOKENS, blueprint.positions or _PROBE_TOKENS)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(blueprint.vocab_size, (1, room), generator=generator)
        with torch.no_grad():
            logits = module(ids).logits[0].float().numpy()
        self.expected = (ids[0].tolist(), logits)
        self.finite = bool(torch.from_numpy(logits).isfinite().all())

    def check(self) -> None:
        """Raise Refusal where a weight is missing, left over or of another shape."""
        for _ in self.by_role():
            pass

    def by_role(self) -> Iterator[tuple[str, Any]]:
        """Every weight and bias, float32."""
        from llmcli.engine import families

        return families.by_role(self.blueprint, self._names, self._state)

    def packed(self, precision: str) -> Iterator[tuple[str, Any]]:
        """The arrays that a packed model has."""
        from llmcli.engine.packed_model import pack

        return pack(self.blueprint, self.by_role(), cast("Precision", precision))


def _distance_of_float32(weights: _Weights) -> float | None:
    """How far native float32 logits are from transformers'; None for a large model.

    Quantised logits are too far away to tell a small quirk from rounding.
    """
    from llmcli.engine.packed_model import PackedModel

    if sum(array.nbytes for _, array in weights.by_role()) > _LARGEST_TRIED:
        return None
    packed = PackedModel(weights.blueprint, dict(weights.packed("float32")))
    return _distance(packed, weights.expected)


def _distance(packed: PackedModel, expected: tuple[list[int], Any]) -> float:
    """Root mean square of the logits' differences over their spread; NaN where one is none."""
    import numpy as np

    from llmcli.engine.native_decoder import NativeDecoder

    ids, theirs = expected
    decoder = NativeDecoder(packed, n_positions=len(ids))
    ours = decoder.append([(decoder.open(), ids)], prompt=True, every=True)
    difference = np.sqrt(np.mean((ours.astype(np.float64) - theirs) ** 2))
    return float(difference / max(float(np.std(theirs)), 1e-9))


@contextmanager
def _packed(
    model: LanguageModel, weights: _Weights, place: _Place
) -> Iterator[tuple[PackedModel, Callable[[], None]]]:
    """Pack into a file, which is kept if the second thing yielded is called.

    A cache that cannot be written is no reason to fail: the weights are then packed in memory.
    """
    from llmcli.engine.arrayfile import ArrayFile, Writer
    from llmcli.engine.packed_model import PackedModel

    about = {"key": place.key, "blueprint": weights.blueprint.to_json()}
    temporary = ""
    try:
        try:
            with model.timed("pack weights"):
                place.path.parent.mkdir(parents=True, exist_ok=True)
                _tidy(place.path.parent)
                handle, temporary = tempfile.mkstemp(dir=place.path.parent, prefix=_TEMPORARY)
                with open(handle, "wb") as file:
                    writer = Writer(file)
                    for name, array in weights.packed(model.precision):
                        writer.add(name, array)
                    writer.close(about)
        except OSError as exc:
            model.notify(
                f"{model.name} cannot be prepared for faster starts: "
                f"{place.path.parent}: {exc.strerror}."
            )
            arrays = dict(weights.packed(model.precision))
            yield PackedModel(weights.blueprint, arrays), lambda: None
        else:
            packed = _open(ArrayFile(Path(temporary)))
            yield packed, lambda: _move(temporary, place.path)
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _move(temporary: str, path: Path) -> None:
    with suppress(OSError):  # the next run prepares it again
        os.replace(temporary, path)


def _tidy(folder: Path) -> None:
    """Delete what a process left here that was killed while it prepared a model."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
