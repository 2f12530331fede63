"""Writes docs/sdk-reference.md from the docstrings of the SDK: ``make docs``.

It reads the source and imports nothing, so what it writes depends on the source alone. What is
public is what ``queue_node_sdk.__all__`` names, and every name without an underscore that is
made in ``queue_node_sdk.tasks``, ``.testing`` and ``.fake``.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SDK: Final = Path(__file__).parents[1] / "sdk" / "queue_node_sdk"
PAGE: Final = Path(__file__).with_name("sdk-reference.md")

CHAPTERS: Final = (
    ("Clients", "", ("Client", "AsyncClient")),
    ("Options of a submit", "", ("JobOptions", "BackoffOptions", "Duration", "Submit")),
    (
        "What a node tells",
        "",
        ("Job", "JobState", "JobPage", "LeasedJob", "QueueInfo", "QueueList", "Rates", "Rate"),
    ),
    (
        "Workers",
        "",
        ("Worker", "JobContext", "Retry", "Reject", "Release", "current_job", "JobFields"),
    ),
    ("Errors", "errors", ()),
    ("Tasks", "tasks", ()),
    ("Testing", "testing", ()),
    ("A fake client", "fake", ()),
)
"""Headings; the module of which all public names are shown, or names of the package."""

_SECTIONS: Final = ("Args", "Raises", "Returns", "Yields")
_NOT_SHOWN: Final = frozenset(("Final", "TypeVar", "ParamSpec"))
_LINE: Final = 88
"""Characters of a signature before it is broken up."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Attribute:
    """A field of a class, a property, or a name of a module."""

    name: str
    type: str
    doc: str


@dataclass
class Method:
    """A function, or a method."""

    signature: str
    name: str
    doc: str


@dataclass
class Class:
    """A class and what it has."""

    name: str
    bases: list[str]
    doc: str
    signature: str | None = None
    attributes: list[Attribute] = field(default_factory=list)
    methods: list[Method] = field(default_factory=list)


Shown = Class | Method | Attribute


def page() -> str:
    """The whole page."""
    exported = _exported()
    parts = [
        "# Reference of the SDK",
        "Made by `make docs` from the docstrings; not to be edited. What it is like to use is"
        " told in [sdk.md](sdk.md), [sdk-worker.md](sdk-worker.md), [sdk-tasks.md](sdk-tasks.md)"
        " and [sdk-testing.md](sdk-testing.md).",
    ]
    told: set[str] = set()
    for heading, module, names in CHAPTERS:
        things = _public(module) if module else [_thing(exported[name], name) for name in names]
        intro = f"`queue_node_sdk.{module}`" if module else "`queue_node_sdk`"
        parts += [f"## {heading}", f"From {intro}."]
        parts += _errors(things) if module == "errors" else _chapter(things)
        told |= {thing.name for thing in things}
    missing = set(exported) - told
    if missing:
        raise SystemExit(f"in no chapter: {', '.join(sorted(missing))}")
    return "\n\n".join(parts) + "\n"


# Reading ------------------------------------------------------------------------------------


def _tree(module: str) -> ast.Module:
    return ast.parse((SDK / f"{module}.py").read_text(encoding="utf-8"))


def _exported() -> dict[str, str]:
    """``{name: module}`` of all that the package exports and that has a page to be on."""
    return {
        alias.name: (node.module or "").removeprefix("queue_node_sdk.")
        for node in _tree("__init__").body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if not alias.name.startswith("_")
    }


def _public(module: str) -> list[Shown]:
    things = (_shown(node, after) for node, after in _with_next(_tree(module).body))
    return [thing for thing in things if thing is not None and thing.name[0] != "_"]


def _thing(module: str, name: str) -> Shown:
    found = {thing.name: thing for thing in _public(module)}
    if isinstance(thing := found[name], Class):
        thing.bases = [base for base in thing.bases if base != "msgspec.Struct"]
    return found[name]


def _shown(node: ast.stmt, after: ast.stmt | None) -> Shown | None:
    match node:
        case ast.ClassDef():
            return _class(node)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return _function(node, bound=False)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            kind = ast.unparse(value)
            return None if kind.partition("(")[0] in _NOT_SHOWN else _named(name, kind, after)
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            return _named(name, ast.unparse(value), after)
    return None


def _named(name: str, kind: str, after: ast.stmt | None) -> Attribute | None:
    # A constant without a word about it is not meant for readers of this page.
    return Attribute(name, kind, _text(after)) if _text(after) else None


def _class(node: ast.ClassDef) -> Class:
    found = Class(node.name, [ast.unparse(base) for base in node.bases], _doc(node))
    for part, after in _with_next(node.body):
        match part:
            case ast.FunctionDef(name="__init__"):
                found.signature = _signature(node.name, part.args, bound=True)
                found.doc = _joined(found.doc, _doc(part))
                found.attributes += _of_self(part)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if part.name[0] != "_":
                _add(found, part)
            case ast.AnnAssign(target=ast.Name(id=name)) if name[0] != "_":
                default = f" = {ast.unparse(part.value)}" if part.value else ""
                kind = ast.unparse(part.annotation) + default
                found.attributes.append(Attribute(name, kind, _text(after)))
            case ast.Assign(targets=[ast.Name(id=name)]) if name[0] != "_":
                found.attributes.append(Attribute(name, ast.unparse(part.value), _text(after)))
    return found


