"""Shell completion of the commands: flags, experiment folders and config keys.

A command prints the script of a shell, which asks the command for the config keys:

    eval "$(pods_train --print-completion bash)"
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

# In the scripts, @COMMAND@ is the command, @FUNCTION@ a name made of it, @FLAGS@ its flags.
_BASH = """\
@FUNCTION@() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} folder=. i found
    for ((i = 1; i < COMP_CWORD - 1; i++)); do
        if [[ ${COMP_WORDS[i]} == --dir ]]; then folder=${COMP_WORDS[i+1]}; fi
    done
    COMPREPLY=()
    if [[ $before == --dir ]]; then
        for found in "$word"*/config.py "$word"*/*/config.py; do
            if [[ -f $found ]]; then COMPREPLY+=("${found%/config.py}"); fi
        done
        if [[ ${#COMPREPLY[@]} == 0 ]]; then COMPREPLY=($(compgen -d -- "$word")); fi
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "@FLAGS@" -- "$word"))
    elif [[ $word == [A-Z]* ]]; then
        found=$(@COMMAND@ --dir "$folder" --print-completion keys 2>/dev/null)
        COMPREPLY=($(compgen -W "$found" -- "$word"))
    fi
    if [[ ${#COMPREPLY[@]} == 0 && $word != -* ]]; then COMPREPLY=($(compgen -f -- "$word")); fi
}
complete -F @FUNCTION@ @COMMAND@
"""
_ZSH = """\
@FUNCTION@() {
    local folder=.
    local -i at=${words[(i)--dir]}
    if (( at < CURRENT - 1 )); then folder=${words[at+1]}; fi
    if [[ ${words[CURRENT-1]} == --dir ]]; then
        compadd -- ${~PREFIX}*/config.py(N:h) ${~PREFIX}*/*/config.py(N:h)
        _files -/
    elif [[ $PREFIX == -* ]]; then
        compadd -- @FLAGS@
    elif [[ $PREFIX == [A-Z]* ]]; then
        compadd -- ${(f)"$(@COMMAND@ --dir $folder --print-completion keys 2>/dev/null)"} || _files
    else
        _files
    fi
}
compdef @FUNCTION@ @COMMAND@
"""
_FISH = """\
function @FUNCTION@_folder
    set -l typed (commandline -opc)
    set -l at (contains -i -- --dir $typed)
    and test $at -lt (count $typed)
    and echo $typed[(math $at + 1)]
    or echo .
end
function @FUNCTION@_folders
    for found in (commandline -ct)*/config.py (commandline -ct)*/*/config.py
        string replace -r '/config.py$' '' -- $found
    end
    __fish_complete_directories (commandline -ct)
end
complete -c @COMMAND@ -n 'string match -q -- "-*" (commandline -ct)' -f -a '@FLAGS@'
complete -c @COMMAND@ -l dir -x -a '(@FUNCTION@_folders)'
complete -c @COMMAND@ -n 'string match -qr "^[A-Z]" -- (commandline -ct)' \\
    -a '(@COMMAND@ --dir (@FUNCTION@_folder) --print-completion keys 2>/dev/null)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class PrintCompletion(argparse.Action):
    """Flag that prints a shell's script, or the config keys of --dir, and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        choices = (*_SCRIPTS, "keys")
        super().__init__(option_strings, argparse.SUPPRESS, choices=choices, **kwargs)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values == "keys":
            _print_keys(getattr(namespace, "dir", None) or ".")
        else:
            print(completion_script(parser, values), end="")
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes a parser's command in "bash", "zsh" or "fish"."""
    command = parser.prog.split()[0]
    flags = re.findall(r"^  (?:-\w, )?(--[\w-]+)", parser.format_help(), re.MULTILINE)
    return (
        _SCRIPTS[shell]
        .replace("@FUNCTION@", f"_{command.replace('.', '_')}_completion")
        .replace("@COMMAND@", command)
        .replace("@FLAGS@", " ".join(flags))
    )


def _print_keys(folder: str) -> None:
    """Print the config keys of the experiment in a folder; of every detector's if there is none."""
    from cvpods.configs import BaseDetectionConfig
    from cvpods.configs.config_dict import leaves
    from cvpods.tools.experiment import read_config
    from cvpods.utils.errors import ConfigError

    try:
        config = read_config(argparse.Namespace(dir=folder, opts=[], num_gpus=None))
    except ConfigError:
        config = BaseDetectionConfig()
    print("\n".join(leaves(config)))
