"""What stands in front of a command's name, or instead of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import click

_DEFAULT = "generate"


def with_command(args: Sequence[str], group: click.Group) -> list[str]:
    """Put a command line in the order that Click reads.

    Options in front of a command move behind it (``llmcli -m fable next "The"``), and what is no
    command's name is a prompt: ``llmcli "Once upon a time"`` is ``llmcli generate ...``.

    Raises:
        click.UsageError: a word that is nearly a command's name.
    """
    if _DEFAULT not in group.commands:
        return list(args)
    front, rest = _split(args, group)
    if not rest:
        return [_DEFAULT, *front] if front else list(args)
    if rest[0] in group.commands:
        name, *others = rest
        inner = group.commands[name]
        if isinstance(inner, click.Group) and others[:1] and others[0] in inner.commands:
            return [name, others[0], *front, *others[1:]]
        return [name, *front, *others]
    if rest[0].startswith("-") and rest[0] not in ("-", "--"):
        return list(args)  # --help and --version, and what Click has to complain about
    if re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        near = get_close_matches(rest[0], list(group.commands), n=1, cutoff=0.7)
        if near:
            raise click.UsageError(f"No such command {rest[0]!r}. Did you mean {near[0]!r}?")
    return [_DEFAULT, *front, *rest]


def _split(args: Sequence[str], group: click.Group) -> tuple[list[str], list[str]]:
    """The options of commands in front, and the rest."""
    at = 0
    asks = args[:1] and args[0].startswith("-") and args[0] not in _own(group)
    known = _options(group) if asks else {}
    while known and at < len(args):
        name, _, value = args[at].partition("=")
        short = name[:2] if not name.startswith("--") else name
        option = known.get(short)
        if option is None:
            break
        at += 1
        joined = bool(value) or "=" in args[at - 1] or len(name) > len(short)
        if not option.is_flag and not joined:
            at += 1
    return list(args[:at]), list(args[at:])


def _own(group: click.Group) -> set[str]:
    """How the group's own options are spelt, --help's among them: they need no command."""
    helps = group.context_settings.get("help_option_names", ["--help"])
    return {*helps, *(spelling for param in group.params for spelling in param.opts)}


def _options(group: click.Group) -> Mapping[str, click.Option]:
    """Options that may stand in front, by their spellings: generate has all that are shared."""
    found: dict[str, click.Option] = {}
    for param in group.commands[_DEFAULT].params:
        if isinstance(param, click.Option):
            found |= dict.fromkeys((*param.opts, *param.secondary_opts), param)
    return found
