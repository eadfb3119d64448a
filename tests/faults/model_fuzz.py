"""Spoilt copies of a model, through the loader: loaded, or refused in words, and cheaply.

Run by pytest for a moment (test_model_files.py), and for as long as one likes by

    python tests/faults/model_fuzz.py --seconds 600 --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcli.errors import LlmcliError

INTERESTING: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 64, 10**5, 10**9, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308,
    "", "2", "gpt2", "org/kernel", "../x", "float32", "\x1b[2J", [], [1], [[]], {}, {"a": {}},
)  # fmt: skip
EXTRA_KEYS = (
    "auto_map", "attn_implementation", "_attn_implementation", "quantization_config",
    "torch_dtype", "dtype", "text_config", "model_type", "architectures", "n_inner",
    "rope_scaling", "rope_parameters", "layer_types", "kernel_config", "transformers_weights",
    "tie_word_embeddings", "is_encoder_decoder", "num_labels", "id2label", "pad_token_id",
    "use_cache", "return_dict", "output_attentions", "chunk_size_feed_forward", "tokenizer_class",
)  # fmt: skip


def spoil_config(data: bytes, draw: random.Random) -> bytes:
    """Change a few fields, or a few bytes."""
    if draw.random() < 0.2:
        return spoil_bytes(data, draw)
    config = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        key = draw.choice([*config, *EXTRA_KEYS])
        if draw.random() < 0.15:
            config.pop(key, None)
        else:
            config[key] = draw.choice(INTERESTING)
    return json.dumps(config).encode()


def spoil_weights(data: bytes, draw: random.Random) -> bytes:
    """Change the header's entries, or a few bytes of it, or cut the file."""
    length = struct.unpack("<Q", data[:8])[0]
    kind = draw.random()
    if kind < 0.2:
        return data[: draw.randrange(len(data))]
    if kind < 0.4:
        return spoil_bytes(data[: 8 + length], draw) + data[8 + length :]
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    name = draw.choice([key for key in header if key != "__metadata__"])
    change = draw.randrange(5)
    if change == 0:
        del header[name]
    elif change == 1:
        header[name + draw.choice(["x", ".weight", "\x1b", "/../y"])] = header.pop(name)
    elif change == 2:
        header[name]["shape"] = header[name]["shape"][::-1]
    elif change == 3:
        header[name][draw.choice(["dtype", "shape", "data_offsets"])] = draw.choice(INTERESTING)
    else:
        other = draw.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


def spoil_bytes(data: bytes, draw: random.Random) -> bytes:
    """Replace, insert or remove a few bytes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed))
        kind = draw.randrange(3)
        if kind == 0:
            changed[place] = draw.randrange(256)
        elif kind == 1:
            changed.insert(place, draw.choice(b'{}[]",:0123456789\x00\xff'))
        elif len(changed) > 1:
            del changed[place]
    return bytes(changed)


def spoil(model: Path, folder: Path, draw: random.Random) -> None:
    """Write a spoilt copy of a model into a folder."""
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    which = draw.random()
    if which < 0.6:
        config = folder / "config.json"
        config.write_bytes(spoil_config(config.read_bytes(), draw))
    if which > 0.5:
        weights = folder / "model.safetensors"
        weights.write_bytes(spoil_weights(weights.read_bytes(), draw))


def load(folder: Path) -> str:
    """Load a model as every command does; the words of our own error, or none."""
    import llmcli

    try:
        model = llmcli.load(str(folder), device="cpu")
        model.module  # noqa: B018 - it is loaded when it is asked for
        model.tokenizer.ids("a text")
    except LlmcliError as error:
        return str(error)
    return ""


def attempt(model: Path, seed: int, folder: Path) -> str:
    """One spoilt copy through the loader; raises whatever is a bug.

    Raises:
        AssertionError: The copy cost too much time or memory.
    """
    spoil(model, folder, random.Random(seed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    words = load(folder)
    seconds = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 500, f"{grown:.0f} MB for seed {seed}"
    assert seconds < 20, f"{seconds:.0f} s for seed {seed}"
    return words


def main(make_model: Callable[[Path], Path]) -> None:
    """Fuzz until the time is over; stops at the first bug with its seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=10**9)
    given = parser.parse_args()
    # What grows or hangs must end here, not in the machine.
    resource.setrlimit(resource.RLIMIT_AS, (20 * 2**30, 20 * 2**30))
    with tempfile.TemporaryDirectory() as temporary:
        model = make_model(Path(temporary))
        load(model)
        end, seed, refused = time.monotonic() + given.seconds, given.seed, 0
        while time.monotonic() < end and seed < given.seed + given.runs:
            with tempfile.TemporaryDirectory() as folder:
                signal.alarm(120)
                try:
                    refused += bool(attempt(model, seed, Path(folder)))
                except BaseException:
                    print(f"seed {seed}", file=sys.stderr)
                    raise
            seed += 1
        signal.alarm(0)
    print(f"{seed - given.seed} copies, {refused} refused, no crash")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from conftest import save_tiny_model

    def make(folder: Path) -> Path:
        """A tiny GPT-2 in a folder of its own."""
        (folder / "model").mkdir()
        return save_tiny_model(folder / "model", "gpt2")

    main(make)
