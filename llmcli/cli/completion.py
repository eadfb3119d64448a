"""``llmcli completion``: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from llmcli.cli.help import command
from llmcli.cli.options import output_options
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console

# In place of Click's scripts, over the same protocol: these add files and folders to names instead
# of one clearing the other, and complete what follows the "=" of --option=value.

# -o filenames has bash quote what needs it, and put the slash behind a folder.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value at
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
    while IFS=, read -r kind value; do
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- "$value")) ;;
            file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$value")) ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    (( $+commands[%(prog_name)s] )) || return 1
    local kind value about paths
    local -a names described

    # Three lines for each: what it is, the text, and what is said of it, or a _.
    COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \
        %(complete_var)s=zsh_complete %(prog_name)s |
        while IFS= read -r kind && IFS= read -r value && IFS= read -r about; do
            case $kind:$about in
                plain:_) names+=("$value") ;;
                plain:*) described+=("$value:$about") ;;
                *) paths=$kind ;;
            esac
        done

    # What follows the = of --option=value is completed, the rest stays.
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    case $paths in
        dir) _path_files -/ ;;
        file) _path_files -f ;;
    esac
    (( $#described )) && _describe -V unsorted described
    (( $#names )) && compadd -V unsorted -a names
}

case $zsh_eval_context[-1] in
    loadautofunc) %(complete_func)s "$@" ;;  # found through fpath
    *) compdef %(complete_func)s %(prog_name)s ;;  # read with eval or source
esac
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
