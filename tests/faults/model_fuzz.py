"""Spoilt copies of a model, through the loader: loaded, or refused in words, and cheaply.

config.json, generation_config.json, tokenizer.json and its neighbours, and the header of the
weights are spoilt. Run by pytest for a moment (test_model_files.py), and for as long as one likes
by

    python tests/faults/model_fuzz.py --seconds 600 --seed 1 [--go-on]
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmcli.errors import LlmcliError

WEIGHTS = "model.safetensors"
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


# Steps that a tokenizer may have.
STEPS: tuple[Any, ...] = (
    {"type": "Prepend", "prepend": "x"},
    {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "bb"},
    {"type": "Split", "pattern": {"Regex": "(?<=a)\\s*|[^\\W]"}, "behavior": "Isolated",
     "invert": False},
    {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
    {"type": "Digits", "individual_digits": True},
    {"type": "FixedLength", "length": 1},
    {"type": "Whitespace"},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
     "pair": [], "special_tokens": {}},
    {"id": 3, "content": "the", "single_word": True, "lstrip": True, "rstrip": True,
     "normalized": True, "special": True},
)  # fmt: skip
GENERATION_KEYS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "do_sample",
    "no_repeat_ngram_size", "min_new_tokens", "max_new_tokens", "max_length", "min_length",
    "num_beams", "early_stopping", "length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "bad_words_ids", "stop_strings", "sequence_bias", "forced_bos_token_id", "eos_token_id",
    "forced_eos_token_id", "bos_token_id", "pad_token_id", "epsilon_cutoff", "eta_cutoff",
    "top_h", "cache_implementation", "custom_generate", "transformers_version",
    "watermarking_config",
)  # fmt: skip
GENERATION_VALUES: tuple[Any, ...] = (
    *INTERESTING, [0], [1, 2], [399], [400], [[0]], [[1, 2], [3]], [[400]], "the", ["the", "a"],
    [[[1], 0.5]], {"(1,)": 2.0}, 0.1, 2.0,
)  # fmt: skip
TOKENIZER_KEYS = (
    "tokenizer_class", "bos_token", "eos_token", "unk_token", "pad_token", "image_token",
    "extra_special_tokens", "additional_special_tokens", "added_tokens_decoder", "auto_map",
    "add_prefix_space", "add_bos_token", "model_max_length", "chat_template", "errors",
    "split_special_tokens", "clean_up_tokenization_spaces", "padding_side", "vocab_file",
    "fast_tokenizer_files", "init_inputs", "backend", "special_tokens",
)  # fmt: skip
TOKENIZER_VALUES: tuple[Any, ...] = (
    "GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer", "BertTokenizer", "GPTNeoXTokenizer",
    "PreTrainedTokenizerFast", "CTRLTokenizer", "Wonder", "<pad>", "the", {"content": "<x>"},
    {"__type": "AddedToken", "content": "<y>"}, ["<a>", "<b>"], {"400": {"content": "<z>"}},
    {"-1": {}}, {"x": 5},
)  # fmt: skip


def spoil_config(
    data: bytes,
    draw: random.Random,
    keys: Sequence[str] = EXTRA_KEYS,
    values: Sequence[Any] = INTERESTING,
) -> bytes:
    """Change a few fields, or a few bytes."""
    if draw.random() < 0.2:
        return spoil_bytes(data, draw)
    config = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        key = draw.choice([*config, *keys])
        if draw.random() < 0.15:
            config.pop(key, None)
        else:
            config[key] = copy.deepcopy(draw.choice(values))
    return json.dumps(config).encode()


def spoil_tokenizer(data: bytes, draw: random.Random) -> bytes:
    """Change a value somewhere in it, or a few bytes."""
    if draw.random() < 0.3:
        return spoil_bytes(data, draw)
    state = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        place = state
        while True:
            keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.8:
                place = place[key]
                continue
            place[key] = copy.deepcopy(draw.choice([*INTERESTING, *STEPS]))
            break
    return json.dumps(state).encode()


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
    for path in folder.iterdir():
        path.unlink()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    which = draw.random()

    def change(name: str, by: Callable[[bytes, random.Random], bytes]) -> None:
        path = folder / name
        path.write_bytes(by(path.read_bytes() if path.exists() else b"{}", draw))

    if which < 0.4:
        change("config.json", spoil_config)
    if 0.3 < which < 0.5:
        change(WEIGHTS, spoil_weights)
    if 0.5 < which < 0.65 or which < 0.05:
        change(
            "generation_config.json",
            lambda data, draw: spoil_config(data, draw, GENERATION_KEYS, GENERATION_VALUES),
        )
    if 0.65 < which < 0.85:
        change("tokenizer.json", spoil_tokenizer)
    if which > 0.8:
        name = draw.choice(
            ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
        )
        values = [*INTERESTING, *TOKENIZER_VALUES]
        change(name, lambda data, draw: spoil_config(data, draw, TOKENIZER_KEYS, values))


def load(folder: Path) -> str:
    """Load a model and use it as the commands do; the words of our own error, or none."""
    import llmcli

    text = "a text aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab the"
    try:
        model = llmcli.load(str(folder), device="cpu")
        ids = model.tokenizer.ids(text)
        model.tokenizer.encode(text, special="allow")
        model.tokenizer.decode_bytes(ids)
        _ = model.tokenizer.adds_bos, model.eos_ids, model.tokenizer.bos_id
        "".join(model.stream("a text", max_new_tokens=2, seed=1))
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
    """Fuzz until the time is over; stops at the first bug with its seed, or counts them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=10**9)
    parser.add_argument("--go-on", action="store_true", help="report every bug, and go on")
    given = parser.parse_args()
    # What grows or hangs must end here, not in the machine.
    resource.setrlimit(resource.RLIMIT_AS, (20 * 2**30, 20 * 2**30))
    with tempfile.TemporaryDirectory() as temporary:
        model = make_model(Path(temporary))
        load(model)
        end, seed, refused = time.monotonic() + given.seconds, given.seed, 0
        bugs: Counter[str] = Counter()
        last = Path(tempfile.gettempdir(), "model_fuzz.seed")
        while time.monotonic() < end and seed < given.seed + given.runs:
            with tempfile.TemporaryDirectory() as folder:
                # Of processor time, which a busy machine does not make longer. What hangs in
                # native code runs no handler: the process ends, and the file says where it was.
                last.write_text(f"{seed}\n")
                signal.setitimer(signal.ITIMER_VIRTUAL, 100)
                try:
                    refused += bool(attempt(model, seed, Path(folder)))
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    place = f"{Path(where.filename).name}:{where.lineno}"
                    bugs[place] += 1
                    if bugs[place] == 1:
                        print(f"seed {seed}: {what} ({place})", file=sys.stderr, flush=True)
                    if not given.go_on:
                        raise
            seed += 1
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    found = f"{sum(bugs.values())} bugs in {len(bugs)} places" if bugs else "no bug"
    print(f"{seed - given.seed} copies, {refused} refused, {found}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from conftest import save_tiny_model

    def make(folder: Path) -> Path:
        """A tiny GPT-2 in a folder of its own."""
        (folder / "model").mkdir()
        return save_tiny_model(folder / "model", "gpt2")

    main(make)