def _add(found: Class, part: Function) -> None:
    decorators = [ast.unparse(each) for each in part.decorator_list]
    if "overload" in decorators:
        return
    if "property" in decorators:
        kind = ast.unparse(part.returns) if part.returns else ""
        found.attributes.append(Attribute(part.name, kind, _doc(part)))
    else:
        found.methods.append(_function(part, bound="staticmethod" not in decorators))


def _of_self(init: Function) -> Iterator[Attribute]:
    """What ``__init__`` sets and says something about."""
    for part, after in _with_next(init.body):
        match part:
            case (
                ast.Assign(targets=[ast.Attribute(attr=name)])
                | ast.AnnAssign(target=ast.Attribute(attr=name))
            ) if name[0] != "_" and _text(after):
                annotation = part.annotation if isinstance(part, ast.AnnAssign) else None
                kind = ast.unparse(annotation) if annotation else ""
                kind = "" if kind == "Final" else kind
                yield Attribute(name, kind, _text(after))


def _function(node: Function, *, bound: bool) -> Method:
    starts = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    signature = _signature(node.name, node.args, bound=bound) + returns
    return Method(starts + signature, node.name, _doc(node))


def _signature(name: str, arguments: ast.arguments, *, bound: bool) -> str:
    if bound:
        first = arguments.posonlyargs or arguments.args
        first.pop(0)
    each = list(_each(arguments))
    line = f"{name}({', '.join(each)})"
    return line if len(line) <= _LINE else f"{name}(\n    " + ",\n    ".join(each) + ",\n)"


def _each(arguments: ast.arguments) -> Iterator[str]:
    """The parameters, one by one."""
    # Split at the commas outside of brackets, as ast has no name for one with its default.
    depth, start, text = 0, 0, ast.unparse(arguments)
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield _spaced(text[start:index])
            start = index + 1
    if text:
        yield _spaced(text[start:])


def _spaced(parameter: str) -> str:
    """``name: type = default``, where ast writes no blanks."""
    name, equals, default = parameter.strip().partition("=")
    return f"{name} = {default}" if equals and ":" in name else parameter.strip()


def _with_next(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    return zip(body, [*body[1:], None], strict=True)


def _text(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return _clean(text)
    return ""


def _doc(node: Function | ast.ClassDef) -> str:
    return _clean(ast.get_docstring(node) or "")


def _clean(text: str) -> str:
    first, _, rest = text.strip().partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip().replace("``", "`")


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


# Writing ------------------------------------------------------------------------------------


def _chapter(things: list[Shown]) -> Iterator[str]:
    known: dict[str, str] = {}
    """``{method: docstring}`` of the classes so far in this chapter."""
    for thing in things:
        match thing:
            case Class():
                yield from _class_parts(thing, known)
            case Method():
                yield f"### `{thing.name}`"
                yield from _method_parts(thing)
            case Attribute():
                yield f"### `{thing.name}`"
                yield f"```text\n{thing.name} = {thing.type}\n```"
                yield thing.doc


def _class_parts(shown: Class, known: dict[str, str]) -> Iterator[str]:
    yield f"### `{shown.name}`"
    if shown.bases:
        yield f"Based on {', '.join(f'`{base}`' for base in shown.bases)}."
    if shown.signature is not None:
        yield f"```text\n{shown.signature}\n```"
    yield from _doc_parts(shown.doc)
    if shown.attributes:
        rows = (f"| `{each.name}` | {_cell(each)} |" for each in shown.attributes)
        yield "\n".join(("| | |", "|---|---|", *rows))
    same = [method for method in shown.methods if method.doc and _is_known(method, known)]
    if same:
        signatures = "\n".join(method.signature for method in same)
        yield f"As above:\n\n```text\n{signatures}\n```"
    for method in shown.methods:
        if method not in same:
            yield f"#### `{shown.name}.{method.name}`"
            yield from _method_parts(method)
    known |= {method.name: method.doc for method in shown.methods}


def _is_known(method: Method, known: dict[str, str]) -> bool:
    return known.get(method.name) == method.doc


def _cell(attribute: Attribute) -> str:
    kind = f"`{attribute.type}`".replace("|", "\\|") if attribute.type else ""
    return "<br>".join(part for part in (kind, _one_line(attribute.doc)) if part)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _method_parts(method: Method) -> Iterator[str]:
    yield f"```text\n{method.signature}\n```"
    yield from _doc_parts(method.doc)


def _doc_parts(doc: str) -> Iterator[str]:
    """Paragraphs; of Google's sections a list each."""
    pattern = rf"^({'|'.join(_SECTIONS)}):\n((?:[ ]+.*\n?|\n)*)"
    at = 0
    for section in re.finditer(pattern, doc, re.MULTILINE):
        yield from _paragraphs(doc[at : section.start()])
        items = re.split(r"\n(?=\S)", textwrap.dedent(section[2]).strip())
        yield f"{section[1]}:"
        yield "\n".join(_item(" ".join(item.split())) for item in items)
        at = section.end()
    yield from _paragraphs(doc[at:])


def _paragraphs(text: str) -> Iterator[str]:
    yield from (part.strip("\n") for part in re.split(r"\n{2,}", text) if part.strip())


def _item(text: str) -> str:
    name, colon, rest = text.partition(": ")
    return f"- `{name}`: {rest}" if colon else f"- {text}"


def _errors(things: Iterable[Shown]) -> Iterator[str]:
    rows = [
        f"| `{each.name}` | `{', '.join(each.bases)}` | {_one_line(each.doc)} |"
        for each in things
        if isinstance(each, Class)
    ]
    yield "\n".join(("| error | is a | when |", "|---|---|---|", *rows))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} written\n")
