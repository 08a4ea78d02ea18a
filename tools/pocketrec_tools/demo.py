"""`pocketrec demo`: the whole job on data it makes itself, in a few minutes.

    report = demo("pocketrec-demo/")

1. a made-up shop (demo_data.py), 2. `build`: teacher, distilled student, int8 bundle, 3. `evaluate` on every
engine present, each in a process of its own, 4. one table, 5. a person's events recorded and ranked where no
network can be reached. What an interrupted run has finished is taken up again; a finished bundle is kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import pocketrec
from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError, DataError
from pocketrec.output import note, print_json, print_table, show_progress
from pocketrec.verbs import AsJson
from pocketrec_export.config import BuildConfig
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.demo_measure import measure_rows
from pocketrec_tools.demo_offline import rank_offline
from pocketrec_tools.demo_report import HEADERS, DemoReport
from pocketrec_tools.held_out import HeldOut

RECIPE: dict[str, Any] = {
    "student": {"size": "tiny", "length": 32},
    "training": {"epochs": 8, "patience": 3, "positions": 512, "warmup_steps": 20},
    "teacher": {"size": "tiny", "dropouts": [0.2]},
}
RECORDED = 4


def possible_targets() -> tuple[str, ...]:
    """The graphs that can be written here."""
    return ("onnx", "executorch") if importlib.util.find_spec("executorch") else ("onnx",)


@dataclass(frozen=True)
class DemoSettings:
    """What the demo makes; a directory holds the demo of one of these.

    Attributes:
        seed: of data and training.
        users, items: of the made-up shop.
        recipe: differences from the default build.
        targets: graphs to write; by default all that can be written here.
    """

    seed: int = 0
    users: int = 3000
    items: int = 1200
    recipe: dict[str, Any] = field(default_factory=lambda: RECIPE)
    targets: tuple[str, ...] = field(default_factory=possible_targets)

    def config(self) -> BuildConfig:
        """The build's configuration."""
        return BuildConfig.model_validate({"seed": self.seed, **self.recipe})

    def key(self) -> dict[str, Any]:
        """All that the bundle depends on."""
        return {
            "pocketrec": pocketrec.__version__,
            "seed": self.seed,
            "users": self.users,
            "items": self.items,
            "build": self.config().model_dump(mode="json"),
            "targets": list(self.targets),
        }


