"""Two processes of a real launch train one teacher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llm_worlds import checkpoint, quick, walk

from pocketrec_export.llm_teacher import train_llm_teacher
from pocketrec_export.teachers import held_out_metrics


@pytest.mark.slow
def test_two_processes_learn_together_and_leave_one_teacher(tmp_path: Path) -> None:
    world = walk(tmp_path / "data")
    config = quick(checkpoint(tmp_path / "model", "llama"), epochs=3, batch=8, learning_rate=3e-3)
    settings = config.model_dump()
    (tmp_path / "recipe.toml").write_text(
        "[student]\nsize = 'tiny'\n[llm]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in settings.items())
    )
    # accelerate's own launcher starts several processes on CPUs through MPI only; torch's needs none.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "pocketrec_export.llm_run", str(tmp_path / "data"),
               "--work", str(tmp_path / "work"), "--config", str(tmp_path / "recipe.toml")]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    told = json.loads(ran.stdout)
    assert told["processes"] == 2
    assert told["validation"]["ndcg@10"] > 0.5

    (directory,) = (tmp_path / "work").glob("llm-*")
    training = json.loads((directory / "done.json").read_text())
    assert training["processes"] == 2
    # 60 histories in batches of 8 for each of two processes, three times.
    assert training["steps"] == 3 * 4
    assert training["best_ndcg"] == pytest.approx(told["validation"]["ndcg@10"], abs=1e-9)

    teacher = train_llm_teacher(world, config, tmp_path / "work", seed=0)
    assert teacher.key == told["key"]
    alone = held_out_metrics(teacher, world.ranker.histories, world.split, "test", 50)
    assert alone.to_dict() == pytest.approx(told["test"])
