"""What can be known of a model's folder before anything is built of it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.errors import CorruptModel, LlmcliError, UnsafeModel, UnsupportedModel
from llmcli.models.check import check_model_folder, check_tokenizer
from llmcli.models.config import (
    GENERAL_NAMES,
    HEAD_KEYS,
    LAYER_KEYS,
    POSITION_KEYS,
    WIDTH_KEYS,
    context_size,
    read_generation_config,
)
from llmcli.models.headers import read_header
from llmcli.tokenization.tokenizer import Tokenizer


@pytest.fixture
def folder(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 to spoil."""
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_weights(path: Path, header: object, body: bytes) -> None:
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_llama", "tiny_neox"])
def test_whole_models_pass(fixture: str, request: pytest.FixtureRequest) -> None:
    import safetensors

    folder: Path = request.getfixturevalue(fixture)
    found = check_model_folder(folder)
    with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {name: info.shape for name, info in found.tensors.items()} == shapes
    assert not found.pickled
    assert found.parameters == sum(info.size for info in found.tensors.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_layer", -1),
        ("n_layer", 10**9),
        ("n_layer", 100_000),
        ("n_layer", 3),
        ("n_layer", "2"),
        ("n_layer", 2.0),
        ("n_layer", True),
        ("n_layer", [2, -1]),
        ("n_embd", 10**9),
        ("n_embd", 64),
        ("n_head", 0),
        ("n_head", 5),
        ("n_inner", 10**9),
        ("n_inner", 100),
        ("n_positions", 10**9),
        ("n_positions", 65),
        ("vocab_size", 10**9),
        ("vocab_size", -1),
        ("vocab_size", 7),
        ("num_labels", 2**31),
        ("num_labels", 10**30),
        ("num_labels", float("inf")),
        ("num_experts", 10**9),
        ("num_experts", 8),
        ("conv_dim", 10**9),
        ("embd_pdrop", 2),
        ("layer_norm_epsilon", "small"),
        ("layer_norm_epsilon", -1e-5),
        ("eos_token_id", "end"),
        ("tie_word_embeddings", 1),
        ("activation_function", {"a": 1}),
        ("dtype", "../x"),
        ("text_config", 5),
        ("rope_scaling", []),
        ("architectures", "GPT2LMHeadModel"),
        ("architectures", [3]),
        ("eos_token_id", [[0]]),
        ("pad_token_id", 2**40),
        ("scale_attn_by_inverse_layer_idx", "no"),
        ("id2label", ["a"]),
    ],
)
def test_fault_32_51_the_field_is_named(folder: Path, field: str, value: object) -> None:
    change(folder, **{field: value})
    begin = time.perf_counter()
    with pytest.raises(CorruptModel, match=field):
        check_model_folder(folder)
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"\xff\xfe", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b'{"model_type": NaN}', "model_type"),
        (
            b'{"model_type": "gpt2", ' + b", ".join(b'"k%d": 1' % n for n in range(30_000)) + b"}",
            "fields",
        ),
        (b'{"n": ' + b"9" * 5000 + b"}", "no valid JSON"),
        (b"{}", "model_type"),
        (b'{"model_type": 3}', "model_type"),
        (b'{"model_type": "../../x"}', "model_type"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b" " * (9 * 2**20), "bytes long"),
    ],
)
def test_fault_32_what_is_no_config(folder: Path, content: bytes, words: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CorruptModel, match=words):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", True),
        ("top_k", "many"),
        ("temperature", "hot"),
        ("temperature", 10**30),
        ("do_sample", 1),
        ("eos_token_id", [[0]]),
        ("eos_token_id", True),
        ("suppress_tokens", 5),
        ("suppress_tokens", [None]),
        ("bad_words_ids", [5]),
        ("stop_strings", [5]),
        ("max_new_tokens", 2.5),
        ("num_beams", 0),
        ("early_stopping", "always"),
    ],
)
def test_fault_32_generation_config_is_checked_too(folder: Path, field: str, value: object) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({field: value}))
    with pytest.raises(CorruptModel, match=rf"generation_config\.json.*{field} is "):
        read_generation_config(path)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "added_tokens.json"),
    ],
)
def test_files_of_absurd_size_are_not_read(folder: Path, name: str) -> None:
    with open(folder / name, "wb") as file:
        file.truncate(300 * 2**20)

    def read_all() -> None:
        check_model_folder(folder)
        read_generation_config(folder / "generation_config.json")
        Tokenizer.from_folder(folder)

    begin = time.process_time()
    with pytest.raises(CorruptModel, match=rf"{name}.* bytes long"):
        read_all()
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("kind", ["doge", "hrm_text", "moshi"])
def test_kinds_whose_sizes_say_something_else_pass(
    tiny_gpt2: Path, tmp_path: Path, kind: str
) -> None:
    """Experts, layers and widths that their tensors do not show are no contradiction."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_experts": 8} if kind == "doge" else {}
    config: Any = AutoConfig.for_model(
        kind, vocab_size=400, intermediate_size=64, **sizes, **experts
    )
    of: Any = AutoModelForCausalLM.from_config
    of(config).save_pretrained(tmp_path)
    shutil.copy(tiny_gpt2 / "tokenizer.json", tmp_path)
    check_model_folder(tmp_path)


def test_infinity_and_nan_are_read_as_python_reads_them(folder: Path) -> None:
    change(folder, time_step_limit=[0.0, float("inf")], somewhere=float("nan"))
    assert check_model_folder(folder).config["time_step_limit"][1] == float("inf")


def test_general_names_are_the_class_s_own() -> None:
    """The table of names is transformers' own, for the fields that are read here."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    read = {*LAYER_KEYS, *WIDTH_KEYS, *HEAD_KEYS, *POSITION_KEYS} - {"model_max_length"}
    theirs = {}
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        names = getattr(CONFIG_MAPPING[kind], "attribute_map", None) or {}
        if kept := {a: b for a, b in names.items() if a in read and b in read}:
            theirs[kind] = kept
    ours = {kind: dict(names) for kind, names in GENERAL_NAMES.items()}
    assert {kind: theirs.get(kind) for kind in ours} == ours
    encoders = {kind for kind in theirs if "encoder_layers" in theirs[kind].values()}
    halves = {"bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart"}
    rest = theirs.keys() - ours.keys() - encoders - halves
    assert rest <= {"mvp", "pegasus", "plbart", "trocr", "whisper", "xlm"}


