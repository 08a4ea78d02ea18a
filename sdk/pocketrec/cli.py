"""The `pocketrec` command: a dispatcher that imports a verb only when it is used.

`pocketrec --help` shows one line a verb from the table below and imports none of them, so that it starts at
once and without torch. A verb is a plain function with typer's annotations, `cli_VERB`, in the module named
here.

Exit status: 0, 1 for a failed check, 2 for bad input. Errors of ours are one line on standard error; with
`--json` there is also a document `{"error": {"code", "message", "remedy"}}` on standard output.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from pocketrec import __version__
from pocketrec.errors import PocketrecError
from pocketrec.output import note, print_json

FAILED_CHECKS = {"budget-missed"}
"""Codes of errors that are a failed check; the others are bad input."""

OURS = ("pocketrec", "pocketrec_export", "pocketrec_tools")


@dataclass(frozen=True)
class Verb:
    """Where a verb lives, its line in `--help`, and the extra that brings what it needs."""

    module: str
    function: str
    summary: str
    extra: str = ""


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "pocketrec_tools.demo", "cli_demo", "The whole job on data it makes itself, in minutes.", "export"
    ),
    "build": Verb("pocketrec_export.verbs", "cli_build", "A data directory to a verified bundle.", "export"),
    "export": Verb(
        "pocketrec_export.verbs", "cli_export", "A trained checkpoint to a bundle, no training.", "export"
    ),
    "inspect": Verb(
        "pocketrec.verbs", "cli_inspect", "What a bundle says of itself: versions, sizes, figures."
    ),
    "verify": Verb(
        "pocketrec.verbs", "cli_verify", "Hashes, signature, golden vectors on every runtime present."
    ),
    "install": Verb(
        "pocketrec.verbs_install", "cli_install", "A bundle or delta into a directory of versions, live."
    ),
    "delta": Verb(
        "pocketrec_export.delta",
        "cli_delta",
        "The few rows that lead from one catalogue to the next.",
        "export",
    ),
    "rank": Verb("pocketrec.verbs", "cli_rank", "Rank the catalogue for a history."),
    "evaluate": Verb(
        "pocketrec_tools.evaluate", "cli_evaluate", "Quality of a bundle on held-out events.", "export"
    ),
    "simulate": Verb(
        "pocketrec_tools.simulate_cli",
        "cli_simulate",
        "Replay users as phones: report, plots, a page.",
        "tools",
    ),
    "bench": Verb("pocketrec_tools.bench", "cli_bench", "Latency, memory and size, side by side.", "tools"),
}


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are one-line stand-ins until one of them is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, verb in VERBS.items():
            self.commands[name] = typer.core.TyperCommand(name, help=verb.summary, callback=None)

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs in the order of the table, which is the order of a person's first day."""
        return list(VERBS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command for the verb in `args`; this is where its module is imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name in VERBS else command, rest


# Plain help for the group: rich would cost a third of the start.
app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pocketrec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Recommendations that fit in a phone: build a bundle, look into it, rank with it, offline."""


def load_verb(name: str) -> Any:
    """The command of a verb, its module imported now."""
    verb = VERBS[name]
    # Plain help, as of the group: rich takes what stands in brackets, such as a default, for markup.
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name)(getattr(importlib.import_module(verb.module), verb.function))
    return typer.main.get_command(single)


def main(args: list[str] | None = None) -> None:
    """Run the command line (default: the process's arguments) and exit with its status."""
    arguments = sys.argv[1:] if args is None else args
    try:
        typer.main.get_command(app)(arguments, prog_name="pocketrec")
    except PocketrecError as error:
        _fail(error, arguments)
    except ModuleNotFoundError as error:
        _fail(_missing(error, arguments), arguments)


def _missing(error: ModuleNotFoundError, arguments: list[str]) -> PocketrecError:
    """What to install; the error itself when it is one of our own modules, which no install would mend."""
    package = (error.name or "").partition(".")[0]
    name = next((argument for argument in arguments if argument in VERBS), "")
    if not name or package in OURS or not package:
        raise error
    extra = "executorch" if package == "executorch" else VERBS[name].extra
    wanted = f"'pocketrec[{extra}]'" if extra else package
    return PocketrecError(
        f"`pocketrec {name}` needs the package {package}, which is not installed.",
        code="package-missing",
        remedy=f"This verb needs pip install {wanted}",
    )


def _fail(error: PocketrecError, arguments: list[str]) -> None:
    note(f"error: {error}")
    if "--json" in arguments:
        message = str(error).removesuffix(error.remedy).rstrip()
        print_json({"error": {"code": error.code, "message": message, "remedy": error.remedy}})
    sys.exit(1 if error.code in FAILED_CHECKS else 2)


if __name__ == "__main__":
    main()