def demo(out: str | Path, settings: DemoSettings | None = None, *, force: bool = False) -> DemoReport:
    """Run the demo in the directory `out`, made when absent.

    Args:
        force: start over, whatever demo `out` holds.

    Raises:
        DataError: `demo-exists` when `out` holds a demo with other settings, or files of something else.
        PocketrecError: a step failed; the message says how.
    """
    settings, out = settings or DemoSettings(), Path(out)
    steps = _Steps()
    bundle = out / "bundle"
    checkpoint = _claim(out, settings, force)
    with steps("make a data set"):
        data = make_demo_data(out / "data", settings.seed, settings.users, settings.items, force=force)
    reused = checkpoint is not None
    with steps("take the bundle that is there" if reused else "build: teacher, student, bundle"):
        if checkpoint is None:
            checkpoint = _build(data, bundle, settings)
            _write_state(out, settings, checkpoint)
    with steps("evaluate on every engine here"):
        rows, total = measure_rows(data, bundle, checkpoint)
    with steps("record events and rank without network"):
        with Bundle.open(bundle) as opened:
            person, following = _person(HeldOut.load(data, opened.catalogue), settings.seed)
            named = [item for item, _, _ in person] + [following]
            titles = {item: _title(opened, item) for item in named}
        history = out / "me.db"
        session = rank_offline(bundle, history, person, (0, len(person) // 2, len(person)))
    return DemoReport(
        out=out,
        data=data,
        bundle=bundle,
        checkpoint=checkpoint,
        history=history,
        seed=settings.seed,
        users=settings.users,
        items=settings.items,
        reused=reused,
        rows=rows,
        bundle_bytes=total,
        person=person,
        next_item=(following, titles[following]),
        session=session,
        titles=titles,
        seconds=steps.seconds,
    )


class _Steps:
    """Says on standard error which step it is and how long it took."""

    COUNT = 4

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        note(f"[{len(self.seconds) + 1}/{self.COUNT}] {what}")
        began = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - began
        note(f"      {self.seconds[what]:.1f} s")


def _claim(out: Path, settings: DemoSettings, force: bool) -> Path | None:
    """Make `out` the directory of this demo; the checkpoint when its bundle is finished, else None."""
    state_file = out / "demo.json"
    if state_file.is_file():
        try:
            state = dict(json.loads(state_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            state = {}
        if state.get("settings") == settings.key() and not force:
            checkpoint = out / str(state.get("checkpoint"))
            return checkpoint if checkpoint.is_dir() and _usable(out / "bundle") else None
        if not force:
            raise DataError(
                f"{out} holds a demo with other settings.",
                code="demo-exists",
                remedy="Choose another directory with --out, or replace it with --force.",
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} holds something that is not a demo.",
            code="demo-exists",
            remedy="Choose another directory with --out.",
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_state(out, settings, None)
    if force:
        shutil.rmtree(out / "bundle.build", ignore_errors=True)
    return None


def _usable(bundle: Path) -> bool:
    if not bundle.exists():
        return False
    try:
        Bundle.open(bundle).close()
    except BundleError as error:
        note(f"The bundle that is there is built again: {error}")
        return False
    return True


def _write_state(out: Path, settings: DemoSettings, checkpoint: Path | None) -> None:
    state = {
        "settings": settings.key(),
        "checkpoint": None if checkpoint is None else checkpoint.relative_to(out).as_posix(),
    }
    partial = out / ".demo.json.part"
    partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, out / "demo.json")


def _build(data: Path, bundle: Path, settings: DemoSettings) -> Path:
    """Build the bundle and return the student's checkpoint."""
    from pocketrec_export.build import build
    from pocketrec_export.options import ExportOptions

    # Forced: a bundle that is there is one that an earlier run did not get to note down.
    licences = {"model": "Apache-2.0", "data": "CC0-1.0"}
    options = ExportOptions(targets=settings.targets, name="demo", licences=licences, force=True)
    return build(data, bundle, settings.config(), options).checkpoint


def _person(held_out: HeldOut, seed: int) -> tuple[list[tuple[str, str, int | None]], str]:
    """The last few events of a test user drawn by the seed, and the item that came next.

    Drawn among those whose events and next item are all different, if there are such.
    """
    order = np.random.default_rng(seed).permutation(held_out.users).tolist()
    ids = held_out.dataset.item_ids

    def told(user: int) -> tuple[list[tuple[str, str, int | None]], str]:
        return held_out.history(user)[-RECORDED:], ids[
            held_out.dataset.items[held_out.split.target(user, "test")]
        ]

    for user in order:
        events, following = told(user)
        if len({item for item, _, _ in events} | {following}) == RECORDED + 1:
            return events, following
    return told(order[0])


def _title(bundle: Bundle, item: str) -> str:
    position = bundle.catalogue.position(item)
    return item if position is None else bundle.catalogue.text("title", position)


def cli_demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where data, bundle and history go.")
    ] = Path("pocketrec-demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of data and training.")] = 0,
    users: Annotated[int, typer.Option("--users", metavar="N", help="Of the made-up shop.")] = 3000,
    items: Annotated[int, typer.Option("--items", metavar="N", help="Of the made-up shop.")] = 1200,
    targets: Annotated[
        str | None,
        typer.Option("--targets", metavar="A,B", help="Graphs to write: onnx, executorch.  [default: all]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start over, whatever demo is in DIR.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make data, build a bundle, compare the engines, and rank without network.

    Interrupted, the same command goes on where it was. A finished bundle in DIR is taken as it is.
    """
    show_progress()
    graphs = possible_targets() if targets is None else tuple(part for part in targets.split(",") if part)
    report = demo(out, DemoSettings(seed, users, items, targets=graphs), force=force)
    if as_json:
        print_json(report.to_dict())
        return
    typer.echo()
    print_table(HEADERS, [row.cells() for row in report.rows], right=HEADERS[1:])
    for lines in (report.remarks(), report.story(), report.next_steps()):
        typer.echo()
        for line in lines:
            typer.echo(line)
