"""Prompts kept in files: a text with places, and the settings that go with it.

The files are YAML as simonw/llm's templates are: ``prompt``, ``system``, ``model``, ``options``,
``schema``, ``defaults``, with ``$input`` and ``$name`` for what is filled in and ``$$`` for ``$``.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.records import Columns, Source, rows_at_hand
from llmcli.io.sources import read_text
from llmcli.tasks.labels import SEPARATOR
from llmcli.tasks.rank import join_choice

if TYPE_CHECKING:
    from llmcli.engine.grammar.source import GrammarSource

_KEYS = {"name", "description", "prompt", "system", "model", "options", "schema", "defaults"}
_TEXTS = ("name", "description", "prompt", "system", "model")
_LARGEST = 1 << 20
_DEEPEST = 100
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
# Settings that a file may not have: they come about, or are objects.
_NOT_OPTIONS = {"grammar", "logit_bias", "sequence_bias", "bad_words_ids"}
_OTHER_NAMES = {"max_tokens": "max_new_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """A prompt with places in it.

    Attributes:
        name: What it is called.
        prompt: The text; None where the input is the prompt.
        system: What the model is told first, for models with a chat template.
        model: The model it was written for.
        options: Sampling settings, by SamplingParams' names.
        schema: A JSON schema that the continuation must fit.
        defaults: Values of places that were given none.
        description: What it does, in a line.
    """

    name: str
    prompt: str | None = None
    system: str | None = None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    schema: Any = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    @property
    def places(self) -> frozenset[str]:
        """The names of what is filled in."""
        texts = (self.prompt, self.system)
        return frozenset(
            name for text in texts if text for name in string.Template(text).get_identifiers()
        )

    @property
    def takes_input(self) -> bool:
        """Whether it has a place for the input; what has none is followed by it."""
        return self.prompt is None or "input" in self.places

    def fill(self, text: str, values: Mapping[str, str]) -> str:
        """The prompt with its places filled.

        Args:
            text: The input.
            values: What goes into the other places.

        Raises:
            InvalidInput: there is no value for a place.
        """
        if self.prompt is None:
            return text
        filled = self._filled(self.prompt, text, values)
        return filled if self.takes_input or not text else f"{filled}\n{text}"

    def fill_system(self, text: str, values: Mapping[str, str]) -> str | None:
        """The system message with its places filled; errors as for `fill`."""
        return None if self.system is None else self._filled(self.system, text, values)

    def _filled(self, pattern: str, text: str, values: Mapping[str, str]) -> str:
        try:
            known = {**self.defaults, **values, "input": text}
            return string.Template(pattern).substitute(known)
        except KeyError as exc:
            raise InvalidInput(
                f"The template {self.name} has a place {exc.args[0]!r}, and there is no value.",
                f"Give one: -p {exc.args[0]}=VALUE.",
            ) from exc

    def grammar(self) -> GrammarSource | None:
        """What the continuation is held to.

        Raises:
            InvalidInput: the schema cannot be used.
            LlmcliError: llguidance is not installed.
        """
        if self.schema is None:
            return None
        from llmcli.engine.grammar.source import json_schema

        found = json_schema(self.schema)
        found.compiled()
        return found

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "options": dict(self.options),
            "defaults": dict(self.defaults),
            "places": sorted(self.places),
        }


def parse_template(text: str, *, name: str) -> PromptTemplate:
    """Read a template's file.

    Args:
        text: YAML; a text alone is a prompt.
        name: What messages call it.

    Raises:
        InvalidInput: it is no YAML, too large, or says what cannot be done.
    """
    value = _yaml(text, name)
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidInput(
            f"The template {name} is no mapping.", "For example: 'prompt: \"Summarise: $input\"'."
        )
    if "schema_object" in value:
        value["schema"] = value.pop("schema_object")
    unknown = [str(key) for key in value if key not in _KEYS]
    if unknown:
        raise InvalidInput(
            f"The template {name} has {unknown[0]!r}, which is not supported.",
            f"Leave it out; there are {', '.join(sorted(_KEYS))}.",
        )
    for key in _TEXTS:
        if value.get(key) is not None and not isinstance(value[key], str):
            raise InvalidInput(f"{key!r} of the template {name} is no text.", "Put it in quotes.")
    defaults = value.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise InvalidInput(f"'defaults' of the template {name} is no mapping.", "Give key: value.")
    found = PromptTemplate(
        **{key: value[key] for key in _TEXTS if value.get(key) is not None} | {"name": name},
        options=_options(value.get("options") or {}, name),
        schema=value.get("schema"),
        defaults={str(key): str(each) for key, each in defaults.items()},
    )
    for part in (found.prompt, found.system):
        if part is not None and not string.Template(part).is_valid():
            raise InvalidInput(
                f"The template {name} has a '$' that begins no name.", "Write $$ for a dollar."
            )
    if found.prompt is None and found.system is None:
        raise InvalidInput(f"The template {name} has no prompt.", "Give it one.")
    return found


def _yaml(text: str, name: str) -> Any:
    import yaml

    if len(text) > _LARGEST:
        raise InvalidInput(f"The template {name} is larger than 1 MiB.", "Give a smaller one.")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
                what = "is nested too deeply" if depth > _DEEPEST else "has an alias (*name)"
                raise InvalidInput(f"The template {name} {what}.", "Write it out.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as exc:
        reason = " ".join(str(exc).split())
        raise InvalidInput(f"The template {name} is no YAML: {reason}.", "Correct it.") from exc


def _options(given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidInput(f"'options' of the template {name} is no mapping.", "Give key: value.")
    known = {each.name for each in fields(SamplingParams)} - _NOT_OPTIONS
    options: dict[str, Any] = {}
    for key, value in given.items():
        setting = _OTHER_NAMES.get(key, key)
        if setting not in known:
            raise InvalidInput(
                f"The template {name} has the option {key!r}, which llmcli does not.",
                "Leave it out.",
            )
        if setting == "stop":
            value = (value,) if isinstance(value, str) else value
            right = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
            value = tuple(value) if right else value
        else:
            wanted = type(getattr(SamplingParams(), setting))
            right = isinstance(value, wanted) or (
                wanted in (float, int, type(None)) and isinstance(value, int | float)
            )
        if not right:
            raise InvalidInput(
                f"The template {name} has {value!r:.40} for {key!r}.", "Give another value."
            )
        options[setting] = value
    try:
        SamplingParams(**options)
    except InvalidInput as exc:
        raise InvalidInput(f"The template {name}: {exc.message}", exc.cure) from exc
    return options


# -- where they are --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """Where a template is kept.

    Attributes:
        name: What it is called.
        path: Its file; None for a bundled one.
    """

    name: str
    path: Path | None = None

    def text(self) -> str:
        """The file's text."""
        if self.path is not None:
            return read_text(str(self.path))
        return str(_bundled().joinpath(f"{self.name}.yaml").read_text("utf-8"))

    def read(self) -> PromptTemplate:
        """What it holds.

        Raises:
            InvalidInput: see `parse_template`.
        """
        return parse_template(self.text(), name=self.name)


