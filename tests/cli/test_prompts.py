"""What the model reads: templates, worked examples, conversations and gaps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tokenizer_files import gpt2_style, llama2_style
from tokenizers import AddedToken

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.errors import UnsupportedModel
from llmcli.tasks.chat import Conversation, Message, Reply, template_for
from llmcli.tasks.prompts import sampling_params
from llmcli.tokenization import infill
from llmcli.tokenization.infill import infill_of
from llmcli.tokenization.tokenizer import Tokenizer


def run(*args: str, input: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args), input=input)
    assert result.exit_code == code, result.output
    return result


def test_a_template_and_its_options(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"prompt: 'A $kind fox: $input'\nmodel: {tiny_gpt2}\n"
        "options: {temperature: 0, max_new_tokens: 7, stop: ['zzz']}\ndefaults: {kind: red}\n"
    )
    asked = ["generate", "--json", "-t", str(file), "Once"]
    record = json.loads(run(*asked).stdout)
    plain = ["generate", "--json", "-m", str(tiny_gpt2), "--greedy", "-n", "7", "--stop", "zzz"]
    assert record["text"] == json.loads(run(*plain, "A red fox: Once").stdout)["text"]
    assert record["sampling"]["stop"] == ["zzz"]
    # What the call says stands before what the template says.
    record = json.loads(run(*asked, "-n", "2", "-p", "kind=grey", "--temperature", "1").stdout)
    assert record["completion_tokens"] == 2
    assert record["sampling"]["temperature"] == 1
    rows = '{"prompt": "a", "kind": "old"}\n{"prompt": "b"}\n'
    told = run("generate", "--jsonl", "--echo", "-t", str(file), input=rows).stdout.splitlines()
    assert json.loads(told[0])["text"].startswith("A old fox: a")
    assert json.loads(told[1])["text"].startswith("A red fox: b")


def test_shots_end_at_a_blank_line(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "shots.jsonl"
    file.write_text('{"prompt": "1", "completion": "one"}\n')
    asked = ["generate", "-m", str(tiny_gpt2), "--shots", str(file), "--json", "--echo", "-n", "3"]
    record = json.loads(run(*asked, "2").stdout)
    assert record["text"].startswith("1 one\n\n2")
    assert record["sampling"]["stop"] == ["\n\n"]


def test_templates_are_listed_shown_and_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        json.loads(line)["name"] for line in run("templates", "list", "--json").stdout.splitlines()
    ]
    assert "summarise" in names
    assert "TL;DR" in run("templates", "show", "summarise").stdout
    folder = Path(run("templates", "path").stdout.strip())
    script = tmp_path / "editor"
    script.write_text("#!/bin/sh\nprintf 'prompt: mine $input\\n' > \"$1\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(script))
    run("templates", "edit", "mine")
    assert (folder / "mine.yaml").read_text() == "prompt: mine $input\n"
    assert json.loads(run("templates", "show", "mine", "--json").stdout)["places"] == ["input"]
    assert "yours" in run("templates", "list").stdout
    script.write_text("#!/bin/sh\nprintf 'tools: [a]\\n' > \"$1\"\n")
    result = run("templates", "edit", "other", code=2)
    assert "'tools', which is not supported" in result.stderr
    assert (folder / "other.yaml").exists()  # what was typed is not lost


@pytest.fixture(scope="module")
def talker(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talker") / "model"
    shutil.copytree(tiny_gpt2, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    return folder


def test_messages_are_answered_as_chat_answers(talker: Path, tmp_path: Path) -> None:
    messages = [Message("system", "Be brief."), Message("user", "the fox")]
    model = load(str(talker))
    settings = {"temperature": 0.0, "max_new_tokens": 6}
    talk = Conversation(
        model=model,
        template=template_for(model, None),
        params=sampling_params(model, settings),
        messages=list(messages),
    )
    reply = Reply()
    list(talk.answer(reply))
    asked = ["generate", "-m", str(talker), "--greedy", "-n", "6", "--json"]
    file = tmp_path / "messages.json"
    for text in (
        json.dumps([each.to_dict() for each in messages]),
        "".join(json.dumps(each.to_dict()) + "\n" for each in messages),
    ):
        file.write_text(text)
        record = json.loads(run(*asked, "--messages", str(file)).stdout)
        assert record["text"] == reply.text
        assert record["prompt_tokens"] == reply.prompt_tokens
    # A template's system message makes a conversation, too.
    template = tmp_path / "brief.yaml"
    template.write_text("system: Be brief.\nprompt: the $input\n")
    assert json.loads(run(*asked, "-t", str(template), "fox").stdout)["text"] == reply.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"role": "user"}', "has no role and content"),
        ('"text"', "has no role and content"),
        ("[]", "holds no messages"),
        ('[{"role": "assistant", "content": "a"}]', "nothing to answer"),
        ('[{"role": "user", "content": ""}]', "is empty"),
        ("nothing", "no JSON messages"),
    ],
)
def test_messages_that_cannot_be_answered(
    talker: Path, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "messages.json"
    file.write_text(text)
    result = run("generate", "-m", str(talker), "--messages", str(file), code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_excludes_each_other(talker: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text('[{"role": "user", "content": "a"}]')
    for args, message in (
        (["--messages", str(file), "prompt"], "--messages does not go with a prompt"),
        (["--messages", str(file), "--suffix", str(file)], "--messages does not go with --suffix"),
        (["--suffix", str(file), "--jsonl"], "--suffix does not go with --jsonl"),
        (["--messages", str(file), "--overflow", "left"], "does not go with messages"),
    ):
        assert message in run("generate", "-m", str(talker), *args, code=2).stderr
    none = run("generate", "-m", str(tiny_gpt2), "--messages", str(file), code=2)
    assert "has no chat template" in none.stderr


@pytest.mark.parametrize("family", infill._FAMILIES, ids=lambda family: family.prefix)
def test_a_gap_is_spelt_as_the_family_does(family: infill._Spelling, tmp_path: Path) -> None:
    backend = gpt2_style()
    names = [each for each in (family.prefix, family.suffix, family.middle, *family.ends) if each]
    backend.add_special_tokens([AddedToken(each, special=True) for each in names])
    tokenizer = Tokenizer(backend, tmp_path)
    found = infill_of(tokenizer, "once", " fox", name="it")
    spelt = b"".join(map(tokenizer.token_bytes, found.ids)).decode()
    if family.middle:
        assert spelt == f"{family.prefix}once{family.suffix} fox{family.middle}"
    else:
        assert spelt == f"{family.suffix} fox{family.prefix}once"
    assert {backend.token_to_id(each) for each in names} == set(found.eos_ids)
    with pytest.raises(UnsupportedModel, match="no tokens for filling in the middle"):
        infill_of(Tokenizer(gpt2_style(), tmp_path), "a", "b", name="it")


def test_sentencepiece_puts_no_space_before_a_suffix(tmp_path: Path) -> None:
    backend = llama2_style()
    names = ["▁<PRE>", "▁<SUF>", "▁<MID>"]
    backend.add_special_tokens([AddedToken(each, special=True) for each in names])
    tokenizer = Tokenizer(backend, tmp_path)
    found = infill_of(tokenizer, "once", "fox", name="it")
    spelt = b"".join(map(tokenizer.token_bytes, found.ids)).decode()
    assert spelt.endswith("▁<SUF>fox▁<MID>")


def test_a_suffix_from_the_command_line(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infill, "_FAMILIES", (infill._Spelling("a", "b", "c"),))
    file = tmp_path / "suffix"
    file.write_text(" the fox")
    asked = ["generate", "-m", str(tiny_gpt2), "--greedy", "-n", "5", "--json"]
    record = json.loads(run(*asked, "--suffix", str(file), "Once").stdout)
    model = load(str(tiny_gpt2))
    a, b, c = (model.tokenizer.ids(each)[0] for each in "abc")
    ids = [a, *model.tokenizer.ids("Once"), b, *model.tokenizer.ids(" the fox"), c]
    assert record["prompt_tokens"] == len(ids)
    decoder = model.decoder()
    slot = decoder.open()
    made: list[int] = []
    logits = decoder.append([(slot, ids)], prompt=True)[0]
    while len(made) < 5 and (token := int(logits.argmax())) not in {a, b, c, *model.eos_ids}:
        made.append(token)
        logits = decoder.append([(slot, [token])])[0]
    assert record["text"].encode() == b"".join(map(model.token_bytes, made))


def test_a_system_message_does_not_go_with_a_batch(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "brief.yaml"
    file.write_text("system: Be brief.\n")
    result = run("generate", "-m", str(tiny_gpt2), "-t", str(file), "--jsonl", input="", code=2)
    assert "has a system message, which does not go with --jsonl" in result.stderr
