"""The verbs of the command line that need the build side: build, export. Thin shells around `build.build` and
`exporting.export_checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec.output import human_bytes, note, print_json, show_progress
from pocketrec.verbs import AsJson

from .build import build
from .config import load_config
from .launched import is_main
from .options import TARGETS, Budget, ExportOptions

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

ALL_TARGETS = ",".join(TARGETS)


def _options(
    targets: str,
    precision: str,
    name: str,
    licence: list[str] | None,
    sign_key: Path | None,
    as_zip: bool,
    force: bool,
    versions: tuple[int, int],
    budget: Budget,
    display: str | None,
) -> ExportOptions:
    licences: dict[str, str] = {}
    for entry in licence or []:
        what, equals, spdx = entry.partition("=")
        if not equals or not what or not spdx:
            raise DataError(
                f"--licence {entry!r} is not WHAT=SPDX.", remedy="For example: --licence data=CC0-1.0"
            )
        licences[what] = spdx
    try:
        key = sign_key.read_bytes() if sign_key else None
    except OSError as error:
        raise DataError(
            f"--sign-key {sign_key}: {error.strerror}.", remedy="Give an Ed25519 key in PEM."
        ) from None
    return ExportOptions(
        targets=tuple(t for t in targets.split(",") if t),
        precision=precision,
        name=name,
        licences=licences,
        sign_key=key,
        as_zip=as_zip,
        force=force,
        model_version=versions[0],
        catalogue_version=versions[1],
        budget=budget,
        display=None if display is None else [name for name in display.split(",") if name],
    )


def _compression(width: int | None, low_rank: float | None) -> dict[str, Any]:
    """What the command line says of `[compression]`."""
    said = {"width": width, "kept": low_rank}
    given = {key: value for key, value in said.items() if value is not None}
    return {"compression": given} if given else {}


Out = Annotated[
    Path, typer.Option("--out", metavar="BUNDLE", help="Where the bundle goes.", show_default=False)
]
Targets = Annotated[str, typer.Option("--targets", metavar="A,B", help="Graphs to write: onnx, executorch.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32, int8, int4, mixed or search.")]
Display = Annotated[
    str | None,
    typer.Option(
        "--display",
        metavar="A,B",
        help="Columns of the items that the app shows.  [default: all]",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Option("--name", help="Label in the manifest.  [default: the bundle's name]")]
Licence = Annotated[
    list[str] | None,
    typer.Option(
        "--licence", metavar="WHAT=SPDX", help="Of the model, the data, … Repeatable.", show_default=False
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option("--sign-key", metavar="FILE", help="Ed25519 private key, PEM.", show_default=False),
]
Width = Annotated[
    int | None,
    typer.Option(
        "--width",
        metavar="N",
        help="Numbers in a row to cut the student to, a multiple of 32.  [default: as trained]",
        show_default=False,
    ),
]
LowRank = Annotated[
    float | None,
    typer.Option(
        "--low-rank", help="Part of the backbone's numbers to keep.  [default: 1]", show_default=False
    ),
]
MaxBytes = Annotated[
    int | None,
    typer.Option("--max-bytes", metavar="N", help="Fail if the bundle is larger.", show_default=False),
]
MaxNdcgLoss = Annotated[
    float | None,
    typer.Option(
        "--max-ndcg-loss", metavar="PART", help="Fail if more of NDCG@10 is lost: 0.01.", show_default=False
    ),
]
MaxMs = Annotated[
    float | None,
    typer.Option("--max-ms", help="Fail if a list takes longer here.", show_default=False),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        help="Where the build's report goes.  [default: beside it]",
        show_default=False,
    ),
]
AsZip = Annotated[bool, typer.Option("--zip", help="One stored ZIP instead of a directory.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")]
ModelVersion = Annotated[
    int, typer.Option("--model-version", min=1, help="Grows with each model that apps are to get.")
]
CatalogueVersion = Annotated[
    int, typer.Option("--catalogue-version", min=1, help="Grows with each catalogue that apps are to get.")
]


def cli_build(
    data_dir: Annotated[
        Path, typer.Argument(metavar="DATA_DIR", help="Holds interactions.csv and items.csv.")
    ],
    out: Out,
    size: Annotated[str | None, typer.Option("--size", help="tiny, small or base.  [default: small]")] = None,
    teacher: Annotated[
        str,
        typer.Option("--teacher", help="ensemble, sequence, none, a language model's directory, or scores."),
    ] = "ensemble",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE.toml", help="Settings, see docs/configuration.md.", show_default=False
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random.  [default: 0]")] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", help="Stop training in time to end about then.", show_default=False),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir", help="Where stages are kept.  [default: BUNDLE.build]", show_default=False
        ),
    ] = None,
    targets: Targets = ALL_TARGETS,
    precision: PrecisionOption = "int8",
    width: Width = None,
    low_rank: LowRank = None,
    max_bytes: MaxBytes = None,
    max_ndcg_loss: MaxNdcgLoss = None,
    max_ms: MaxMs = None,
    report: Report = None,
    display: Display = None,
    name: Name = "",
    licence: Licence = None,
    sign_key: SignKey = None,
    as_zip: AsZip = False,
    force: Force = False,
    model_version: ModelVersion = 1,
    catalogue_version: CatalogueVersion = 1,
    as_json: AsJson = False,
) -> None:
    """Train a student on a data directory and write a verified bundle.

    Killed at any point, the same command goes on where it was.
    """
    budget = Budget(max_bytes, max_ndcg_loss, max_ms)
    versions = (model_version, catalogue_version)
    options = _options(targets, precision, name, licence, sign_key, as_zip, force, versions, budget, display)
    overrides: dict[str, Any] = {}
    if size is not None:
        overrides["student"] = {"size": size}
    if seed is not None:
        overrides["seed"] = seed
    overrides |= _compression(width, low_rank)
    settings = load_config(config, overrides)
    if is_main():
        show_progress()
    result = build(
        data_dir,
        out,
        settings,
        options,
        teacher=teacher,
        work_dir=work_dir,
        max_minutes=max_minutes,
        report_dir=report or out.parent,
    )
    if not is_main():
        return
    if as_json:
        print_json(result.to_dict())
        return
    _say_quality(result.figures)
    for doubt in result.doubts:
        note(doubt)
    _say_done(result.bundle, result.figures["compression"])


def cli_export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A student that `build` trained; or any Qwen3 or Llama, with --data."
        ),
    ],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DATA_DIR",
            help="Its data: for a foreign checkpoint, --width, --low-rank, search, limits and figures.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        str,
        typer.Option("--rows", metavar="text|llm|FILE", help="Item rows of a foreign checkpoint."),
    ] = "text",
    length: Annotated[
        int, typer.Option("--length", help="Events that a foreign checkpoint reads; 0: by the data.", min=0)
    ] = 0,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.toml", help="Its [compression].", show_default=False),
    ] = None,
    targets: Targets = ALL_TARGETS,
    precision: PrecisionOption = "int8",
    width: Width = None,
    low_rank: LowRank = None,
    max_bytes: MaxBytes = None,
    max_ndcg_loss: MaxNdcgLoss = None,
    max_ms: MaxMs = None,
    report: Report = None,
    display: Display = None,
    name: Name = "",
    licence: Licence = None,
    sign_key: SignKey = None,
    as_zip: AsZip = False,
    force: Force = False,
    model_version: ModelVersion = 1,
    catalogue_version: CatalogueVersion = 1,
    as_json: AsJson = False,
) -> None:
    """Write the bundle of a trained checkpoint; only --width and `finish_epochs` train.

    What is learnt then is kept in BUNDLE.build: killed at any point, the same command goes on where it was.
    """
    budget = Budget(max_bytes, max_ndcg_loss, max_ms)
    versions = (model_version, catalogue_version)
    options = _options(targets, precision, name, licence, sign_key, as_zip, force, versions, budget, display)
    settings = load_config(config, _compression(width, low_rank))
    show_progress()
    from .data import load_dataset
    from .exporting import export_checkpoint
    from .precision_quality import Judge
    from .writer import recover, refuse_existing

    recover(out)
    refuse_existing(out, force)
    loaded = _opened(checkpoint, data, rows, length)
    figures = {"student": loaded.meta["trained"]} if "trained" in loaded.meta else {}
    if "foreign" in loaded.meta:
        figures = {"foreign": loaded.meta["foreign"]}
    compression, judge = settings.compression, None
    if data is not None:
        judge = Judge(loaded, load_dataset(data), compression.validation_users, settings.seed)
    where = report or (out.parent if judge is not None else None)
    verification = export_checkpoint(
        loaded,
        out,
        options,
        figures,
        settings=compression,
        judge=judge,
        report=where,
        work=out.with_name(out.name + ".build"),
    )
    with Bundle.open(out) as bundle:
        measured = bundle.manifest.figures.get("compression", {})
    if as_json:
        print_json({"bundle": str(out), "verification": verification.to_dict(), "compression": measured})
        return
    _say_done(out, measured)


def _opened(checkpoint: Path, data: Path | None, rows: str, length: int) -> Checkpoint:
    from .checkpoint import load_checkpoint
    from .data import load_dataset
    from .foreign import ForeignOptions, foreign_checkpoint, is_foreign

    if not is_foreign(checkpoint):
        return load_checkpoint(checkpoint)
    if data is None:
        raise DataError(
            f"{checkpoint} is no checkpoint of `pocketrec build`, and there is no catalogue to go with it.",
            code="checkpoint-invalid",
            remedy="Give the student directory that a build left in its work directory; or, for a Hugging "
            "Face decoder, the data directory too: --data DIR.",
        )
    return foreign_checkpoint(str(checkpoint), load_dataset(data), ForeignOptions(rows, length))


def _say_quality(figures: dict[str, Any]) -> None:
    parts = {"popularity": figures["popularity"]}
    parts |= {name: figures[name]["test"] for name in ("teacher", "student") if name in figures}
    told = [f"{name} {part['hr@10']:.4f}, {part['ndcg@10']:.4f}" for name, part in parts.items()]
    note(f"HR@10, NDCG@10 on test (float32): {'; '.join(told)}.")


def _say_done(bundle: Path, measured: dict[str, Any]) -> None:
    size = bundle.stat().st_size if bundle.is_file() else sum(f.stat().st_size for f in bundle.iterdir())
    note(f"{bundle}: {human_bytes(size)}, verified on every runtime here.")
    if "lost" in measured:
        lost = measured["lost"]
        note(
            f"Of the float32 student's NDCG@10 {lost['mean']:.2%} is lost, {lost['low']:.2%} to "
            f"{lost['high']:.2%} by the paired 95 % interval of {measured['users']:,} validation users."
        )
    note(f"Next: pocketrec inspect {bundle}   or   pocketrec rank {bundle} --items ID,ID")
