"""``queue-node completion bash|zsh|fish``: a script that lets a shell complete the commands.

The script is made from the parsers, holds all words itself and starts nothing, so completing
takes no time. It knows commands, their own commands, options, and the values that an option
chooses from; where a file may stand, and nowhere else, the shell completes files.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")

_FILES: Final = frozenset(("FILE", "PATH", "DIRECTORY", "DIR", "WAL_DIR", "DEST", "BACKUP"))
"""Metavars behind which there is a file or a folder."""


@dataclass
class Node:
    """A command, or a command of a command: what may come after it."""

    path: tuple[str, ...]
    help: str = ""
    commands: list["Node"] = field(default_factory=list)
    options: list["Option"] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    """What an argument without a name chooses from."""
    takes_files: bool = False
    """Whether an argument without a name is a file or a folder."""

    def walk(self) -> Iterator["Node"]:
        """This one and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


@dataclass(frozen=True)
class Option:
    """An option by all its names."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    is_file: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node completion``, its arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.epilog = (
        "Where it goes:\n\n"
        "  bash  queue-node completion bash > "
        "~/.local/share/bash-completion/completions/queue-node\n"
        "  zsh   queue-node completion zsh > ~/.zfunc/_queue-node\n"
        "        (in ~/.zshrc: fpath=(~/.zfunc $fpath); autoload -U compinit; compinit)\n"
        "  fish  queue-node completion fish > ~/.config/fish/completions/queue-node.fish"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script; returns the exit code."""
    # Here, for cli imports this module by its name.
    from queue_node.cli import whole_parser

    sys.stdout.write(script(arguments.shell, tree_of(whole_parser())))
    return 0


def script(shell: str, root: Node) -> str:
    """The script for a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](root)


def tree_of(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), words: str = "") -> Node:
    """What ``parser`` knows, commands of commands too."""
    node = Node(path, words)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            node.commands += [
                tree_of(sub, (*path, name), helps.get(name, ""))
                for name, sub in action.choices.items()
            ]
        elif action.option_strings:
            node.options.append(_option(action))
        elif action.choices:
            node.values += [str(choice) for choice in action.choices]
        else:
            node.takes_files = node.takes_files or action.metavar in _FILES
    return node


def _option(action: argparse.Action) -> Option:
    return Option(
        tuple(action.option_strings),
        _help(action.help),
        action.nargs != 0,
        tuple(str(choice) for choice in action.choices or ()),
        action.metavar in _FILES,
    )


def _help(text: str | None) -> str:
    return "" if text is None or text == argparse.SUPPRESS else text.replace("%%", "%")


# Bash -----------------------------------------------------------------------------------


def _bash(root: Node) -> str:
    """One case per command: which words may come; one per option with a value: which values."""
    words = "\n".join(
        f"    {_key(node)!r}) words={_quoted(_words(node))} ;;" for node in root.walk()
    )
    values = "\n".join(_bash_values(node) for node in root.walk() if _with_values(node))
    paths = "|".join(f"'{_key(node)}'" for node in root.walk() if node.path)
    files = "|".join(f"'{_key(node)}'" for node in root.walk() if node.takes_files)
    return f"""\
# Completion of queue-node for bash, made by `queue-node completion bash`.
_queue_node_files() {{
  local IFS=$'\\n'  # names with blanks stay whole
  compopt -o filenames 2> /dev/null
  COMPREPLY=($(compgen -f -- "$1"))
}}
_queue_node() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path='' words='' i
  COMPREPLY=()
  # The `=` of --option=value is a word of its own.
  [[ $before == = ]] && before=${{COMP_WORDS[COMP_CWORD-2]}}
  [[ $word == = ]] && word=''
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${{path:+$path }}${{COMP_WORDS[i]}}" in
      {paths}) path="${{path:+$path }}${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$path $before" in
{values}
  esac
  case "$path" in
{words}
  esac
  if [[ $word != -* ]]; then
    case "$path" in
      {files}) _queue_node_files "$word"; return ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -F _queue_node queue-node
