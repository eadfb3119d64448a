"""Messages to a prompt: a model's own chat template, or one of a few well-known layouts.

A template is a Jinja program that came with the model, so it runs in Jinja's sandbox, with the
names and filters that transformers' ``apply_chat_template`` gives it, and with limits on its
time and on what it builds. What a person typed cannot spell a control token unless that is
asked for: only those that the template itself writes are taken for control tokens.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from llmcli.errors import CorruptModel, InvalidInput
from llmcli.tokenization.files import named_token, read_json

if TYPE_CHECKING:
    from jinja2 import Template

    from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

__all__ = ["LAYOUTS", "ChatTemplate", "Message", "chat_template", "named_template"]

Message = Mapping[str, str]
"""A turn: ``role`` ("system", "user" or "assistant") and ``content``."""

_SECONDS = 5.0
_LONGEST = 64 << 20
_LARGEST_FILE = 1 << 20
# A character that no text has: it parts a control token's spelling in what a person typed.
_MARKS = ("\ue0f7", "\uf8e3", "\U000ffa51", "\U0010fb73")

LAYOUTS: dict[str, str] = {
    # Qwen, SmolLM2-Instruct, OLMo and many fine-tunes.
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    # Llama 2: the system text stands in the first turn.
    "llama-2": (
        "{% set system = namespace(text='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        "{% set system.text = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' %}"
        "{% elif message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + system.text + message['content'] + ' [/INST]' }}"
        "{% set system.text = '' %}"
        "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "llama-3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        " + message['content'] + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
    # DialoGPT: turns, each ended by the end-of-text token.
    "eos-joined": ("{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"),
    # Any base model: a written dialogue. A line break ends a turn.
    "plain": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% else %}"
        "{{ message['role'].capitalize() + ': ' + message['content'] + '\\n' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    # A model of tales: both sides write the same story on in turn.
    "story": (
        "{% for message in messages %}{{ message['content'] }}"
        "{% if message['role'] == 'system' %}{{ '\\n\\n' }}"
        "{% elif not loop.last %}{{ ' ' }}{% endif %}{% endfor %}"
    ),
}
"""Bundled templates by name."""

STOPS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_end|>",),
    "llama-3": ("<|eot_id|>",),
    "plain": ("\nUser:", "\nSystem:", "\nAssistant:"),
    "story": ("\n\n",),
}
"""What ends a turn in a bundled layout where the model has no token for it."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it may name.

    Attributes:
        name: Where it comes from, for messages.
        source: The Jinja text.
        tokens: The texts of ``bos_token`` and its like.
        stops: Texts that end the assistant's turn, beside the model's own end tokens.
    """

    name: str
    source: str
    tokens: Mapping[str, str]
    stops: tuple[str, ...] = ()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Write messages as the model was taught to read them.

        Raises:
            InvalidInput: the template refuses the messages (an unknown role, say).
            CorruptModel: the template is no template, breaks out of its sandbox, or does not
                end.
        """
        import jinja2

        if not all(self.tokens.get(name) for name in self._needed):
            missing = next(name for name in self._needed if not self.tokens.get(name))
            raise InvalidInput(
                f"The template {self.name} writes the {missing}, and the model has none.",
                "Choose another --template.",
            )
        try:
            with _deadline():
                return self._compiled.render(
                    messages=[dict(message) for message in messages],
                    add_generation_prompt=add_generation_prompt,
                    tools=None,
                    documents=None,
                    **self.tokens,
                )
        except _Refused as exc:
            raise InvalidInput(
                f"The template {self.name} refuses the messages: {_sentence(exc)}.",
                "Change the messages, or choose another --template.",
            ) from exc
        except (_TooMuch, RecursionError, MemoryError) as exc:
            raise CorruptModel(
                f"The template {self.name} does not come to an end ({_sentence(exc)}).",
                "Choose another --template.",
            ) from exc
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as exc:
            raise CorruptModel(
                f"The template {self.name} fails: {_sentence(exc)}.", "Choose another --template."
            ) from exc

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        special: SpecialTokens = "text",
    ) -> list[int]:
        """The token ids of messages; nothing is put in front that the template does not write.

        Args:
            tokenizer: The model's.
            messages: The turns.
            add_generation_prompt: Whether the assistant's turn is begun.
            special: What control tokens are that a message spells out: "text" like any other,
                "allow" control tokens, "forbid" an error.

        Raises:
            InvalidInput: see `render`; a control token under "forbid".
            CorruptModel: see `render`.
        """
        for message in messages:
            tokenizer.check(message["content"], special=special)
        if special == "allow":
            text = self.render(messages, add_generation_prompt=add_generation_prompt)
            return tokenizer.ids(text, special="allow")
        control = sorted(
            (
                tokenizer.token_bytes(each).decode("utf-8", "replace")
                for each in tokenizer.special_ids
            ),
            key=len,
            reverse=True,
        )
        spelt = re.compile("|".join(map(re.escape, filter(None, control))) or r"(?!)")
        if not any(spelt.search(message["content"]) for message in messages):
            text = self.render(messages, add_generation_prompt=add_generation_prompt)
            return tokenizer.ids(text, special="allow")
        everything = "".join(message["content"] for message in messages)
        mark = next(mark for mark in _MARKS if mark not in everything)
        marked = [
            {
                **message,
                "content": spelt.sub(lambda found: _parted(found[0], mark), message["content"]),
            }
            for message in messages
        ]
        text = self.render(marked, add_generation_prompt=add_generation_prompt)
        ids: list[int] = []
        end = 0
        for found in spelt.finditer(text):
            ids += _text_ids(tokenizer, text[end : found.start()].replace(mark, ""))
            ids += tokenizer.ids(found[0], special="allow")
            end = found.end()
        return ids + _text_ids(tokenizer, text[end:].replace(mark, ""))

    @cached_property
    def _needed(self) -> tuple[str, ...]:
        """The tokens that a bundled layout cannot do without; others test for themselves."""
        if LAYOUTS.get(self.name) != self.source:
            return ()
        return tuple(name for name in ("bos_token", "eos_token") if name in self.source)

    @cached_property
    def _compiled(self) -> Template:
        return _compile(self.source, self.name)