def test_general_names_go_before_the_class_s_own(folder: Path) -> None:
    change(folder, hidden_size=32, n_embd=7, num_hidden_layers=2, n_layer=9)
    config = check_model_folder(folder).config
    assert (config["n_embd"], config["n_layer"]) == (32, 2)
    assert "hidden_size" not in config
    change(folder, hidden_size=64)
    with pytest.raises(CorruptModel, match="n_embd 64"):
        check_model_folder(folder)


@pytest.mark.parametrize("key", POSITION_KEYS)
def test_the_context_by_any_of_its_names(key: str) -> None:
    assert context_size({"model_type": "x", key: 77}) == 77
    assert context_size({"model_type": "x", "text_config": {key: 78}}) == 78
    assert context_size({"model_type": "x"}) is None


def test_fault_32_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CorruptModel, match=r"config\.json"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attn_implementation", "org/kernel"),
        ("_attn_implementation", "kernels-community/flash-attn"),
        ("_attn_implementation_internal", "org/kernel:fn"),
        ("text_config", {"attn_implementation": "org/kernel"}),
        ("kernel_config", {"kernel_mapping": {"RMSNorm": "org/x:Layer"}}),
        ("use_kernels", True),
        ("transformers_weights", "../outside.safetensors"),
        ("auto_map", {"AutoModelForCausalLM": "modeling.Model"}),
    ],
)
def test_fault_36_50_nothing_from_elsewhere(folder: Path, field: str, value: object) -> None:
    change(folder, **{field: value})
    with pytest.raises(UnsafeModel):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantization_config", {"quant_method": "gptq"}),
        ("attn_implementation", "flash_attention_2"),
    ],
)
def test_fault_50_what_needs_more_than_transformers(
    folder: Path, field: str, value: object
) -> None:
    change(folder, **{field: value})
    with pytest.raises(UnsupportedModel):
        check_model_folder(folder)


