"""The decoder for CUDA, on the processor: the same step, and its recording replayed.

No GPU is needed, and none has run it: what a CUDA graph does is stood in for by a recording of
the step's operations that is repeated literally, on the same memory, with every number that came
from the host baked in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from llmcli.engine import gpt2_static
from llmcli.engine.decoder import Decoder
from llmcli.engine.generation import generate
from llmcli.engine.gpt2 import GPT2Decoder
from llmcli.engine.gpt2_static import CudaCapture, StaticGPT2Decoder, StepFunction
from llmcli.engine.gpt2_weights import GPT2Weights
from llmcli.engine.native.library import library
from llmcli.engine.params import SamplingParams
from llmcli.engine.transcript import Prompt
from llmcli.errors import UnsupportedModel
from llmcli.models.loader import load

VOCAB, CONTEXT = 101, 40


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-4)


def _module(**changes: Any) -> Any:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": CONTEXT, "vocab_size": VOCAB}
    config = transformers.GPT2Config(**{**sizes, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module: Any = transformers.GPT2LMHeadModel(config)
        module.eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        module.tie_weights()
    return module


@pytest.fixture(scope="module", autouse=True)
def short_spans() -> Any:
    """So that the little context has several spans: 8, 16, 32, 40."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2_static, "SHORTEST_SPAN", 8)
        yield


@pytest.fixture(scope="module")
def module() -> Any:
    return _module()


@pytest.fixture(scope="module")
def weights(module: Any) -> GPT2Weights:
    return GPT2Weights.from_module(module)


