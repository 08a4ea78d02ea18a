"""Takes the Kotlin out of the pages: Maven compiles it against the library and the framework.

.venv/bin/python tests/android_snippets.py OUT
cd android_demo && mvn -Psnippets compile -Dpocketrec.snippets=OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("android_demo/README.md", "docs/android.md")
IMPORTS = """\
import android.content.Context
import java.io.File
import pocketrec.*
import pocketrec.android.*
"""
GIVEN = "context: Context, bundle: File, history: History, itemId: String"
"""What the surrounding text takes for granted."""


def snippets(page: Path) -> list[str]:
    """The blocks of Kotlin of a page, those for Gradle left out."""
    blocks = []
    for block in page.read_text("utf-8").split("```kotlin\n")[1:]:
        text = block.split("```")[0].rstrip(" ")
        if "dependencies {" not in text:
            blocks.append(text)
    return blocks


def write_snippets(out: Path) -> int:
    """One file a block in the new directory `out`: statements become a function. Gives how many there are."""
    out.mkdir(parents=True)
    blocks = [block for page in PAGES for block in snippets(ROOT / page)]
    for number, block in enumerate(blocks):
        declared = block.startswith(("/**", "suspend fun", "fun ", "class "))
        body = block if declared else f"suspend fun call({GIVEN}) {{\n{block}}}\n"
        (out / f"Snippet{number}.kt").write_text(f"package snippets.s{number}\n\n{IMPORTS}\n{body}", "utf-8")
    return len(blocks)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/android_snippets.py OUT")
    sys.stdout.write(f"{write_snippets(Path(sys.argv[1]))} snippets\n")
