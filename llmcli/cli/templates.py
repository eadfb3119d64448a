"""``llmcli templates``: prompts that are kept."""

from __future__ import annotations

import click

from llmcli.cli.help import HelpfulGroup
from llmcli.cli.options import output_options
from llmcli.cli.prompt_options import TemplateName, templates_folder
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console

_NEW = """\
# What 'llmcli generate -t {name}' makes of a prompt; $input is the prompt, $name is -p name=value.
prompt: |-
  $input
options:
  max_new_tokens: 60
"""


@click.group(cls=HelpfulGroup)
def templates() -> None:
    """List, show and edit prompt templates.

    \b
    Examples:
      llmcli templates list
      llmcli templates show summarise
      llmcli templates edit mine
      llmcli generate -t summarise -i article.txt
    """


@templates.command("list")
@output_options
def list_templates(console: Console) -> None:
    """List all templates, both built-in and your own.

    \b
    Examples:
      llmcli templates list
      llmcli templates list --json | jq -r .name
    """
    from llmcli.tasks.prompt_templates import stored_templates
    from llmcli.terminal.table import Column, Table

    table = Table(Column("NAME"), Column("FROM", rank=1), Column("WHAT IT DOES", "wrapped"))
    records = []
    for each in stored_templates(templates_folder()):
        kept = "bundled" if each.path is None else str(each.path)
        try:
            about = each.read().description
        except InvalidInput as exc:
            about = exc.message
        table.add(each.name, "bundled" if each.path is None else "yours", about)
        records.append({"name": each.name, "from": kept, "description": about})

    def show_json() -> None:
        for record in records:
            console.record(record)

    def show_text() -> None:
        table.write(console)

    console.choose(json=show_json, text=show_text)()


@templates.command()
@click.argument("name", type=TemplateName())
@output_options
def show(name: str, console: Console) -> None:
    """Print a template's file.

    \b
    Examples:
      llmcli templates show summarise
      llmcli templates show summarise > mine.yaml
    """
    from llmcli.tasks.prompt_templates import find_template

    found = find_template(name, templates_folder())
    template = found.read()
    text = found.text()
    console.answer(template.to_dict(), lambda: console.write(text))


@templates.command()
@click.argument("name", type=TemplateName())
@output_options
def edit(name: str, console: Console) -> None:
    """Edit one of your templates, or a copy of a built-in one, in your editor.

    \b
    Examples:
      llmcli templates edit mine
      EDITOR=nano llmcli templates edit summarise
    """
    from llmcli.io.files import atomic_write
    from llmcli.tasks.prompt_templates import StoredTemplate, own_path, stored_templates

    folder = templates_folder()
    path = own_path(name, folder)
    before = {each.name: each for each in stored_templates(folder)}
    text = before[name].text() if name in before else _NEW.format(name=name)
    edited = click.edit(text, extension=".yaml")
    if edited is None or edited == text:
        console.notice("Nothing was changed.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(edited.encode("utf-8"))
    StoredTemplate(name, path).read()  # kept all the same: what was typed is not lost


@templates.command()
@output_options
def path(console: Console) -> None:
    """Print the path of your templates folder, whether or not it exists.

    \b
    Examples:
      ls "$(llmcli templates path)"
    """
    where = str(templates_folder())
    console.answer({"path": where}, lambda: console.line(where))
