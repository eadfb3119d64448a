"""What ``--json`` prints is what docs/schemas says, and that is what the code's types say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from record_schemas import RECORDS, schema
from schemas import FOLDER, kind_of

from llmcli.cli.main import cli

UPDATE = "LLMCLI_UPDATE_DOCS" in os.environ


def test_the_schemas_are_those_of_the_code() -> None:
    """LLMCLI_UPDATE_DOCS=1 writes them."""
    written = {f"{name}.json": json.dumps(schema(name), indent=2) + "\n" for name in RECORDS}
    if UPDATE:
        FOLDER.mkdir(exist_ok=True)
        for name, text in written.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
    there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    assert there == written


TEXT = "Once upon a time there was a fox.\n\nThe fox was old and the king was not.\n" * 12
FILES = {
    "a.txt": TEXT,
    "b.txt": "The king said no.\n",
    "prompts.jsonl": '{"id": "x", "prompt": "Once", "more": 1}\n{"id": "y", "prompt": ""}\n',
    "texts.jsonl": '{"text": "Once upon a time"}\n{"text": ""}\n',
    "ranks.jsonl": '{"prompt": "Once", "choices": ["a", "b"]}\n{"prompt": "Once", "choices": []}\n',
    "pairs.jsonl": '{"sentence_good": "The fox ran.", "sentence_bad": "Ran fox.", "of": "a"}\n',
    "labels.jsonl": "".join(
        json.dumps({"input": f"The {noun} was {word}.", "label": label}) + "\n"
        for noun in ("fox", "king", "bear", "day", "tree", "house", "night", "bird", "sea", "cat")
        for word, label in (("good", "good"), ("bad", "bad"))
    ),
}
# Each command with --json: what it prints fits, and all kinds that are named come.
CALLS = [
    ("generate --seed 1 -n 3 Once", {"Continuation"}),
    ("generate --seed 1 -n 3 --logprobs 2 --num-return-sequences 2 Once", {"Continuation"}),
    ("generate -n 3 --choice a --choice b Once", {"Continuation"}),
    ("generate -n 3 --jsonl -i prompts.jsonl", {"ContinuationRow", "Error"}),
    ("chat -n 3 --template plain Hello", {"Answer"}),
    ("next -n 2 Once", {"Next"}),
    ("next -n 2 --jsonl -i prompts.jsonl", {"NextRow", "Error"}),
    ("encode Once", {"Encoding"}),
    ("encode --jsonl --field text -i texts.jsonl", {"EncodingRow"}),
    ("encode --lines -i a.txt", {"Encoding"}),
    ("encode -i a.txt -i b.txt", {"EncodedFile"}),
    ("encode --count -i a.txt -i b.txt", {"Count"}),
    ("encode --max-tokens 2 -i a.txt", {"Cut"}),
    ("encode --split 20 -i a.txt", {"Part"}),
    ("encode --split 20 -i a.txt -o part-{index}.txt", {"Part"}),
    ("encode --fits 20 Once", {"Fit"}),
    ("encode --compare fable Once", {"Comparison"}),
    ("encode -i a.txt --format npy -o ids.npy", {"Ids"}),
    ("decode 333 1", {"Text"}),
    ("score -i a.txt", {"Score"}),
    ("score --prompt Once -i b.txt", {"Score"}),
    ("score --tokens --top-logprobs 2 -i b.txt", {"Token", "Total"}),
    ("score --by line -i a.txt", {"Part", "Total"}),
    ("score --by file -i a.txt -i b.txt", {"Part", "Total"}),
    ("score --jsonl -i texts.jsonl", {"Row", "Error", "Total"}),
    ("score --vs fable -i b.txt", {"Versus"}),
    ("rank --prompt Once a b", {"Ranking"}),
    ("rank --jsonl -i ranks.jsonl", {"RankingRow", "Error"}),
    ("classify --labels good,bad Good", {"Classification"}),
    ("classify --labels good,bad --jsonl -i labels.jsonl", {"ClassificationRow"}),
    ("pairs pairs.jsonl --by of", {"Counted"}),
    ("calibrate -i a.txt --save temperature.json", {"Tokens"}),
    ("score --calibration temperature.json -i b.txt", {"Score"}),
    ("calibrate --labels labels.jsonl --save labels.json", {"Labels"}),
    ("classify --calibration labels.json Good", {"Classification"}),
    ("calibrate --generations --samples 4 --length 4 -i a.txt", {"Generations"}),
    ("inspect Once upon", {"Inspection"}),
    ("inspect --attention --lens --attribute --head-off 0.1 -i b.txt", {"Inspection"}),
    ("inspect --neighbours Once", {"Inspection"}),
    ("models list", {"ModelEntry"}),
    ("models show fable", {"ModelDescription"}),
    ("models pull fable", {"ModelFetched"}),
    ("models path fable", {"ModelPath"}),
    ("templates list", {"TemplateEntry"}),
    ("templates show summarise", {"Template"}),
    ("templates show sentiment", {"Template"}),
    ("templates path", {"Place"}),
    ("config show generate", {"Setting"}),
    ("config path", {"Place"}),
    ("log path", {"LogPlace"}),
    ("log list", {"Logged"}),
    ("log search Once", {"Logged"}),
    ("log show 1", {"Logged"}),
    ("log export", {"Logged"}),
    ("log replay 1", {"Replayed"}),
]


def test_what_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMCLI_MODEL", "fable")
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    run = CliRunner().invoke
    assert run(cli, ["log", "on"]).exit_code == 0
    assert run(cli, ["generate", "-q", "--seed", "1", "-n", "3", "Once"]).exit_code == 0
    seen: set[str] = set()
    for call, kinds in CALLS:
        result = run(cli, [*call.split(), "--json"])
        words = [word for word in call.split()[:2] if not word.startswith("-")]
        command = "-".join(words) if "-".join(words) in RECORDS else words[0]
        found = {kind_of(command, line) for line in result.stdout.splitlines()}
        assert found == kinds, (call, result.stderr)
        seen.add(command)
    # The others' own tests hold these.
    elsewhere = {"fill", "train", "bench", "serve", "models-remove", "models-repair", "replay"}
    assert seen | elsewhere == set(RECORDS)