def test_trusted_code_is_let_through(folder: Path) -> None:
    change(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    check_model_folder(folder, trust_remote_code=True)


def test_adapters_are_no_models(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(UnsupportedModel, match="adapter"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\x00\x00", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<html>nothing here</html>", "text, not weights"),
        (struct.pack("<Q", 2**60) + b"{}", "cut short"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 2) + b"{}", "holds no weights"),
        (struct.pack("<Q", 2) + b"{]", "no JSON"),
    ],
)
def test_fault_30_what_is_no_safetensors(folder: Path, content: bytes, words: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptModel, match=words):
        check_model_folder(folder)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_fault_30_cut_short(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 15]},
        {"dtype": "F32", "shape": [2, -2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [10**12, 10**12], "data_offsets": [0, 16]},
        {"dtype": "F99", "shape": [2, 2], "data_offsets": [0, 16]},
        {"dtype": ["F32"], "shape": [2, 2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 0]},
        {"dtype": "F32", "shape": [2, 2]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16, 32]},
        [],
    ],
)
def test_fault_30_headers_that_contradict_themselves(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, {"w": entry}, bytes(16))
    with pytest.raises(CorruptModel, match=r'"w"'):
        read_header(path)


@pytest.mark.parametrize("places", [([0, 16], [8, 24]), ([0, 16], [20, 36]), ([4, 20],)])
def test_fault_30_gaps_and_overlaps(tmp_path: Path, places: tuple[list[int], ...]) -> None:
    path = tmp_path / "model.safetensors"
    header = {
        f"w{number}": {"dtype": "F32", "shape": [2, 2], "data_offsets": place}
        for number, place in enumerate(places)
    }
    write_weights(path, header, bytes(places[-1][1]))
    with pytest.raises(CorruptModel, match="gap or an overlap"):
        read_header(path)


@pytest.mark.parametrize("dtype", ["I32", "U32", "I16", "U16", "I8", "U8", "I64", "BOOL"])
def test_weights_are_no_integers(folder: Path, dtype: str) -> None:
    path = folder / "model.safetensors"
    header, body = header_of(path)
    entry = header["transformer.h.0.ln_1.weight"]
    size = {"8": 1, "6": 2, "2": 4, "4": 8, "L": 1}[dtype[-1]]
    entry.update(dtype=dtype, shape=[128 // size])
    write_weights(path, header, body)
    with pytest.raises(CorruptModel, match=rf"ln_1\.weight.*type {dtype}"):
        check_model_folder(folder)


def test_tables_may_be_of_any_type(folder: Path) -> None:
    path = folder / "model.safetensors"
    header, body = header_of(path)
    end = len(body)
    header["transformer.h.0.attn.bias"] = {
        "dtype": "BOOL",
        "shape": [1, 1, 2, 2],
        "data_offsets": [end, end + 4],
    }
    write_weights(path, header, body + bytes(4))
    check_model_folder(folder)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("_orig_mod.", r"torch\.compile"),
        ("module.", "several processes"),
        ("module._orig_mod.", r"torch\.compile"),
    ],
)
def test_names_of_wrappers_are_recognised(folder: Path, prefix: str, words: str) -> None:
    path = folder / "model.safetensors"
    header, body = header_of(path)
    renamed = {n if n == "__metadata__" else prefix + n: entry for n, entry in header.items()}
    write_weights(path, renamed, body)
    with pytest.raises(CorruptModel, match=words) as caught:
        check_model_folder(folder)
    assert "models repair" in caught.value.cure


def test_shards_without_their_index(folder: Path) -> None:
    split(folder).unlink()
    with pytest.raises(CorruptModel, match=r"shards.*no model\.safetensors\.index\.json"):
        check_model_folder(folder)


def test_an_index_without_metadata(folder: Path) -> None:
    index = split(folder)
    index.write_text(json.dumps({"weight_map": json.loads(index.read_bytes())["weight_map"]}))
    with pytest.raises(CorruptModel, match="metadata"):
        check_model_folder(folder)


