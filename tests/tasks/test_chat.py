"""Conversations: what the model reads, what fits, what is kept, and what a person takes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_decoder import ToyDecoder

from llmcli.api import load
from llmcli.engine.decoder import Floats
from llmcli.engine.params import SamplingParams
from llmcli.errors import ContextOverflow, InvalidInput
from llmcli.models.language_model import LanguageModel
from llmcli.tasks.chat import (
    Conversation,
    Message,
    Reply,
    parse_messages,
    read_messages,
    save_messages,
    template_for,
)


class Scripted(ToyDecoder):
    """Writes " the fox" and ends its turn."""

    def __init__(self, model: LanguageModel, n_positions: int) -> None:
        super().__init__(model.tokenizer.vocab_size, n_positions)
        self.answer = [*model.tokenizer.ids(" the fox"), *model.eos_ids]

    def logits(self, ids: Sequence[int]) -> Floats:
        row = super().logits(ids)
        begun = range(len(self.answer) - 1, 0, -1)
        so_far = next((n for n in begun if list(ids[-n:]) == self.answer[:n]), 0)
        row[self.answer[so_far]] = 1000.0
        return row


@pytest.fixture
def model(tiny_gpt2: Path) -> LanguageModel:
    return load(str(tiny_gpt2), device="cpu")


def conversation(model: LanguageModel, template: str = "eos-joined", **given: Any) -> Conversation:
    params = SamplingParams(**{"seed": 1, "max_new_tokens": 8, **given})
    return Conversation(model=model, template=template_for(model, template), params=params)


def answer(talk: Conversation, text: str | None = None, **options: Any) -> Reply:
    if text is not None:
        talk.say(text)
    reply = Reply()
    events = list(talk.answer(reply, **options))
    assert "".join(event.text for event in events) == reply.text
    return reply


def test_turns_are_read_as_the_template_writes_them(model: LanguageModel) -> None:
    toy = Scripted(model, 64)
    model.decoder = lambda: toy  # type: ignore[method-assign, assignment, return-value]
    talk = conversation(model)
    first = answer(talk, "Who was it?")
    assert (first.text, first.finish_reason) == (" the fox", "eos")
    answer(talk, "And then?")
    assert [message.to_dict() for message in talk.messages] == [
        {"role": "user", "content": "Who was it?"},
        {"role": "assistant", "content": " the fox"},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": " the fox"},
    ]
    [held] = toy.opened.values()
    end = model.eos_ids[0]
    written = [*talk.ids(talk.messages[:3]), *model.tokenizer.ids(" the fox")]
    assert held == written
    assert written.count(end) == 3


def test_a_turn_reads_its_own_tokens_alone(model: LanguageModel) -> None:
    toy = Scripted(model, 400)
    model.decoder = lambda: toy  # type: ignore[method-assign, assignment, return-value]
    model.__dict__["n_positions"] = 400
    talk = conversation(model)
    answer(talk, "In the morning the sun rose over the hills and the birds began to sing. " * 3)
    before = len(toy.opened[max(toy.opened)])
    toy.calls.clear()
    answer(talk, "Why?")
    read = sum(sum(call) for call in toy.calls if sum(call) > 1)
    assert before > 60
    assert read <= len(model.tokenizer.ids("Why?")) + 4


def test_the_oldest_turns_go_and_the_system_message_stays(model: LanguageModel) -> None:
    toy = Scripted(model, 64)
    model.decoder = lambda: toy  # type: ignore[method-assign, assignment, return-value]
    talk = conversation(model)
    talk.system = "the little fox"
    dropped = [answer(talk, f"the crow {number}").dropped_messages for number in range(9)]
    assert dropped[0] == 0
    assert dropped == sorted(dropped)
    assert dropped[-1] > 0
    assert dropped[-1] % 2 == 0, "whole turns go"
    _, ids, _ = talk.fitted()
    head = model.tokenizer.ids("the little fox")
    assert ids[: len(head)] == head
    assert len(talk.messages) == 19, "what is not read is not lost"
    with pytest.raises(ContextOverflow, match="must stay have"):
        answer(talk, "the crow " * 80)


def test_what_is_cut_short_stays(model: LanguageModel) -> None:
    talk = conversation(model, ignore_eos=True)
    asked = iter([False] * 4)
    reply = answer(talk, "the fox", should_stop=lambda: next(asked, True))
    assert reply.finish_reason == "interrupted"
    assert talk.messages[-1] == Message("assistant", reply.text)
    whole = conversation(model, ignore_eos=True)
    assert answer(whole, "the fox").text.startswith(reply.text.rstrip("\ufffd"))


def test_another_answer_and_taking_back(model: LanguageModel) -> None:
    talk = conversation(model, temperature=1.5, ignore_eos=True)
    texts = {answer(talk, "the fox").text}
    for _ in range(3):
        assert talk.take_back_answer()
        texts.add(answer(talk).text)
    assert len(texts) == 4, "each answer is drawn with numbers of its own"
    assert len(talk.messages) == 2
    assert talk.undo() == Message("user", "the fox")
    assert talk.messages == []
    assert talk.undo() is None
    assert not talk.take_back_answer()


def test_system_message(model: LanguageModel) -> None:
    talk = conversation(model)
    talk.say("the fox")
    talk.system = "one"
    talk.system = "two"
    assert [message.role for message in talk.messages] == ["system", "user"]
    assert talk.system == "two"
    talk.system = None
    assert [message.role for message in talk.messages] == ["user"]
    with pytest.raises(InvalidInput, match="empty"):
        talk.say("  \n")


def test_stops_of_a_layout_end_a_turn(model: LanguageModel) -> None:
    talk = conversation(model, "plain", ignore_eos=True, max_new_tokens=40)
    assert "\nUser:" in talk.template.stops
    talk.say("the fox")
    assert model.tokenizer.decode_bytes(talk.ids(talk.messages)) == b"User: the fox\nAssistant:"


def test_a_model_without_a_template(model: LanguageModel) -> None:
    with pytest.raises(InvalidInput, match=r"no chat template.*--template FILE.*story"):
        template_for(model, None)


def test_messages_are_kept_and_read(tmp_path: Path) -> None:
    messages = [Message("system", "é"), Message("user", "a\nb"), Message("assistant", "🦊")]
    path = tmp_path / "talk.jsonl"
    save_messages(path, messages)
    assert read_messages(path) == messages
    path.write_text(json.dumps([message.to_dict() for message in messages]))
    assert read_messages(path) == messages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON messages"),
        ("5", "Message 1 of x has no role and content"),
        ('[{"role": "user"}]', "Message 1 of x has no role"),
        ('[{"role": "user", "content": 5}]', "Message 1 of x has no role"),
        ('[{"role": "wolf", "content": "a"}]', "the role 'wolf'"),
        ('[{"role": "user", "content": ""}]', "is empty"),
        ('{"role": "system", "content": "a"}\n' * 2, "second system message"),
        (
            '{"role": "user", "content": "a"}\n{"role": "system", "content": "a"}',
            "not the first",
        ),
    ],
)
def test_files_that_hold_no_messages(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_messages(text, source="x")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_messages(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"[\xff]")
    with pytest.raises(InvalidInput, match="byte 0xff at offset 1"):
        read_messages(tmp_path / "bytes")
