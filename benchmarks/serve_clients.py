"""The server through clients that others wrote, and whether they get the commands' figures.

    python benchmarks/serve_clients.py --tools VENV/bin

Another environment (VENV) holds what is to be tried: pip install llm schemathesis lm-eval[api]
guidellm llm-comply. What is not there is said to be missing and left out. The server is started
here, with the bundled model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmcli.api import load
from llmcli.hub.reference import bundled_models
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import sampling_params
from llmcli.tasks.rank import RankRequest, rank_choices

QUESTIONS = [
    ("The fox said to the crow:", [" give me the cheese.", " the sea is blue.", " go away."]),
    ("Once upon a time there was", [" a king who had three sons.", " no more time."]),
    ("The old woman went to the", [" forest", " market to buy bread", " king, and said"]),
]
TEXTS = [
    "Once upon a time there was a king who had three sons, and the youngest was called Hans. " * 3,
    "The fox said to the crow: give me the cheese.",
]
STARTS = ["Once upon a time", "The king"]
TASK = """task: {name}
output_type: {kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{text}"
doc_to_target: "{target}"
target_delimiter: ""
{more}
"""


@contextlib.contextmanager
def serving(*options: str) -> Iterator[str]:
    """A server of the bundled model; its URL."""
    command = [sys.executable, "-m", "llmcli", "serve", "-m", "fable", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.wait(60)


def lm_eval(tools: Path, url: str, folder: Path) -> str:
    """lm-evaluation-harness: likelihoods, rolling ones and texts are the commands' own."""
    model = load("fable", threads=1)
    rows: dict[str, list[dict[str, Any]]] = {
        "mc": [{"q": q, "choices": c, "gold": 0} for q, c in QUESTIONS],
        "roll": [{"text": text} for text in TEXTS],
        "gen": [{"text": text} for text in STARTS],
    }
    parts = {
        "mc": ("multiple_choice", "{{q}}", "{{gold}}", "doc_to_choice: choices"),
        "roll": ("loglikelihood_rolling", "", "{{text}}", "metric_list: [{metric: bits_per_byte}]"),
        "gen": (
            "generate_until",
            "{{text}}",
            "x",
            'generation_kwargs: {until: ["."], max_gen_toks: 24, temperature: 0}\n'
            "metric_list: [{metric: exact_match}]",
        ),
    }
    for name, (kind, text, target, more) in parts.items():
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows[name])))
        task = TASK.format(name=name, kind=kind, data=data, text=text, target=target, more=more)
        (folder / f"{name}.yaml").write_text(task)
    base = f"model=fable,base_url={url}/v1/completions,num_concurrent=4,max_length=1024"
    run(
        tools / "lm_eval",
        *("--model", "local-completions", "--tasks", "mc,roll,gen", "--include_path", folder),
        *("--model_args", f"{base},tokenizer={bundled_models()['fable']},tokenized_requests=True"),
        *("--output_path", folder / "out", "--log_samples"),
        cwd=folder,
    )

    def samples(name: str) -> list[dict[str, Any]]:
        [path] = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        found = [json.loads(line) for line in path.read_text().splitlines()]
        return sorted(found, key=lambda each: int(each["doc_id"]))

    worst = 0.0
    for (question, choices), sample in zip(QUESTIONS, samples("mc"), strict=True):
        request = RankRequest(prompt=question, choices=tuple(choices), delimiter="")
        ours = {each.index: each.logprob for each in rank_choices(model, request).ranked}
        for index, response in enumerate(sample["resps"]):
            worst = max(worst, abs(float(response[0][0]) - ours[index]))
    for text, sample in zip(TEXTS, samples("roll"), strict=True):
        command = [sys.executable, "-m", "llmcli", "score", "-m", "fable", "--json", text]
        told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        response = sample["resps"][0]
        value = response[0] if isinstance(response, list) else response
        worst = max(worst, abs(float(value) + json.loads(told)["nll"]))
    for text, sample in zip(STARTS, samples("gen"), strict=True):
        settings = {"temperature": 0.0, "max_new_tokens": 24, "stop": (".",)}
        events = continue_text(model, text, sampling_params(model, settings)).events
        assert sample["resps"][0][0] == "".join(event.text for event in events)
    assert worst < 1e-4, worst
    return f"likelihoods differ by {worst:.1e} at most; texts are equal"


def simonw_llm(tools: Path, url: str, folder: Path) -> str:
    """Simon Willison's llm: the same text, streamed and whole."""
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: fable\n  model_name: fable\n  api_base: {url}/v1\n  completion: true\n"
    )
    settings = {"seed": 1, "max_new_tokens": 24}
    model = load("fable", threads=1)
    events = continue_text(model, STARTS[0], sampling_params(model, settings)).events
    expected = "".join(event.text for event in events)
    for stream in ([], ["--no-stream"]):
        told = run(
            tools / "llm",
            *("-m", "fable", *stream, "-o", "seed", "1", "-o", "max_tokens", "24", STARTS[0]),
            LLM_USER_PATH=str(folder),
        )
        assert told.rstrip("\n") == expected, told
    return "equal texts, streamed and whole"


def schemathesis(tools: Path, url: str, folder: Path) -> str:
    """Requests drawn from the description: no answer of 500 and above, all as described."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    checks += ",response_schema_conformance,unsupported_method"
    told = run(
        tools / "schemathesis",
        *("run", f"{url}/openapi.json", "--max-examples", "30", "--checks", checks),
        cwd=folder,
    )
    return next(line.strip() for line in told.splitlines() if "generated" in line)


def llm_comply(tools: Path, url: str, folder: Path) -> str:
    """Compliance with the chat API; tools and images are refused, so those tests fail."""
    told = run(
        tools / "llm-comply",
        *("-u", f"{url}/v1", "-k", "none", "-m", "fable", "--format", "openai-chat"),
        check=False,
    )
    failed = [line.strip() for line in told.splitlines() if line.strip().startswith("✗")]
    summary = next(line for line in told.splitlines() if "passed" in line).strip("─ ")
    return f"{summary}; {failed}"


def guidellm(tools: Path, url: str, folder: Path) -> str:
    """Load by guidellm: eight streams for some seconds, and no request that failed."""
    told = run(
        *(tools / "guidellm", "run", "--profile", "kind=concurrent,streams=8"),
        *("--backend", f"kind=openai_http,target={url},model=fable,request_format=/v1/completions"),
        *("--tokenizer", f"kind=huggingface_auto,model={bundled_models()['fable']}"),
        *("--constraint", "kind=max_duration,seconds=10"),
        *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=64"),
        "--disable-console-interactive",
        cwd=folder,
    )
    assert "generated 1 benchmark" in told
    [report] = json.loads((folder / "benchmarks.json").read_text())["benchmarks"]
    requests = report["metrics"]["request_totals"]
    assert not requests["errored"], requests
    return f"{requests}"


def run(*command: Any, check: bool = True, cwd: Path | None = None, **variables: str) -> str:
    """A command's output."""
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "none",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        check=False,
    )
    if check and done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


CLIENTS = {
    "lm_eval": lm_eval,
    "llm": simonw_llm,
    "schemathesis": schemathesis,
    "llm-comply": llm_comply,
    "guidellm": guidellm,
}


def main() -> None:
    """Try all clients that are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(CLIENTS))
    arguments = parser.parse_args()
    with serving("--template", "plain") as url:
        for name in arguments.only:
            if not (arguments.tools / name).exists():
                print(f"{name}: not installed in {arguments.tools}, left out")
                continue
            with tempfile.TemporaryDirectory() as folder:
                print(f"{name}: {CLIENTS[name](arguments.tools, url, Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
