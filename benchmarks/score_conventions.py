"""The conventions of `llmcli score` against the programs they are named after.

    python benchmarks/score_conventions.py --model FOLDER --text FILE \
        [--lm-eval PYTHON] [--llama-perplexity PATH --gguf-python PYTHON]

FOLDER is a GPT-2 model as save_pretrained writes it. PYTHON for --lm-eval has lm_eval[hf],
that for --gguf-python has gguf, with which the same weights are written as float32 GGUF. The
Hugging Face guide's loop runs here, over transformers' own loss.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LM_EVAL = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.api.task import PerplexityTask
from lm_eval.models.huggingface import HFLM

text = open(sys.argv[2], encoding="utf-8", newline="").read()
model = HFLM(pretrained=sys.argv[1], device="cpu", dtype="float32", batch_size=1)
instance = Instance("loglikelihood_rolling", {}, (text,), 0)
(likelihood,) = model.loglikelihood_rolling([instance], disable_tqdm=True)
words, size = PerplexityTask.count_words(text), PerplexityTask.count_bytes(text)
print(json.dumps({
    "word_perplexity": weighted_perplexity([(likelihood, words)]),
    "byte_perplexity": weighted_perplexity([(likelihood, size)]),
    "bits_per_byte": bits_per_byte([(likelihood, size)]),
}))
"""

GGUF = """
import json, sys
from pathlib import Path
import gguf, numpy
from safetensors.numpy import load_file

folder, target = Path(sys.argv[1]), sys.argv[2]
config = json.loads((folder / "config.json").read_text())
tokenizer = json.loads((folder / "tokenizer.json").read_text())
weights = {k.removeprefix("transformer."): v.astype(numpy.float32)
           for k, v in load_file(folder / "model.safetensors").items()}
writer = gguf.GGUFWriter(target, "gpt2")
writer.add_context_length(config["n_positions"])
writer.add_embedding_length(config["n_embd"])
writer.add_feed_forward_length(4 * config["n_embd"])
writer.add_block_count(config["n_layer"])
writer.add_head_count(config["n_head"])
writer.add_layer_norm_eps(config["layer_norm_epsilon"])
vocabulary = tokenizer["model"]["vocab"] | {
    each["content"]: each["id"] for each in tokenizer["added_tokens"]}
special = {each["id"] for each in tokenizer["added_tokens"]}
tokens = sorted(vocabulary, key=vocabulary.get)
merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens)
writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
                        for i in range(len(tokens))])
writer.add_token_merges(merges)
writer.add_bos_token_id(config["bos_token_id"])
writer.add_eos_token_id(config["eos_token_id"])
names = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight",
         "ln_f.weight": "output_norm.weight", "ln_f.bias": "output_norm.bias"}
parts = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
         "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
for layer in range(config["n_layer"]):
    for ours, theirs in parts.items():
        for kind in ("weight", "bias"):
            names[f"h.{layer}.{ours}.{kind}"] = f"blk.{layer}.{theirs}.{kind}"
for ours, theirs in names.items():
    tensor = weights[ours]
    if re.search("attn[.]c_|mlp[.]c_", ours) and tensor.ndim == 2:
        tensor = tensor.T  # transformers keeps these as [in, out]
    writer.add_tensor(theirs, numpy.ascontiguousarray(tensor))
writer.add_tensor("output.weight", weights["wte.weight"])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
""".replace("import json, sys", "import json, re, sys")


def ours(model: str, text: str, convention: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "llmcli", "score", "-m", model, "-i", text, "--json"]
    out = subprocess.run(
        [*command, "--convention", convention], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(out.stdout)
    return found


def hf_guide(model: str, text: str, stride: int = 512) -> float:
    """The loop of the guide to perplexity of fixed-length models."""
    import torch
    import transformers

    library: Any = transformers
    module = library.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(model)
    content = Path(text).read_bytes().decode("utf-8")
    ids = tokenizer(content, return_tensors="pt").input_ids
    context, length = module.config.n_positions, ids.shape[1]
    total, counted, previous = 0.0, 0, 0
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = module(ids[:, begin:end], labels=labels).loss
        tokens = int((labels != -100).sum()) - 1
        total, counted, previous = total + float(loss) * tokens, counted + tokens, end
        if end == length:
            break
    return math.exp(total / counted)


def lm_eval(python: str, model: str, text: str) -> dict[str, float]:
    out = subprocess.run(
        [python, "-c", LM_EVAL, model, text], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def llama_perplexity(program: str, python: str, model: str, text: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        gguf = f"{folder}/model.gguf"
        subprocess.run([python, "-c", GGUF, model, gguf], check=True, capture_output=True)
        exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
        out = subprocess.run(
            [program, "-m", gguf, "-f", text, "-c", "512", "-t", "2", *exact],
            capture_output=True,
            text=True,
            check=True,
        )
    return float(re.findall(r"Final estimate: PPL = ([\d.]+)", out.stdout + out.stderr)[0])


def row(name: str, figure: str, own: float, theirs: float) -> None:
    print(f"| {name} | {figure} | {own:.6f} | {theirs:.6f} | {own / theirs - 1:+.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--lm-eval")
    parser.add_argument("--llama-perplexity")
    parser.add_argument("--gguf-python")
    args = parser.parse_args()
    print("| convention | figure | llmcli | the program itself | difference |")
    print("|---|---|---|---|---|")
    mine = ours(args.model, args.text, "default")
    print(f"| default | perplexity | {mine['perplexity']:.6f} | | |")
    mine = ours(args.model, args.text, "hf")
    row("hf", "perplexity", mine["perplexity"], hf_guide(args.model, args.text))
    if args.lm_eval:
        mine = ours(args.model, args.text, "lm-eval")
        for figure, theirs in lm_eval(args.lm_eval, args.model, args.text).items():
            row("lm-eval", figure, mine[figure], theirs)
    if args.llama_perplexity:
        mine = ours(args.model, args.text, "llama.cpp")
        theirs = llama_perplexity(args.llama_perplexity, args.gguf_python, args.model, args.text)
        row("llama.cpp", "perplexity", mine["perplexity"], theirs)


if __name__ == "__main__":
    main()
