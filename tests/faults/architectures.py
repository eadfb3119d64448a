"""Every causal architecture of the installed transformers, read as this tool reads it.

    python tests/faults/architectures.py [--markdown] [MODEL_TYPE ...]

Builds a tiny random model of each and compares logits with its own forward over the whole text:
in pieces, token by token, after going back, in copies, with a prompt of 600 tokens; and the
greedy continuation with that of transformers' generate.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_architectures import architectures, tiny_module

from llmcli.engine.decoder import Floats
from llmcli.engine.reading import Reading, find_reading
from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.errors import UnsupportedModel
from llmcli.models.kinds import check_kind

CLOSE = 1e-4
LONG = 600
N_POSITIONS = 1024


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture.

    Attributes:
        kind: How it is read, or that it is refused or could not be built.
        furthest: The largest distance of a logit, in standard deviations; by what was done.
        greedy: Whether transformers' generate gives the same text; None where it fails.
        words: What there is to say.
    """

    kind: str
    furthest: dict[str, float]
    greedy: bool | None = None
    words: str = ""

    @property
    def wrong(self) -> bool:
        """Whether some logits are not those of the whole text."""
        return any(not each <= CLOSE for each in self.furthest.values())


def examine(model_type: str) -> Outcome:
    """Build a model of a type and compare."""
    try:
        module = tiny_module(model_type)
    except Exception as exc:  # whatever keeps a tiny one from being built is told
        return Outcome("not built", {}, words=_line(exc))
    try:
        check_kind(module.config.to_dict() | {"is_encoder_decoder": False}, name=model_type)
        reading = find_reading(module, name=model_type, n_positions=N_POSITIONS)
    except UnsupportedModel as exc:
        return Outcome("refused", {}, words=_line(exc))
    return Outcome(_kind(reading), *compare(module, reading))


def compare(
    module: Any, reading: Reading, *, long: int = LONG
) -> tuple[dict[str, float], bool | None]:
    """Distances from the forward over the whole text, and whether the greedy text is the same."""
    ids = np.random.default_rng(1).integers(4, 300, long + 8).tolist()
    decoder = TransformersDecoder(module, n_positions=N_POSITIONS, reading=reading)
    whole = _whole(module, ids[:40])
    found = {"in pieces": _pieces(decoder, ids, [17, 24, *range(25, 41)], whole)}
    found["after going back"] = _back(decoder, ids, whole)
    found["in a copy"] = _copies(decoder, ids, whole)
    whole = _whole(module, ids)
    found["long"] = _pieces(decoder, ids, [long, *range(long + 1, long + 9)], whole)
    return found, _same_greedy(module, decoder, ids[:20])


def _pieces(decoder: TransformersDecoder, ids: list[int], ends: Sequence[int], whole: Any) -> float:
    slot, start, read = decoder.open(), 0, []
    for end in ends:
        read.append(decoder.append([(slot, ids[start:end])], every=True))
        start = end
    decoder.close(slot)
    return _apart(np.concatenate(read), whole)


def _back(decoder: TransformersDecoder, ids: list[int], whole: Any) -> float:
    slot = decoder.open()
    decoder.append([(slot, ids[:20])])
    decoder.append([(slot, [5, 6, 7])])
    decoder.truncate(slot, 20)
    after = [decoder.append([(slot, [token])]) for token in ids[20:30]]
    decoder.truncate(slot, 10)
    again = decoder.append([(slot, ids[10:40])], every=True)
    decoder.close(slot)
    return max(_apart(np.concatenate(after), whole[20:30]), _apart(again, whole[10:]))


def _copies(decoder: TransformersDecoder, ids: list[int], whole: Any) -> float:
    one, other = decoder.open(), decoder.open()
    decoder.append([(one, ids[:20])])
    kept = decoder.copy(one, other, 12)
    copied = decoder.append([(other, ids[kept:30])], every=True)
    first = decoder.append([(one, ids[20:40])], every=True)
    decoder.close(one)
    decoder.close(other)
    return max(_apart(copied[12 - kept :], whole[12:30]), _apart(first, whole[20:]))


def _same_greedy(module: Any, decoder: TransformersDecoder, prompt: list[int]) -> bool | None:
    from transformers import GenerationConfig

    slot, ours = decoder.open(), []
    logits = decoder.append([(slot, prompt)])
    for _ in range(12):
        ours.append(int(logits[0].argmax()))
        logits = decoder.append([(slot, ours[-1:])])
    decoder.close(slot)
    module.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        made = module.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return None
    return bool(made[0, len(prompt) :].tolist() == ours)


@torch.inference_mode()
def _whole(module: Any, ids: list[int]) -> Floats:
    logits: Floats = module(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return logits


def _apart(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / expected.std())


def _kind(reading: Reading) -> str:
    if reading.cache is None:
        return "read again for each token"
    return "with its cache" if reading.several else "with its cache, token by token"


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:110] or type(exc).__name__


def main() -> int:
    """Compare, print a table, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="the table of docs/models.md")
    parser.add_argument("model_types", nargs="*")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    by_kind: dict[str, list[str]] = {}
    wrong = []
    for model_type in chosen.model_types or architectures():
        outcome = examine(model_type)
        by_kind.setdefault(outcome.kind, []).append(model_type)
        if outcome.wrong:
            wrong.append(model_type)
        if not chosen.markdown:
            furthest = max(outcome.furthest.values(), default=0.0)
            greedy = {True: "same", False: "another", None: "-"}[outcome.greedy]
            print(
                f"{model_type:26} {outcome.kind:32} {furthest:8.0e} {greedy:8}"
                f"{'WRONG ' if outcome.wrong else ''}{outcome.words}",
                flush=True,
            )
    if chosen.markdown:
        print("| how it is read | architectures |\n|---|---|")
        for kind, names in sorted(by_kind.items(), key=lambda each: -len(each[1])):
            print(f"| {kind} ({len(names)}) | {', '.join(names)} |")
    else:
        print(Counter({kind: len(names) for kind, names in by_kind.items()}), "wrong:", wrong)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
