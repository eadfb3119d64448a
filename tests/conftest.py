"""What every test stands on: no network but loopback, a clean environment, tiny real models."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from fakehub import FakeHub
from hypothesis import settings

import llmcli

pytest_plugins = [
    "browsers",
    "kernel_levels",
    "tokenizer_files",
    "training_runs",
    "model_folders",
    "servers",
]

# A shell starts what runs in the background with Ctrl-C ignored, and processes inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's doing: a busy one stops any of them for longer than
# hypothesis' 200 ms, which would make a true property fail.
settings.register_profile("llmcli", deadline=None)
settings.load_profile("llmcli")

# Its sitecustomize.py keeps this process, and those that tests start, off the internet.
_GUARD = Path(__file__).parent / "guard"
runpy.run_path(str(_GUARD / "sitecustomize.py"))

# Read by transformers and huggingface_hub when they are imported, so it is set before any test.
_ALWAYS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # On models this small threads only wait for each other, and the more the busier the machine.
    "OMP_NUM_THREADS": "1",
}
# The level of kernels to test at, as it was asked for the whole run.
if "LLMCLI_NATIVE" in os.environ:
    _ALWAYS["LLMCLI_NATIVE"] = os.environ["LLMCLI_NATIVE"]
os.environ.update(_ALWAYS)
_CLEARED_PREFIXES = ("HF_", "HUGGING", "TRANSFORMERS_", "LLMCLI_", "XDG_CACHE", "XDG_CONFIG")
_CLEARED_NAMES = (
    # Each process that a test starts would compile all it imports.
    "PYTHONDONTWRITEBYTECODE",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLUMNS",
    "LINES",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)


def _clean(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_CLEARED_PREFIXES) and name.upper() not in _CLEARED_NAMES
    }
    return {
        **kept,
        **_ALWAYS,
        "HF_HOME": str(home / "hf"),
        "HOME": str(home),
        "TERM": "dumb",
        # Processes that tests start import the code that is tested.
        "PYTHONPATH": os.pathsep.join([str(_GUARD), str(Path(llmcli.__file__).parents[1])]),
    }


# Files whose few tests take long come first, so that several workers end together.
_LONG = {"test_train_launchers.py", "test_train.py", "test_docs.py", "test_bench.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A home of its own for each test, without the variables that steer us or the libraries."""
    environment = _clean(os.environ, tmp_path_factory.mktemp("home"))
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


class RunLlmcli(Protocol):
    """The installed command, in a process of its own."""

    def __call__(
        self,
        *args: str,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``llmcli ARGS``; without ``input``, stdin is the null device."""
        ...


@pytest.fixture
def run_llmcli(clean_environment: dict[str, str], tmp_path: Path) -> RunLlmcli:
    """Run ``llmcli`` as a user would; ``env`` is added to the clean environment."""

    def run(
        *args: str,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "llmcli", *args],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            cwd=cwd or tmp_path,
            check=False,
        )

    return run


@pytest.fixture
def hub(clean_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub of one's own on loopback, which HF_ENDPOINT names here and in subprocesses."""
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


# A few sentences, repeated, so that byte-level BPE has something to merge.
_CORPUS = (
    "Once upon a time there was a little fox who lived in the old wood by the river.",
    "The fox said to the crow: give me the cheese, and I will tell you a story.",
    "In the morning the sun rose over the hills, and the birds began to sing.",
    "There were three brothers; the eldest had 12 sheep, the second 7, the youngest none.",
    "She didn't know what to say, so she said nothing at all, and waited.",
    "def main():\n    print('hello, world')\n    return 0\n",
    "Le café est très chaud; naïve façade, über, 東京, привет, 🦊.",
)


def _train_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer with GPT-2's splitting rule; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def save_tiny_model(folder: Path, architecture: str) -> Path:
    """A random model of 2 layers and width 32, as ``save_pretrained`` writes it."""
    import torch
    import transformers

    size = _train_tokenizer(folder)
    # Id 0 is <|endoftext|>: the trainer puts special tokens first.
    common: dict[str, Any] = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 0}
    if architecture == "gpt2":
        config: Any = transformers.GPT2Config(
            n_layer=2, n_embd=32, n_head=4, n_positions=64, **common
        )
    elif architecture == "llama":
        config = transformers.LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **common,
        )
    else:
        config = transformers.GPTNeoXConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            max_position_embeddings=64,
            **common,
        )
    with torch.random.fork_rng():
        torch.manual_seed(17)
        auto: Any = transformers.AutoModelForCausalLM
        model = auto.from_config(config)
        # Larger than the usual 0.02, so that a tiny random model is not uniform.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.tie_weights()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random GPT-2: 2 layers, width 32, 4 heads, context 64, own tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), "gpt2")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama: 2 layers, width 32, 4 heads over 2 key/value heads."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture(scope="session")
def tiny_neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random GPT-NeoX: 2 layers, width 32, 4 heads, context 64."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), "neox")
