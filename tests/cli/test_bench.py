"""llmcli bench: records, values and a table of what was measured."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import RunLlmcli
from schemas import kind_of
from toy_decoder import ToyDecoder

from llmcli.engine.benchmark import measure, memory_bandwidth
from llmcli.engine.decoder import Floats


class _Clockwork(ToyDecoder):
    """A decoder that takes a second for each prompt token and two for each step."""

    def __init__(self, n_positions: int = 600) -> None:
        super().__init__(11, n_positions)
        self.now = 0.0
        self.prompts: list[tuple[int, int]] = []

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        length = len(texts[0][1])
        if prompt:
            self.prompts.append((len(texts), length))
        self.now += length if prompt else 2
        return super().append(texts, prompt=prompt, every=every)


def test_rates_are_tokens_by_seconds() -> None:
    decoder = _Clockwork()
    rates = measure(decoder, repetitions=2, new_tokens=10, clock=lambda: decoder.now)
    found = {(r.what, r.batch, r.prompt_tokens, r.new_tokens): (r.mean, r.deviation) for r in rates}
    assert found == {
        ("prefill", 1, 32, 0): (1.0, 0.0),
        ("prefill", 1, 512, 0): (1.0, 0.0),
        ("decode", 1, 32, 10): (0.5, 0.0),
        ("decode", 8, 32, 10): (4.0, 0.0),
    }
    assert not decoder.opened
    assert decoder.prompts == [(1, 32)] * 3 + [(1, 512)] * 3 + [(1, 32)] * 3 + [(8, 32)] * 3


def test_lengths_are_cut_to_the_context() -> None:
    decoder = _Clockwork(n_positions=20)
    rates = measure(decoder, repetitions=1, clock=lambda: decoder.now)
    assert [(r.what, r.prompt_tokens, r.new_tokens) for r in rates] == [
        ("prefill", 20, 0),
        ("decode", 10, 10),
        ("decode", 10, 10),
    ]


def test_bandwidth_is_a_plausible_number() -> None:
    assert 1e8 < memory_bandwidth(2, repetitions=1) < 1e13


def test_json_and_csv(run_llmcli: RunLlmcli, tiny_gpt2: Path) -> None:
    call = ("bench", "-m", str(tiny_gpt2), "--precision", "float32", "-r", "1", "-n", "3")
    result = run_llmcli(*call, "--json", "--threads", "1")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert kind_of("bench", result.stdout) == "Row"
    assert record["threads"] == 1
    assert record["through_transformers"] is True
    # 2 layers of width 32, and the head: 12 * 32 * 32 a layer, 32 for each token.
    vocab = json.loads((tiny_gpt2 / "config.json").read_text())["vocab_size"]
    assert record["weight_bytes_per_token"] == 4 * (2 * 12 * 32 * 32 + 32 * vocab)
    speed = record["decode_batch_1_tokens_per_second"]
    share = speed * record["weight_bytes_per_token"] / record["memory_bandwidth_bytes_per_second"]
    assert record["share_of_bandwidth"] == pytest.approx(share)

    result = run_llmcli(*call, "--csv")
    (row,) = csv.DictReader(io.StringIO(result.stdout.decode()))
    assert set(row) == set(record)
    assert row["through_transformers"] == "False"


def test_csv_with_json_is_refused(run_llmcli: RunLlmcli) -> None:
    assert run_llmcli("bench", "--csv", "--json").returncode == 2


def test_a_table_names_the_machine(run_llmcli: RunLlmcli, tiny_gpt2: Path) -> None:
    result = run_llmcli("bench", "-m", str(tiny_gpt2), "--precision", "int8", "-r", "1", "-n", "2")
    text = result.stdout.decode()
    assert "int8" in text
    assert " threads, " in text
    assert "memory read at " in text


def test_a_precision_that_is_not_there_has_no_row(
    run_llmcli: RunLlmcli, tiny_gpt2: Path, avx2: dict[str, str]
) -> None:
    call = ("bench", "-m", str(tiny_gpt2), "-r", "1", "-n", "2", "--json", "--precision")
    result = run_llmcli(*call, "bfloat16", "--precision", "float32", env=avx2)
    assert result.returncode == 0, result.stderr
    (record,) = map(json.loads, result.stdout.splitlines())
    assert record["precision"] == "float32"
    assert b"cannot be measured in bfloat16" in result.stderr
    assert b"left out" in result.stderr

    result = run_llmcli(*call, "bfloat16", env=avx2)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.count(b"cannot be measured in bfloat16") == 1
