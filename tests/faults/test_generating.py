"""Generation through the command, when the prompt, the context or the model is not as one likes.

Rows 18, 19, 20, 22, 25, 52 and 55; the engine's own tests look at each more closely.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.engine.decoder import Decoder
from llmcli.engine.transformers_decoder import TransformersDecoder

SCRIPT = str(Path(sys.executable).with_name("llmcli"))


def generate(model: Path, *args: str, input: str = "") -> Result:
    return CliRunner().invoke(cli, ["generate", "-m", str(model), *args], input=input)


def copy_of(model: Path, folder: Path) -> Path:
    """A model's folder whose files can be replaced."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_row_18_an_empty_prompt(tiny_gpt2: Path) -> None:
    for result in (generate(tiny_gpt2, ""), generate(tiny_gpt2), generate(tiny_gpt2, input="\n")):
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: The prompt is empty. Give some text, or --bos")
    begun = generate(tiny_gpt2, "--bos", "-n", "2", "--json", "")
    assert begun.exit_code == 0
    assert json.loads(begun.stdout)["prompt_tokens"] == 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(55, 75),
    overflow=st.sampled_from(["error", "left", "middle", "slide"]),
    asked=st.sampled_from(["1", "5", "70", "max"]),
)
def test_rows_19_and_20_around_the_end_of_the_context(
    tiny_gpt2: Path, length: int, overflow: str, asked: str
) -> None:
    """A message with both numbers, or all of the text and the right reason; no IndexError."""
    if overflow == "slide" and asked == "max":
        return  # would go on for ever
    base = ["--json", "--ignore-eos", "--overflow", overflow, "-n", asked]
    result = generate(tiny_gpt2, *base, "," * length)
    if overflow == "error" and length > 63:
        assert result.exit_code == 2
        assert f"has {length} tokens; the context holds 64" in result.stderr
        return
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["prompt_tokens"] == length
    made, dropped = record["completion_tokens"], record["dropped_tokens"]
    if overflow != "slide":
        assert length - dropped + made <= 64
    reached = asked != "max" and made == int(asked)
    assert record["finish_reason"] == ("length" if reached else "context")
    if not reached:
        assert length - dropped + made == 64


def test_row_22_a_model_that_gives_nan(tiny_gpt2: Path, tmp_path: Path) -> None:
    """One line that names the position, and not token 0 for ever."""
    folder = copy_of(tiny_gpt2, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    [name] = [name for name in weights if name.endswith("ln_f.weight")]
    weights[name][3:9] = 3e38  # numbers, whose products are none
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for args in (["--greedy"], ["--seed", "1"], ["--num-beams", "2"]):
        result = generate(folder, "-n", "5", *args, "Once upon a time")
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: The model's logits after token 7 are NaN or inf")
        assert result.stderr.count("\n") == 1
    next_token = CliRunner().invoke(cli, ["next", "-m", str(folder), "--json", "Once"])
    assert (next_token.exit_code, next_token.stdout) == (1, "")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_row_22_weights_that_are_nan(tiny_gpt2: Path, tmp_path: Path, precision: str) -> None:
    """One line that names the tensor, though text might still come of it."""
    folder = copy_of(tiny_gpt2, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    [name] = [name for name in weights if name.endswith("h.1.attn.c_attn.bias")]
    weights[name][70] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = generate(folder, "-n", "5", "--precision", precision, "Once upon a time")
    assert result.exit_code == 1
    assert "h.1.attn.c_attn.bias holds NaN or infinity" in result.stderr
    assert result.stderr.count("\n") == 1


def test_row_25_characters_over_several_tokens(tiny_gpt2: Path) -> None:
    """Each comes out whole with its last token, and nothing is held longer."""
    model = load(str(tiny_gpt2))
    ids = [model.tokenizer.ids(text) for text in ("🦊", "東")]
    assert all(len(each) > 1 for each in ids)
    whole = model.tokenizer.decode_bytes([*ids[0], *ids[1]])
    assert whole.decode() == "🦊東"
    # Follow the bytes one by one: each step allows one token alone.
    pieces = list(_told(model, [*ids[0], *ids[1]]))
    assert "".join(pieces) == "🦊東"
    assert "�" not in "".join(pieces)
    assert len(pieces) == len(ids[0]) + len(ids[1])


def _told(model: Any, tokens: Sequence[int]) -> list[str]:
    from llmcli.engine.params import SamplingParams
    from llmcli.engine.transcript import Prompt, Transcript, replay

    transcript = Transcript(
        Prompt(ids=(1,)),
        SamplingParams(max_new_tokens=len(tokens)),
        n_positions=64,
        token_bytes=model.tokenizer.token_bytes,
    )
    return [event.text for event in replay(transcript, tokens)]


def test_row_52_memory_that_cannot_be_had(tiny_gpt2: Path, tmp_path: Path) -> None:
    """A model of 9.7 GB (a file with holes) where a process may have 6: one line with the size."""
    folder = copy_of(tiny_gpt2, tmp_path / "huge")
    width, layers = 8192, 3
    config = json.loads((folder / "config.json").read_text())
    config.update(n_embd=width, n_layer=layers, n_head=64)
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, list[int]] = {
        "transformer.wte.weight": [config["vocab_size"], width],
        "transformer.wpe.weight": [config["n_positions"], width],
        "transformer.ln_f.weight": [width],
        "transformer.ln_f.bias": [width],
    }
    for layer in range(layers):
        for part, shape in {
            "ln_1": [width],
            "ln_2": [width],
            "attn.c_attn": [width, 3 * width],
            "attn.c_proj": [width, width],
            "mlp.c_fc": [width, 4 * width],
            "mlp.c_proj": [4 * width, width],
        }.items():
            shapes[f"transformer.h.{layer}.{part}.weight"] = shape
            shapes[f"transformer.h.{layer}.{part}.bias"] = shape[-1:]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    limited = 'ulimit -v 6000000; exec "$@"'  # kilobytes
    result = subprocess.run(
        ["bash", "-c", limited, "bash", SCRIPT, "generate", "-m", str(folder), "-n", "1", "Once"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("Error: "), result.stderr
    assert result.stderr.count("\n") == 1
    assert "memory" in result.stderr
    assert "9.7 GB" in result.stderr


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_llama", "tiny_neox"])
def test_row_55_rows_of_a_batch_are_as_alone(fixture: str, request: pytest.FixtureRequest) -> None:
    """Rows of different lengths next to each other, and the same rows one at a time."""
    model = load(str(request.getfixturevalue(fixture)))
    decoders: list[Decoder] = [TransformersDecoder(model.module, n_positions=64), model.decoder()]
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15]]
    for decoder in decoders:
        slots = [decoder.open() for _ in prompts]
        together = [decoder.append(list(zip(slots, prompts, strict=True)), prompt=True)]
        for step in (1, 4):
            tokens = [(slot, [row + step]) for row, slot in enumerate(slots)]
            together.append(decoder.append(tokens))
        for row, prompt in enumerate(prompts):
            slot = decoder.open()
            alone = [
                decoder.append([(slot, prompt)], prompt=True),
                decoder.append([(slot, [row + 1])]),
                decoder.append([(slot, [row + 4])]),
            ]
            for batched, single in zip(together, alone, strict=True):
                np.testing.assert_allclose(batched[row], single[0], rtol=1e-4, atol=1e-4)