@torch.inference_mode()
def _reference(module: Any, ids: list[int]) -> Tensor:
    """Logits [time, vocab] by transformers, without a cache."""
    logits: Tensor = module(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def _ids(count: int, *, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (count,), generator=generator).tolist()


class Recorder:
    """Stands in for CUDA's graphs: each step is recorded once, and the recording is replayed."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, step: StepFunction) -> StepFunction:
        self.recorded += 1
        graph: Any = make_fx(step)()
        names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
        assert "aten.scatter_.src" in names
        assert not [name for name in names if "_local_scalar" in name or "nonzero" in name]

        def replay() -> Tensor:
            self.replayed += 1
            logits: Tensor = graph()
            return logits

        return replay


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "relu"},
        {"activation_function": "gelu", "n_inner": 48},
        {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        {"tie_word_embeddings": False, "n_head": 1},
    ],
)
def test_every_position_equals_transformers(changes: dict[str, Any]) -> None:
    module = _module(**changes)
    ids = _ids(CONTEXT)
    expected = _reference(module, ids)
    decoder = StaticGPT2Decoder(GPT2Weights.from_module(module))
    logits = [decoder.prefill([ids[:7]])]
    logits += [decoder.step([token]) for token in ids[7:20]]
    logits += [decoder.extend([ids[20:30]])[0]]
    logits += [decoder.step([token]) for token in ids[30:]]
    assert_close(torch.cat(logits), expected[6:])
    assert decoder.lengths == (CONTEXT,)


def test_prompts_are_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch, module: Any, weights: GPT2Weights
) -> None:
    monkeypatch.setattr(gpt2_static, "PREFILL_TOKENS", 8)
    ids = _ids(37)
    expected = _reference(module, ids)
    decoder = StaticGPT2Decoder(weights)
    assert_close(decoder.prefill([ids])[0], expected[-1])
    decoder.prefill([ids[:5]])
    assert_close(decoder.extend([ids[5:]])[0], expected[5:])


_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "extend", "rollback", "select", "prefill"]),
        st.lists(st.integers(0, 1000), min_size=5, max_size=5),
    ),
    max_size=9,
)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), actions=_ACTIONS)
def test_any_walk_equals_the_processors_decoder(
    weights: GPT2Weights, lengths: list[int], actions: list[tuple[str, list[int]]]
) -> None:
    decoders: list[Decoder] = [GPT2Decoder(weights), StaticGPT2Decoder(weights)]
    rows = [_ids(length, seed=length) for length in lengths]

    def both(act: Callable[[Decoder], Tensor]) -> None:
        expected, actual = (act(decoder) for decoder in decoders)
        assert_close(actual, expected)

    both(lambda d: d.prefill(rows))
    for action, numbers in actions:
        if action == "select":
            chosen = [number % len(rows) for number in numbers[: 1 + numbers[4] % 5]]
            for decoder in decoders:
                decoder.select(chosen)
            rows = [list(rows[row]) for row in chosen]
        elif action == "rollback":
            keep = [1 + n % len(ids) for n, ids in zip(numbers, rows, strict=False)]
            for decoder in decoders:
                decoder.rollback(keep)
            rows = [ids[:length] for ids, length in zip(rows, keep, strict=True)]
        elif action == "prefill":
            rows = [_ids(1 + number % 9, seed=number) for number in numbers[: 1 + numbers[4] % 5]]
            both(lambda d, rows=rows: d.prefill(rows))  # type: ignore[misc]
        else:
            time = 1 if action == "step" else 1 + numbers[0] % 4
            if max(map(len, rows)) + time > CONTEXT:
                continue
            new = [_ids(time, seed=number + i) for i, number in enumerate(numbers[: len(rows)])]
            rows = [ids + more for ids, more in zip(rows, new, strict=True)]
            if action == "step":
                tokens = [token for (token,) in new]
                both(lambda d, tokens=tokens: d.step(tokens))  # type: ignore[misc]
            else:
                both(lambda d, new=new: d.extend(new))  # type: ignore[misc]
        assert [decoder.lengths for decoder in decoders] == [tuple(map(len, rows))] * 2


@pytest.fixture
def recordable(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Weights whose layers are torch's operators, which can be recorded."""
    monkeypatch.setenv("LLMCLI_NATIVE", "0")
    library.cache_clear()
    yield GPT2Weights.from_module(module)
    library.cache_clear()


def test_a_recorded_step_repeated_is_the_step(module: Any, recordable: GPT2Weights) -> None:
    """One recording for each shape; lengths, tokens, rolled-back rows are read from memory."""
    recorder = Recorder()
    decoder = StaticGPT2Decoder(recordable, capture=recorder)
    rows = [_ids(40, seed=seed) for seed in (1, 2, 3)]
    ends = [3, 11, 6]
    decoder.prefill([row[:end] for row, end in zip(rows, ends, strict=True)])

    def steps(count: int) -> None:
        for _ in range(count):
            logits = decoder.step([row[end] for row, end in zip(rows, ends, strict=True)])
            for i, row in enumerate(rows):
                ends[i] += 1
                assert_close(logits[i], _reference(module, row[: ends[i]])[-1])

    steps(6)  # spans 16 and 32, of four rows
    assert (recorder.recorded, recorder.replayed) == (2, 6)
    ends[:] = [2, 9, 12]
    decoder.rollback(ends)
    steps(3)
    assert recorder.recorded == 2, "shapes that were recorded are not recorded again"
    decoder.select([2, 0])
    rows[:], ends[:] = [rows[2], rows[0]], [ends[2], ends[0]]
    steps(2)
    assert recorder.recorded == 4, "two rows, in both spans"
    decoder.select([0, 1, 1, 0, 1])
    rows[:], ends[:] = [rows[i] for i in (0, 1, 1, 0, 1)], [ends[i] for i in (0, 1, 1, 0, 1)]
    before = recorder.recorded
    steps(2)
    assert recorder.recorded == before + 1, "the cache moved, so old recordings are of no use"


def test_the_order_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up on a stream of its own, each waiting for the other; then capture, then replays."""
    told: list[str] = []

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            told.append("replay")

    @contextmanager
    def inside(name: str) -> Iterator[None]:
        told.append(f"{name} begins")
        yield
        told.append(f"{name} ends")

    main = Stream("main")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: inside(stream.name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool: inside(f"capture in {pool}"))
    result = torch.zeros(1)

    def step() -> Tensor:
        told.append("step")
        return result

    replay = CudaCapture()(step)
    assert told == [
        *["side waits for main", "side begins", "step", "step", "step", "side ends"],
        *["main waits for side", "capture in the pool begins", "step"],
        "capture in the pool ends",
    ]
    told.clear()
    assert [replay() is result, replay() is result, told] == [True, True, ["replay", "replay"]]


def test_what_a_step_returned_stays(recordable: GPT2Weights) -> None:
    """Also where each replay writes to the same place."""
    memory: list[Tensor] = []

    def capture(step: StepFunction) -> StepFunction:
        memory.append(step())

        def replay() -> Tensor:
            return memory[0].copy_(step())

        return replay

    decoder = StaticGPT2Decoder(recordable, capture=capture)
    decoder.prefill([[1, 2]])
    with torch.inference_mode():
        first = decoder.step([3])
        kept = first.clone()
        decoder.step([4])
        assert torch.equal(first, kept)


def test_numbers_of_a_failed_text_do_not_stay(weights: GPT2Weights) -> None:
    decoder = StaticGPT2Decoder(weights)
    expected = decoder.prefill([[1, 2, 3]])
    with torch.inference_mode():
        decoder._cache.fill_(float("nan"))
    assert torch.equal(decoder.prefill([[1, 2, 3]]), expected)


def test_generating_is_the_same(weights: GPT2Weights) -> None:
    for params in (
        SamplingParams(temperature=0, max_new_tokens=20),
        SamplingParams(seed=3, max_new_tokens=15, num_return_sequences=3),
        SamplingParams(seed=4, max_new_tokens=60, overflow="slide"),
    ):
        texts = [
            [
                event.token_id
                for event in generate(
                    decoder,
                    Prompt(ids=(5, 6, 7)),
                    params,
                    token_bytes=lambda token: bytes([token]),
                )
            ]
            for decoder in (GPT2Decoder(weights), StaticGPT2Decoder(weights))
        ]
        assert texts[0] == texts[1]


def test_a_cuda_model_has_this_decoder(tiny_gpt2: Path) -> None:
    model = load(str(tiny_gpt2), device="cpu")
    expected = model.decoder().prefill([[5, 6, 7]])
    weights = model._gpt2_weights
    model.device = "cuda"
    assert model._gpt2_weights is weights  # as they would be loaded, but for their place
    decoder = model.decoder()
    assert isinstance(decoder, StaticGPT2Decoder)
    assert_close(decoder.prefill([[5, 6, 7]]), expected)
    model.precision = "int8"
    with pytest.raises(UnsupportedModel, match="on a processor"):
        model.decoder()


def test_no_rows(weights: GPT2Weights) -> None:
    decoder = StaticGPT2Decoder(weights)
    assert decoder.lengths == ()
    decoder.prefill([[1, 2]])
    decoder.select([])
    assert decoder.lengths == ()