def _bundled() -> Any:
    return resources.files("llmcli.tasks") / "bundled_prompts"


def stored_templates(folder: Path) -> Iterator[StoredTemplate]:
    """Yield all templates by name; those of the folder stand for bundled ones of their name."""
    own = {path.stem: path for path in folder.glob("*.yaml")}
    bundled = {each.name.removesuffix(".yaml") for each in _bundled().iterdir()}
    for name in sorted(own.keys() | bundled):
        yield StoredTemplate(name, own.get(name))


def own_path(name: str, folder: Path) -> Path:
    """Where a template of one's own by this name would be.

    Raises:
        InvalidInput: it is no name for a file.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name for a template.", "Use letters, digits, - and _.")
    return folder / f"{name}.yaml"


def find_template(name: str, folder: Path) -> StoredTemplate:
    """The template of a name, or in a file.

    Raises:
        InvalidInput: there is none.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return StoredTemplate(name, Path(name))
    found = {each.name: each for each in stored_templates(folder)}
    if name not in found:
        raise InvalidInput(
            f"There is no template {name!r}.",
            f"Name a file that ends in .yaml, or one of {', '.join(found)}.",
        )
    return found[name]


# -- prompts made with them ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What is made of an input before a model reads it.

    Attributes:
        template: What it is put into.
        values: What goes into the template's other places.
        shots: Worked examples, as they stand before a prompt.
    """

    template: PromptTemplate | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    shots: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidInput for a value without a place."""
        places = self.template.places if self.template is not None else frozenset()
        for name in self.values:
            if name not in places:
                raise InvalidInput(
                    f"-p {name}: there is no such place in the template.",
                    f"It has {', '.join(sorted(places)) or 'none'}."
                    if self.template is not None
                    else "Name a template with -t.",
                )

    def prompt(self, text: str, record: Mapping[str, Any] | None = None) -> str:
        """What the model reads.

        Args:
            text: The input.
            record: Fields of its record, which fill places of their names.

        Raises:
            InvalidInput: there is no value for a place.
        """
        if self.template is not None:
            said = {
                name: str(value)
                for name, value in (record or {}).items()
                if isinstance(value, str | int | float)
            }
            text = self.template.fill(text, {**said, **self.values})
        return self.shots + text

    @property
    def takes_input(self) -> bool:
        """Whether there is a place for an input."""
        return self.template is None or self.template.takes_input

    def system(self, text: str) -> str | None:
        """What the model is told before; arguments and errors as for `prompt`."""
        if self.template is None:
            return None
        return self.template.fill_system(text, self.values)

    def with_shots(self, source: Source) -> Wording:
        """The same with worked examples: rows with ``prompt`` and ``completion``.

        Raises:
            InvalidInput: a row has none of these, or there are no rows.
        """
        found = []
        for record in rows_at_hand([source], columns=Columns(text="prompt")):
            if record is None:
                continue
            completion = record.fields.get("completion")
            if record.error is not None:
                raise record.error
            if not isinstance(completion, str) or not completion.strip():
                raise InvalidInput(
                    f"{record.place} has no text in the field 'completion'.",
                    'Each shot is {"prompt": "...", "completion": "..."}.',
                )
            prompt = self.prompt(record.text, record.fields)
            found.append(prompt + join_choice(prompt, completion, None) + SEPARATOR)
        if not found:
            raise InvalidInput(f"{source.label} holds no examples.", "Give at least one.")
        return replace(self, shots="".join(found))

    @property
    def digest(self) -> str:
        """A name for it: the same for the same words."""
        template = self.template
        said = [template and (template.prompt, template.system), sorted(self.values.items())]
        return hashlib.sha256(repr((said, self.shots)).encode()).hexdigest()
