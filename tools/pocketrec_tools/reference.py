"""docs/reference/cli.md and api.md, made from the code: `python -m pocketrec_tools.reference docs/reference`.

The command line is read off its parameters, the Python names off their signatures and docstrings, so that
neither page says what the code does not.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import os
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.models import ArgumentInfo

import pocketrec
from pocketrec.cli import VERBS

CLI_HEAD = """\
# The command line

Made from the code by `make docs`. `pocketrec VERB --help` says the same at a terminal. Every error is
one line on standard error; the exit status is 0, 1 for a failed check, 2 for bad input.
"""

API_HEAD = """\
# The Python names

Made from the docstrings by `make docs`: what `from pocketrec import …` gives. Everything else may
change between releases.
"""

_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")


def cli_page() -> str:
    """The verbs, each with its arguments and options."""
    parts = [CLI_HEAD]
    for name, verb in VERBS.items():
        function = getattr(importlib.import_module(verb.module), verb.function)
        parameters = list(_parameters(function))
        arguments = [p.usage for p in parameters if p.argument]
        usage = " ".join(["pocketrec", name, *arguments, "[OPTIONS]"])
        needs = f"\n\nNeeds `pip install 'pocketrec[{verb.extra}]'`." if verb.extra else ""
        parts.append(f"\n## `{name}`\n\n```\n{usage}\n```\n\n{inspect.getdoc(function) or ''}{needs}\n")
        rows = [f"| {p.names} | {p.words} |" for p in parameters]
        parts.append("\n| | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def api_page() -> str:
    """The public names of `pocketrec`, with signatures and contracts."""
    parts = [API_HEAD]
    for name in sorted(pocketrec.__all__):
        if name == "__version__":
            continue
        thing = getattr(pocketrec, name)
        parts.append(f"\n## `{name}`\n\n")
        if not inspect.isclass(thing):
            signature = f"{name}{_signature(thing)}" if callable(thing) else repr(thing)
            parts.append(f"```python\n{_wrapped(signature)}\n```\n\n{_prose(inspect.getdoc(thing))}")
            continue
        if thing.__init__ is not object.__init__ and not issubclass(thing, Exception):
            parts.append(f"```python\n{_wrapped(name + _signature(thing.__init__))}\n```\n\n")
        parts.append(_prose(thing.__doc__))
        for method, function in _methods(thing):
            parts.append(f"\n### `{name}.{method}`\n\n")
            if callable(function):
                parts.append(f"```python\n{_wrapped(method + _signature(function))}\n```\n\n")
            parts.append(_prose(inspect.getdoc(function)))
    return "".join(parts)


def write(folder: Path) -> list[Path]:
    """Write both pages into the folder; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, text in (("cli.md", cli_page()), ("api.md", api_page())):
        partial = folder / f".{name}.part"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
        made.append(folder / name)
    return made


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a verb, as the page shows it.

    Attributes:
        argument: it has no name and stands in its place.
        usage: of an argument, in brackets where it may be left out.
        names, words: the cells of the table.
    """

    argument: bool
    usage: str
    names: str
    words: str


def _parameters(function: Any) -> Iterator[Parameter]:
    """Read off the annotations, which are ours, and not off typer's commands, whose insides change."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = typing.get_args(hints[name])[:2]
        required = parameter.default is inspect.Parameter.empty
        said = " ".join((info.help or "").split()).replace("|", "\\|")
        default = getattr(parameter.default, "value", parameter.default)
        if not required and default is not None and default is not False and "default:" not in said:
            said += f" Default: `{default}`."
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or name.upper()
            yield Parameter(True, shown if required else f"[{shown}]", f"`{shown}`".replace("|", "\\|"), said)
            continue
        value = "" if kind is bool else f" {info.metavar or _kind(kind)}"
        # In an annotation typer keeps the first name where a default would be.
        first = [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []
        options = [*first, *(info.param_decls or ())] or [f"--{name.replace('_', '-')}"]
        names = ", ".join(f"`{option}{value}`" for option in options).replace("|", "\\|")
        yield Parameter(False, "", names, said + ("" if not required else " Required."))


def _kind(kind: Any) -> str:
    """What a value of this type is called."""
    plain = next((part for part in typing.get_args(kind) if part is not type(None)), kind)
    plain = next(iter(typing.get_args(plain)), plain)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return "|".join(str(member.value) for member in plain)
    return {"int": "N", "float": "X"}.get(plain.__name__, plain.__name__.upper())


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature.replace(parameters=parameters)))
    return re.sub(r"<(?:built-in )?function (\w+)[^>]*>", r"\1", text)


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines, in the order of its text."""
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if isinstance(plain, property) or (inspect.isfunction(plain) and plain.__doc__):
            yield name, plain


def _wrapped(signature: str) -> str:
    if len(signature) <= 100:
        return signature
    head, inner = signature.split("(", 1)
    inner, tail = inner.rsplit(")", 1)
    # Commas inside brackets belong to a type.
    parts, depth, part = [], 0, ""
    for letter in inner:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return f"{head}(\n" + "".join(f"    {text},\n" for text in [*parts, part.strip()]) + f"){tail}"


def _prose(docstring: str | None) -> str:
    """A docstring as Markdown: its sections become lists."""
    lines, out = inspect.cleandoc(docstring or "").splitlines(), []
    place = 0
    while place < len(lines):
        name = lines[place].removesuffix(":")
        if name in _SECTIONS and lines[place].endswith(":"):
            block = []
            place += 1
            while place < len(lines) and (not lines[place] or lines[place].startswith(" ")):
                block.append(lines[place])
                place += 1
            out += [f"**{name}**", "", *_entries(textwrap.dedent("\n".join(block))), ""]
        elif lines[place].startswith("    "):
            block = []
            while place < len(lines) and (not lines[place] or lines[place].startswith("    ")):
                block.append(lines[place][4:])
                place += 1
            out += ["```", *"\n".join(block).rstrip().splitlines(), "```", ""]
        else:
            out.append(lines[place])
            place += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out).rstrip()) + "\n"


def _entries(block: str) -> list[str]:
    joined = re.sub(r"\n +", " ", block).strip().splitlines()
    return [
        f"- {re.sub(r'^([A-Za-z_][A-Za-z0-9_, ]*): ', _code, line)}" if ": " in line else line
        for line in joined
        if line
    ]


def _code(match: re.Match[str]) -> str:
    return ", ".join(f"`{name.strip()}`" for name in match[1].split(",")) + ": "


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stderr.write(f"{written}\n")
