"""Train the `llm` teacher by itself, on as many devices as `accelerate` is told:

    accelerate launch -m pocketrec_export.llm_run DATA_DIR --work BUNDLE.build --config recipe.toml

A later `pocketrec build DATA_DIR --out BUNDLE --config recipe.toml` with a teacher that asks for this model
finds it trained in its work directory. The main process prints one JSON document: how the teacher ranks.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from pocketrec.errors import PocketrecError
from pocketrec.output import note, print_json, show_progress

from .config import load_config
from .data import load_dataset


def llm_run(
    data_dir: Annotated[Path, typer.Argument(help="The data directory.")],
    work: Annotated[Path, typer.Option("--work", help="Where the teacher is kept.")],
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML, as for build.")] = None,
    checkpoint: Annotated[str, typer.Option(help="In place of [llm] checkpoint.")] = "",
    max_minutes: Annotated[float | None, typer.Option(help="For training.")] = None,
) -> None:
    """Train the llm teacher."""
    show_progress()
    try:
        config = load_config(config_file, {"llm": {"checkpoint": checkpoint}} if checkpoint else None)
        dataset = load_dataset(data_dir)
        from .llm_teacher import train_llm_teacher
        from .model import Material
        from .processes import processes
        from .student import SIZES
        from .teachers import held_out_metrics

        team = processes()
        if not team.is_main_process:
            logging.getLogger("pocketrec_export").setLevel(logging.ERROR)
        material = Material(dataset, SIZES[config.student.size].vocab)
        teacher = train_llm_teacher(
            material,
            config.llm,
            work,
            seed=config.seed,
            max_seconds=None if max_minutes is None else max_minutes * 60,
        )
    except PocketrecError as error:
        note(f"error: {error}")
        raise typer.Exit(2) from None
    if team.is_main_process:
        split, histories = material.split, material.ranker.histories
        length = config.llm.history_items
        figures = {
            part: held_out_metrics(teacher, histories, split, part, length).to_dict()
            for part in ("validation", "test")
        }
        print_json({"name": teacher.name, "key": teacher.key, "processes": team.num_processes, **figures})
    team.wait_for_everyone()
    team.destroy_process_group()


if __name__ == "__main__":
    typer.run(llm_run)
