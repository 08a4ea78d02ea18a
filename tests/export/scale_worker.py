"""What each of several processes runs: training in the ways that `test_scale_processes` asks about.

accelerate launch --cpu --num_processes 2 scale_worker.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.torch
import torch
from scale_worlds import circle, settings, trained

from pocketrec_export.processes import agreed, gathered, processes

POSITIONS, EPOCHS = 64, 2
# Without dropout, as that is each process's own.
PLAIN = {"behaviour_dropout": 0.0, "negatives": 10, "learning_rate": 1e-3}


def main(directory: Path) -> None:
    team = processes()
    number, count = team.process_index, team.num_processes
    material = circle(directory / f"data-{number}")
    assert count == 2
    assert agreed(number) == 0
    assert gathered(number) == list(range(count))
    for name, options, changes in (
        ("dense", {"lazy": False}, {}),
        ("lazy", {"lazy": True}, {}),
        ("whole", {"lazy": False}, {"negatives": 0}),
        ("resumed", {"lazy": True}, {}),
    ):
        state = directory / f"{name}.state"
        config = settings(positions=POSITIONS, epochs=EPOCHS, **(PLAIN | changes))
        if name == "resumed":
            trained(material, config.model_copy(update={"epochs": 1}), state, dropout=0.0, **options)
        weights, result = trained(material, config, state, dropout=0.0, **options)
        assert gathered(result) == [result] * count
        weights["losses"] = torch.tensor([r.loss for r in result.epochs])
        safetensors.torch.save_file(weights, directory / f"{name}-{number}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