"""


def _bash_values(node: Node) -> str:
    lines = []
    for option in _with_values(node):
        names = "|".join(f"'{_key(node)} {name}'" for name in option.names)
        if option.choices:
            reply = f'COMPREPLY=($(compgen -W {_quoted(option.choices)} -- "$word"))'
        else:
            reply = '_queue_node_files "$word"' if option.is_file else ":"
        lines.append(f"    {names}) {reply}; return ;;")
    return "\n".join(lines)


def _with_values(node: Node) -> list[Option]:
    return [option for option in node.options if option.takes_value]


def _key(node: Node) -> str:
    return " ".join(node.path)


def _words(node: Node) -> list[str]:
    names = [name for option in node.options for name in option.names]
    return [command.path[-1] for command in node.commands] + node.values + names


def _quoted(words: list[str] | tuple[str, ...]) -> str:
    """In single quotes; no word of ours has one."""
    return "'" + " ".join(words) + "'"


# Zsh ------------------------------------------------------------------------------------


def _zsh(root: Node) -> str:
    functions = "\n".join(_zsh_function(node) for node in root.walk())
    return (
        "#compdef queue-node\n"
        "# Completion of queue-node for zsh, made by `queue-node completion zsh`.\n"
        f'{functions}\n_queue_node "$@"\n'
    )


def _zsh_function(node: Node) -> str:
    specs = [spec for option in node.options for spec in _zsh_specs(option)]
    if not node.commands:
        if node.values:
            specs.append(f"'1: :({' '.join(node.values)})'")
        elif node.takes_files:
            specs.append("'*: :_files'")
        return f"{_zsh_name(node)}() {{\n  _arguments -s \\\n{_zsh_lines(specs)}\n}}"
    specs += ["'1: :->command'", "'*:: :->rest'"]
    described = "\n".join(
        f"        {_zsh_quote(command.path[-1] + ':' + command.help)}" for command in node.commands
    )
    cases = "\n".join(
        f"        {command.path[-1]}) {_zsh_name(command)} ;;" for command in node.commands
    )
    return f"""\
{_zsh_name(node)}() {{
  local context state line
  local -a commands
  local -A opt_args
  _arguments -C \\
{_zsh_lines(specs)}
  case $state in
    command)
      commands=(
{described}
      )
      _describe command commands ;;
    rest)
      case $line[1] in
{cases}
      esac ;;
  esac
}}"""


def _zsh_lines(specs: list[str]) -> str:
    return " \\\n".join(f"    {spec}" for spec in specs)


def _zsh_specs(option: Option) -> Iterator[str]:
    words = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    for name in option.names:
        value = ""
        if option.takes_value:
            action = "_files" if option.is_file else " "
            if option.choices:
                action = f"({' '.join(option.choices)})"
            value = f":value:{action}"
        # A `*`: some options may be given more than once, and it does no harm for the others.
        # A `=`: the value may follow it, or a blank.
        equals = "=" if option.takes_value and name.startswith("--") else ""
        yield _zsh_quote(f"*{name}{equals}[{words}]{value}")


def _zsh_name(node: Node) -> str:
    return "_" + "_".join(("queue_node", *(part.replace("-", "_") for part in node.path)))


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# Fish -----------------------------------------------------------------------------------

# fish's own __fish_seen_subcommand_from takes a value (`--queue dead`) for a command.
_FISH_HEAD: Final = """\
# Completion of queue-node for fish, made by `queue-node completion fish`.
function __queue_node_at
    set -l path ''
    for word in (commandline -opc)[2..-1]
        set -l longer (string trim -- "$path $word")
        contains -- $longer {paths}
        and set path $longer
    end
    test "$path" = "$argv[1]"
end"""


def _fish(root: Node) -> str:
    paths = " ".join(_fish_quote(_key(node)) for node in root.walk() if node.path)
    lines = [_FISH_HEAD.format(paths=paths)]
    for node in root.walk():
        condition = _fish_condition(node)
        if not node.takes_files:
            lines.append(f"complete -c queue-node {condition} -f")
        for command in node.commands:
            words = _fish_quote(command.help)
            lines.append(f"complete -c queue-node {condition} -f -a {command.path[-1]} -d {words}")
        if node.values:
            lines.append(
                f"complete -c queue-node {condition} -f -a {_fish_quote(' '.join(node.values))}"
            )
        lines += [_fish_option(option, condition) for option in node.options]
    return "\n".join(lines) + "\n"


def _fish_condition(node: Node) -> str:
    """When the words so far are those of this command, and of none below it."""
    at = f"__queue_node_at {_fish_quote(_key(node))}"
    return f"-n {_fish_quote(at)}"


def _fish_option(option: Option, condition: str) -> str:
    parts = [f"complete -c queue-node {condition}"]
    parts += [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
    ]
    if option.takes_value:
        # -x: a value is needed, and it is no file; -r: it is needed, and files are offered.
        parts.append("-r" if option.is_file else "-x")
    if option.choices:
        parts.append(f"-a {_fish_quote(' '.join(option.choices))}")
    parts.append(f"-d {_fish_quote(option.help)}")
    return " ".join(parts)


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
