"""What mkdocs adds to the pages in docs/: those kept elsewhere, and one for each command.

mkdocs calls the functions named ``on_…``; mkdocs.yml names this file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from llmcli.cli.help import sections, told
from llmcli.cli.main import cli
from llmcli.cli.manual import contexts

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "llmcli/models/bundled/fable/README.md": "fable.md",
}
"""Pages outside docs/, and what they are called on the site."""

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the commands' pages in the navigation."""
    commands = next(item for item in config.nav or [] if "Commands" in item)
    commands["Commands"] = navigation(click.Context(cli, info_name="llmcli"))
    return config


def navigation(group: click.Context) -> list[dict[str, Any]]:
    """What a group has, and what is below that."""
    found: list[dict[str, Any]] = []
    for each in documented():
        if each.command_path.rpartition(" ")[0] == group.command_path:
            below: list[Any] = navigation(each)
            found.append(
                {str(each.info_name): [page_name(each), *below] if below else page_name(each)}
            )
    return found


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for path, name in ELSEWHERE.items():
        text = (ROOT / path).read_text("utf-8")
        files.append(File.generated(config, name, content=relinked(text, "")))
    for each in documented():
        files.append(File.generated(config, page_name(each), content=command_page(each)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links out of docs/ lead to the pages of the site."""
    return relinked(markdown, "docs/")


def relinked(text: str, folder: str) -> str:
    """A page whose links are those of the site; ``folder`` is where it is in the repository."""

    def moved(link: re.Match[str]) -> str:
        path = (ROOT / folder / link[1]).resolve().relative_to(ROOT).as_posix()
        return f"]({ELSEWHERE.get(path, path.removeprefix('docs/'))}"

    return LINK.sub(moved, text)


def documented() -> list[click.Context]:
    """The commands with a page, and what they are called with."""
    root = click.Context(cli, info_name="llmcli")
    return sorted((each for each in contexts(root) if each.parent), key=lambda c: c.command_path)


def page_name(context: click.Context) -> str:
    return f"commands/{context.command_path.removeprefix('llmcli ').replace(' ', '-')}.md"


def command_page(context: click.Context) -> str:
    """A command's page, of what ``llmcli help`` shows."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"# {context.command_path}"]
    for paragraph in re.split(r"\n\s*\n", (command.help or "").replace("\b\n", "").strip()):
        first, *rest = paragraph.splitlines()
        if first.strip() == "Examples:":
            examples = "\n".join(line.strip() for line in rest)
            parts.append(f"```sh\n{examples}\n```")
        else:
            text = escaped(" ".join(paragraph.split()))
            parts.append(re.sub(r"docs/([\w-]+\.md)", r"[docs/\1](../\1)", text))
    parts.insert(2, f"```text\n{usage}\n```")
    if isinstance(command, click.Group):
        rows = [
            (f"[`{each.command_path}`]({Path(page_name(each)).name})", summary(each.command))
            for each in contexts(context)
            if each.parent is context
        ]
        parts += ["## Commands", table("command", rows)]
    for title, options in sections(command.get_params(context)):
        rows = [
            (f"`{names}`", escaped(text)) for names, text in (told(o, context) for o in options)
        ]
        parts += [f"## {title}", table("option", rows)]
    return "\n\n".join(parts) + "\n"


def summary(command: click.Command) -> str:
    return escaped(command.get_short_help_str(limit=10_000))


def table(first: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {name} | {text} |" for name, text in rows]
    return "\n".join([f"| {first} | what it does |", "|---|---|", *lines])


def escaped(text: str) -> str:
    """Text of which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)
