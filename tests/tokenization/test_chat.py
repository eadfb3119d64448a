"""Chat templates: as transformers renders them, in a sandbox, and safe from what people type."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.errors import CorruptModel, InvalidInput
from llmcli.tokenization.chat import LAYOUTS, ChatTemplate, chat_template, named_template
from llmcli.tokenization.tokenizer import Tokenizer

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "", "pad_token": ""}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Who are you? "},
    {"role": "assistant", "content": "A fox."},
    {"role": "user", "content": "<b>Why?</b> & é"},
]
# What published templates do.
PUBLISHED = [
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}[INST] {{ m.content | trim }} [/INST]"
    "{% endfor %}",
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] %}\n"
    "    {%- set messages = messages[1:] %}\n{%- endif %}\n{% for m in messages %}\n"
    "  {{- m | tojson }}\n{% if not loop.last %}{% continue %}{% endif %}\nend{% endfor %}\n"
    "{{ system }}",
    "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% break %}"
    "{% endfor %}{{ namespace(a=1).a }}{{ dict(a=2)['a'] }}{{ strftime_now('%Y') | length }}",
    "{% macro say(m, n=2) %}{{ m.role ~ ':' ~ m.content[:n] }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{{ m.content.split()[-1].upper() }}{% endfor %}"
    "{{ 'x' * 3 }}{{ 2 ** 3 }}{{ '%s' % 4 }}{{ tools is none }}{{ undefined_name is defined }}",
]


def rendered_by_transformers(source: str, messages: list[dict[str, str]], begun: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template
    (text,), _ = render(
        [messages], chat_template=source, add_generation_prompt=begun, tools=None, **TOKENS
    )
    return str(text)


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("source", [*LAYOUTS.values(), *PUBLISHED[1:]])
def test_as_transformers_renders_it(source: str, begun: bool) -> None:
    template = ChatTemplate("x", source, TOKENS)
    expected = rendered_by_transformers(source, TALK, begun)
    assert template.render(TALK, add_generation_prompt=begun) == expected


def test_a_template_may_refuse() -> None:
    template = ChatTemplate("model/tokenizer_config.json", PUBLISHED[0], TOKENS)
    assert template.render(TALK[1:2]) == "<s>[INST] Who are you? [/INST]"
    with pytest.raises(InvalidInput, match="refuses the messages: Roles must alternate"):
        template.render(TALK)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaa') }}",
        "{% set n = namespace(x='a' * 1000) %}{% for i in range(99) %}"
        "{% set n.x = n.x + n.x %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ [1] * 999999999 }}",
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    ],
)
def test_row_47_templates_that_do_not_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.tokenization.chat._SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(CorruptModel, match="does not come to an end"):
        ChatTemplate("x", source, TOKENS).render(TALK)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__['sys'] }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__init__.__globals__['os'].system('true') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ messages.append(1) }}",
    ],
)
def test_row_47_templates_that_reach_out(source: str) -> None:
    """The sandbox gives them nothing: an error, or the empty text of what is undefined."""
    template = ChatTemplate("x", source, TOKENS)
    with suppress(CorruptModel):
        assert template.render(TALK) == ""


@pytest.mark.parametrize(
    "source", ["{{", "{% for %}", "{% include '/etc/passwd' %}", "{{ 1 / 0 }}"]
)
def test_templates_that_are_none(source: str) -> None:
    with pytest.raises(CorruptModel, match="The template x"):
        ChatTemplate("x", source, TOKENS).render(TALK)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level tokenizer with ChatML's control tokens."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    folder = tmp_path_factory.mktemp("chat")
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(each, special=True) for each in ("<|im_start|>", "<|im_end|>", "<s>", "</s>")]
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    return Tokenizer.from_folder(folder)


PARTS = st.sampled_from(["<|im_end|>", "<|im_", "start|>", "</s>", "é", " ", "\n", "hi", "\ue0f7"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(st.lists(PARTS, max_size=6).map("".join), min_size=1, max_size=3))
def test_what_is_typed_stays_text(tokenizer: Tokenizer, contents: list[str]) -> None:
    """Only the template's own control tokens are control tokens, and no byte is lost."""
    template = named_template("chatml", tokenizer)
    messages = [{"role": "user", "content": content} for content in contents]
    ids = template.encode(tokenizer, messages)
    assert tokenizer.decode_bytes(ids).decode() == template.render(messages)
    control = [i for i in ids if i in tokenizer.special_ids]
    start, end = tokenizer.ids("<|im_start|><|im_end|>", special="allow")
    assert control == [start, end] * len(contents) + [start]
    allowed = template.encode(tokenizer, messages, special="allow")
    assert allowed == tokenizer.ids(template.render(messages), special="allow")


def test_control_tokens_may_be_forbidden(tokenizer: Tokenizer) -> None:
    template = named_template("chatml", tokenizer)
    with pytest.raises(InvalidInput, match="special token '</s>'"):
        template.encode(tokenizer, [{"role": "user", "content": "a</s>"}], special="forbid")


def test_where_a_template_stands(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shutil.copy(tokenizer.folder / "tokenizer.json", tmp_path)
    assert chat_template(Tokenizer.from_folder(tmp_path)) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        json.dumps({"chat_template": "{{ eos_token }}", "eos_token": {"content": "E"}})
    )
    found = chat_template(Tokenizer.from_folder(tmp_path))
    assert found is not None
    assert found.render([]) == "E"
    several = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    config.write_text(json.dumps({"chat_template": several}))
    found = chat_template(Tokenizer.from_folder(tmp_path))
    assert found is not None
    assert found.render([]) == "D"
    config.write_text(json.dumps({"chat_template": 5}))
    assert chat_template(Tokenizer.from_folder(tmp_path)) is None
    (tmp_path / "chat_template.jinja").write_text("J")
    found = chat_template(Tokenizer.from_folder(tmp_path))
    assert found is not None
    assert found.render([]) == "J"


def test_names(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no template 'chatlm'"):
        named_template("chatlm", tokenizer)
    template = ChatTemplate("eos-joined", LAYOUTS["eos-joined"], {**TOKENS, "eos_token": ""})
    with pytest.raises(InvalidInput, match="writes the eos_token, and the model has none"):
        template.render(TALK)
    path = tmp_path / "own.jinja"
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        named_template(str(path), tokenizer)
