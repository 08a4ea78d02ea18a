"""`pocketrec install`: a thin shell around `install` and `roll_back`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pocketrec.errors import DataError
from pocketrec.output import print_json, print_table
from pocketrec.verbs import AsJson, PublicKeys, read_keys


def cli_install(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="Directory or stored ZIP.", show_default=False),
    ] = None,
    into: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The directory of versions.", show_default=False)
    ] = None,
    public_key: PublicKeys = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="NAME", help="The engine that has to give the golden answers."),
    ] = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Also a lower version than the live one.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also one that was rolled back here.")] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="How long replaying its golden vectors may take.")
    ] = 120,
    roll_back: Annotated[
        Path | None,
        typer.Option(
            "--roll-back", metavar="DIR", help="Install nothing: make the version before live again."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle as a stranger's, put it beside the live one, and make it live in one step."""
    from pocketrec import install_versions

    if roll_back is not None and bundle is None:
        found = install_versions.roll_back(roll_back)
    elif roll_back is None and bundle is not None and into is not None:
        found = install_versions.install(
            bundle,
            into,
            public_keys=read_keys(public_key),
            engine=engine,
            allow_downgrade=allow_downgrade,
            again=again,
            seconds=seconds,
        )
    else:
        raise DataError(
            "install needs a bundle and a directory, or --roll-back and a directory.",
            code="argument-invalid",
            remedy="pocketrec install BUNDLE DIR",
        )
    if as_json:
        print_json(found.to_dict())
        return
    trial = "at its first use its answers are checked once more" if found.on_trial else "in use"
    print_table(
        ("", ""),
        [
            ("live", f"model {found.model_version} · catalogue {found.catalogue_version}, {trial}"),
            ("bundle id", found.bundle_id),
            ("changed", "yes" if found.changed else "no, it was live already"),
            ("before it", found.previous or "nothing"),
            *(
                ("rolled back", f"model {r.model_version} · catalogue {r.catalogue_version}: {r.reason}")
                for r in found.rejected
            ),
        ],
    )
