"""Completion for bash and zsh, from the parser of the command line by shtab: python -m tests.build.completion SHELL

The script is static, so a key that is pressed starts nothing for options and commands. What only the configuration or
the journal knows, ``repmgr-hooks complete`` prints (``cli/complete.py``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import shtab

from repmgr_hooks.cli.arguments import parser

PLACES = {
    "bash": "bash-completion/completions/repmgr-hooks",
    "zsh": "zsh/site-functions/_repmgr-hooks",
}
"""Where each shell looks for it, below ``share``."""
KINDS = {"cluster": "clusters", "node": "nodes", "to": "nodes", "words": "event", "id": "events", "failover": "changes"}
"""What ``repmgr-hooks complete`` prints for an argument, by its name in the program."""
FILES = {"FILE": shtab.FILE, "DIRECTORY": shtab.DIRECTORY}

# Read line by line: `compgen -W` would expand what the program prints. Bash takes --config=FILE apart at the "=".
BASH = r"""
_repmgr_hooks_print() {
  local config=() i value
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == --config ]]; then
      [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
      config=(--config "${COMP_WORDS[i + 1]}")
    fi
  done
  while IFS=$'\t' read -r value _; do
    [[ $value == "$2"* ]] && printf '%s\n' "$value"
  done < <("${COMP_WORDS[0]}" "${config[@]}" complete "$1" -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null </dev/null)
}
"""
# _arguments leaves only the words of the command; those before them are kept by the function below (script()).
ZSH = r"""
_repmgr_hooks_print() {
  local -a line config found
  line=($_repmgr_hooks_typed)
  local at=${line[(I)--config]}
  (( at )) && config=(--config $line[at+1])
  found=(${(f)"$($line[1] $config complete $1 -- $line[2,-1] 2>/dev/null </dev/null)"})
  found=(${found/$'\t'/:})
  _describe -V $1 found
}
"""


def script(shell: str) -> str:
    """Return the script of a shell."""
    top = parser()
    for action in actions(top):
        if kind := KINDS.get(action.dest):
            action.complete = {shell: f"_repmgr_hooks_{kind}"}  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = FILES[str(action.metavar)]  # type: ignore[attr-defined]
        if shell == "zsh" and action.dest == "words":
            action.nargs = argparse.REMAINDER  # for zsh a "*" would be one word
    functions = [
        f'_repmgr_hooks_{kind}() {{ _repmgr_hooks_print {kind} "$1"; }}' for kind in sorted(set(KINDS.values()))
    ]
    own = {"bash": BASH, "zsh": ZSH}[shell].strip()
    made = shtab.complete(top, shell, preamble="\n".join([own, *functions]))
    # Of a line that holds several commands only the words of ours: the first one is run to complete the others.
    typed = '  local -a _repmgr_hooks_typed=("${(@Q)words[1,CURRENT-1]}")\n'
    assert "\n_shtab_repmgr_hooks() {\n" in made
    made = made.replace("\n_shtab_repmgr_hooks() {\n", "\n_shtab_repmgr_hooks() {\n" + typed * (shell == "zsh"), 1)
    # A variable of the user's shell may have the name of one that shtab does not declare.
    return made.replace("\n  local sub_parsers\n", "\n  local sub_parsers line\n")


def actions(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a command, and of those below it."""
    for action in command._actions:
        yield action
        for below in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from actions(below)


if __name__ == "__main__":
    sys.stdout.write(script(sys.argv[1]))
