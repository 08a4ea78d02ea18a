"""docs/configuration.md, made from the configuration's own fields: `python -m
pocketrec_export.config_reference`."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic.fields import FieldInfo

from .config import BuildConfig
from .section import Section

HEAD = """\
# Configuration

`pocketrec build … --config FILE.toml` reads a TOML file; what it leaves out keeps its default, and options of
the command line win over the file. A key that is not listed here is refused. This page is made by `make
docs`.

```toml
seed = 1

[student]
size = "tiny"

[training]
epochs = 20
```
"""


def reference() -> str:
    """The page, Markdown."""
    parts = [HEAD]
    for name, field in BuildConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            parts.append(f"## `[{name}]`\n\n{(section.__doc__ or '').strip()}\n\n{_table(section)}\n")
        else:
            parts.insert(1, f"`{name}` (default `{_toml(field.default)}`) stands at the top of the file.\n")
    return "\n".join(parts)


def _table(section: type[Section]) -> str:
    lines = ["| key | default | what |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        lines.append(f"| `{name}` | `{_toml(field.default)}` | {_meaning(field)} |")
    return "\n".join(lines)


def _meaning(field: FieldInfo) -> str:
    words = [field.description or ""]
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(c, str) for c in choices):
        words.append("one of " + ", ".join(f"`{c}`" for c in choices))
    bounds = []
    for rule in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if hasattr(rule, attribute):
                bounds.append(f"{sign} {getattr(rule, attribute):g}")
    words.append(", ".join(bounds))
    return "; ".join(w for w in words if w)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return f"{value}"


if __name__ == "__main__":
    sys.stdout.write(reference())
