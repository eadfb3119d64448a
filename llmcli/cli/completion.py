"""``llmcli completion``: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from llmcli.cli.help import command
from llmcli.cli.options import output_options
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console

# Click's scripts, where they fall short: these add files and folders to names instead of one
# clearing the other, and complete what follows the "=" of --option=value.

# -o filenames has bash quote what needs it, and put the slash behind a folder.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response line type value at
    local -a words=()
    COMPREPLY=()
    # Bash takes --option=value for three words.
    for ((at = 0; at <= COMP_CWORD; at++)); do
        if ((at > 1)) && [[ ${COMP_WORDS[at]} == = && ${COMP_WORDS[at-1]} == --* ]]; then
            ((at < COMP_CWORD)) || words+=("")
        else
            words+=("${COMP_WORDS[at]}")
        fi
    done
    response=$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
%(complete_var)s=bash_complete "$1")
    for line in $response; do
        IFS=, read -r type value <<< "$line"
        case $type in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- "$value")) ;;
            file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$value")) ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local type key descr
    local -a names described response
    (( ! $+commands[%(prog_name)s] )) && return 1

    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
%(complete_var)s=zsh_complete %(prog_name)s)}")
    # What follows the = of --option=value is completed, the rest stays.
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='

    for type key descr in $response; do
        case $type in
            plain)
                if [[ $descr == _ ]]; then names+=("$key"); else described+=("$key:$descr"); fi ;;
            dir) _path_files -/ ;;
            file) _path_files -f ;;
        esac
    done
    [[ -n $described ]] && _describe -V unsorted described
    [[ -n $names ]] && compadd -V unsorted -a names
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    # Found through fpath.
    %(complete_func)s "$@"
else
    # Read with eval or source.
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l word (commandline -ct)
    set -l option (string match -r -- '^--[^=]+=' $word)
    # The first comma ends the kind; a description may have others.
    for line in (env %(complete_var)s=fish_complete COMP_WORDS="$(commandline -cp)" \
COMP_CWORD="$word" %(prog_name)s)
        set -l found (string split -m 1 , -- $line)
        switch $found[1]
            case plain
                echo -- "$option$found[2]"
            case dir
                for each in (__fish_complete_directories $found[2] '')
                    echo -- "$option$each"
                end
            case file
                for each in (__fish_complete_path $found[2])
                    echo -- "$option$each"
                end
        end
    end
end

complete --no-files --keep-order --command %(prog_name)s --arguments '(%(complete_func)s)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
@output_options
@click.pass_context
def completion(ctx: click.Context, shell: str, console: Console) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      llmcli completion bash > ~/.local/share/bash-completion/completions/llmcli
      llmcli completion zsh > "${fpath[1]}/_llmcli"
      llmcli completion fish > ~/.config/fish/completions/llmcli.fish
    """
    shell_class = get_completion_class(shell)
    if shell_class is None:
        raise InvalidInput(f"There is no completion for {shell}.", "Use bash, zsh or fish.")
    asked = shell_class(ctx.find_root().command, {}, "llmcli", "_LLMCLI_COMPLETE")
    console.write_raw(_SCRIPTS[shell] % asked.source_vars())