def test_fault_37_an_index_that_leaves_the_folder(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
    names = header_of(folder.parent / "outside.safetensors")[0]
    places = {name: "../outside.safetensors" for name in names if name != "__metadata__"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CorruptModel, match=r"\.\./outside\.safetensors"):
        check_model_folder(folder)


def split(folder: Path) -> Path:
    """Make two shards of a model, as save_pretrained would; returns the index."""
    header, body = header_of(folder / "model.safetensors")
    header.pop("__metadata__", None)
    names = sorted(header)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard, content = {}, b""
        for name in part:
            first, last = header[name]["data_offsets"]
            shard[name] = {
                **header[name],
                "data_offsets": [len(content), len(content) + last - first],
            }
            content += body[first:last]
            places[name] = f"model-0000{number}-of-00002.safetensors"
        write_weights(folder / f"model-0000{number}-of-00002.safetensors", shard, content)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards(folder: Path) -> None:
    whole = check_model_folder(folder).tensors
    split(folder)
    found = check_model_folder(folder)
    assert found.tensors == whole
    assert [path.name[6:11] for path in found.weights] == ["00001", "00002"]


def test_fault_31_a_shard_is_missing(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptModel, match="lacks"):
        check_model_folder(folder)


def test_fault_31_an_index_that_promises_too_much(folder: Path) -> None:
    index = split(folder)
    content = json.loads(index.read_bytes())
    content["weight_map"]["extra.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptModel, match=r"extra\.weight"):
        check_model_folder(folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_fault_30_a_broken_index(folder: Path, content: str) -> None:
    split(folder).write_text(content)
    with pytest.raises(CorruptModel, match="index"):
        check_model_folder(folder)


def test_fault_35_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UnsafeModel, match="--allow-pickle"):
        check_model_folder(folder)
    found = check_model_folder(folder, allow_pickle=True)
    assert found.pickled
    assert found.parameters is None


def test_no_weights_and_other_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CorruptModel, match=r"no model\.safetensors"):
        check_model_folder(folder)
    (folder / "model.gguf").touch()
    with pytest.raises(UnsupportedModel, match=r"model\.gguf"):
        check_model_folder(folder)


def test_fault_33_tokenizers(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    check_tokenizer(tokenizer, vocab_size=tokenizer.vocab_size, folder=folder)
    with pytest.raises(CorruptModel, match="do not belong together"):
        check_tokenizer(tokenizer, vocab_size=tokenizer.vocab_size - 1, folder=folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CorruptModel, match=r"tokenizer\.json"):
        check_model_folder(folder)


def test_names_in_messages_drive_no_terminal(folder: Path) -> None:
    write_weights(folder / "model.safetensors", {"a\x1b[2J": []}, b"")
    with pytest.raises(CorruptModel) as caught:
        check_model_folder(folder)
    assert "\x1b" not in str(caught.value)


def test_looking_imports_nothing_heavy(tiny_gpt2: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llmcli.models.check import *; "
        "check_model_folder(Path(sys.argv[1])); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_gpt2], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub", "httpx2"}
    assert not heavy & set(done.stdout.split())


FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4)
    ),
    max_leaves=12,
)


def refusal(action: Callable[[], object]) -> str:
    """The words of our own error, or none; any other error is a failure."""
    try:
        action()
    except LlmcliError as error:
        return str(error)
    return ""


@FUZZ
@given(data=st.data())
def test_fault_32_any_config_passes_or_is_refused(folder: Path, data: st.DataObject) -> None:
    path = folder / "config.json"
    original = path.read_bytes()
    config = json.loads(original)
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=3, unique=True)):
        config[key] = data.draw(JSON)
    path.write_text(json.dumps(config))
    words = refusal(lambda: check_model_folder(folder))
    path.write_bytes(original)
    assert "\n" not in words


@FUZZ
@given(
    header=JSON | st.dictionaries(st.text(max_size=8), JSON, max_size=3),
    body=st.binary(max_size=64),
)
def test_fault_30_any_header_is_refused_in_words(
    tmp_path: Path, header: object, body: bytes
) -> None:
    path = tmp_path / "fuzzed.safetensors"
    write_weights(path, header, body)
    assert "\n" not in refusal(lambda: read_header(path))


@FUZZ
@given(position=st.integers(0, 2**16), value=st.integers(0, 255))
def test_fault_30_any_flipped_byte_of_a_header(folder: Path, position: int, value: int) -> None:
    path = folder / "model.safetensors"
    original = path.read_bytes()
    length = 8 + struct.unpack("<Q", original[:8])[0]
    position %= length
    path.write_bytes(original[:position] + bytes([value]) + original[position + 1 :])
    words = refusal(lambda: check_model_folder(folder))
    path.write_bytes(original)
    assert "\n" not in words