def chat_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template that a tokenizer's folder holds; None where it has none.

    Read are ``chat_template.jinja``, and ``chat_template`` in tokenizer_config.json: a text, or
    a list of named ones, of which "default" is taken, or the only one.

    Raises:
        CorruptModel: a file is broken.
        StorageError: a file cannot be read.
    """
    folder = tokenizer.folder
    path = folder / "chat_template.jinja"
    if path.is_file():
        return ChatTemplate(str(path), _read_template(path), _tokens(tokenizer))
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = read_json(folder / name).get("chat_template")
        if isinstance(value, list):
            named = {
                each["name"]: each["template"]
                for each in value
                if isinstance(each, dict) and {"name", "template"} <= each.keys()
            }
            only = next(iter(named.values())) if len(named) == 1 else None
            value = named.get("default", only)
        if isinstance(value, str) and value:
            return ChatTemplate(str(folder / name), value, _tokens(tokenizer))
    return None


def named_template(name: str, tokenizer: Tokenizer) -> ChatTemplate:
    """A bundled layout by its name, or a file with a template.

    Args:
        name: What was typed.
        tokenizer: The model's, whose control tokens the template writes.

    Raises:
        InvalidInput: neither a layout nor a file has the name.
    """
    if name in LAYOUTS:
        return ChatTemplate(name, LAYOUTS[name], _tokens(tokenizer), STOPS.get(name, ()))
    path = Path(name)
    if not path.is_file():
        raise InvalidInput(
            f"There is no template {name!r}.", f"Name a file, or one of {', '.join(LAYOUTS)}."
        )
    return ChatTemplate(str(path), _read_template(path), _tokens(tokenizer))


def _read_template(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise InvalidInput(f"{path} is longer than any template.", "Name another file.")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InvalidInput(f"{path} cannot be read: {reason}.", "Name another file.") from exc


def _tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """What templates call the model's control tokens; those it lacks are empty."""
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    found = {name: named_token(tokenizer.folder, name) or "" for name in names}
    for name, token_id in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id)):
        if not found[name] and token_id is not None and token_id in tokenizer:
            found[name] = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
    return found


def _text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.ids(text, special="text") if text else []


def _parted(token: str, mark: str) -> str:
    return token[0] + mark + token[1:] if len(token) > 1 else mark + token


def _sentence(exc: BaseException) -> str:
    return (" ".join(str(exc).split())[:200] or type(exc).__name__).rstrip(".")


class _Refused(Exception):
    """Raised by a template that calls ``raise_exception``."""


class _TooMuch(Exception):
    """Raised where a template takes too long or builds too much."""


@contextmanager
def _deadline() -> Iterator[None]:
    """Stop Python code, which a template is compiled to, that runs for too long."""
    end = time.monotonic() + _SECONDS
    before = sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > end:
            raise _TooMuch(f"more than {_SECONDS:.0f} seconds")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _compile(source: str, name: str) -> Template:
    """Compile a template with the names and filters that transformers gives it."""
    import jinja2
    from jinja2 import ext, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(ext.Extension):
        """``{% generation %}`` marks what the assistant said: for training, and nothing here."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(
                ("name:endgeneration",), drop_needle=True
            )
            return body

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "*":
                _check_product(left, right)
            if operator == "**" and (abs(left) > 1e6 or abs(right) > 64):
                raise _TooMuch("a power too large")
            return _bounded(super().call_binop(context, operator, left, right))

    class BoundedNamespace(Namespace):
        def __setitem__(self, key: str, value: Any) -> None:
            if key.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace takes no {key!r}")
            super().__setitem__(key, _bounded(value))

    def refuse(message: str) -> NoReturn:
        raise _Refused(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any
    ) -> str:
        # Jinja's own escapes what HTML must not hold.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(
        raise_exception=refuse,
        strftime_now=lambda form: time.strftime(form),
        namespace=BoundedNamespace,
    )
    try:
        with _deadline():
            template = environment.from_string(source)
    except (jinja2.TemplateError, RecursionError, MemoryError, ValueError, _TooMuch) as exc:
        raise CorruptModel(
            f"The template {name} is no Jinja template: {_sentence(exc)}.",
            "Choose another --template.",
        ) from exc
    # What `~` and a template's pieces are joined with.
    names: dict[str, Any] = template.root_render_func.__globals__
    for joiner in ("str_join", "markup_join"):
        if joiner in names:
            names[joiner] = _bounded_join(names[joiner])
    return template


def _bounded_join(join: Any) -> Any:
    def joined(parts: Any) -> Any:
        return _bounded(join(parts))

    return joined


def _check_product(left: Any, right: Any) -> None:
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(count, int):
            if len(value) * count > _LONGEST:
                raise _TooMuch("a text too long")
        elif isinstance(value, int) and value.bit_length() > 4096:
            raise _TooMuch("a number too large")


def _bounded(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > _LONGEST:
        raise _TooMuch("a text too long")
    return value
