"""The rehearsal of an export: written, run and compared, each in a process, and the figures add up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketrec.errors import DataError
from pocketrec_tools.rehearsal import rehearse, table
from pocketrec_tools.rehearsal_worker import SHAPES, histories, random_backbone


@pytest.mark.slow
def test_a_graph_is_written_run_and_compared(tmp_path: Path) -> None:
    found = rehearse("tiny", "onnx:int8", length=6, rounds=3, samples=2, keep=tmp_path)
    written = found["write"]
    (file,) = tmp_path.iterdir()
    assert written["bytes"] == file.stat().st_size
    assert written["parameters"] == 2 * (2 * 96 * 96 + 2 * 96 * 48 + 3 * 96 * 192)
    assert written["schemes"] == ["int8"]
    assert written["operators"]["MatMulInteger"] == 14
    assert written["peak_bytes"] >= written["held_bytes"] > written["parameters"]
    assert len(found["run"]["ms"][0]) == 3
    assert max(found["compare"]["distances"]) <= found["compare"]["allowed"][1]
    assert "tiny onnx:int8, L = 6" in table([found])


def test_the_last_layer_for_every_position_answers_the_same() -> None:
    short, every = (random_backbone("tiny", 6, seed=1, every_position=way) for way in (False, True))
    every.load_state_dict(short.state_dict())
    for rows, mask in histories(6, 96, 3):
        a, b = (model(torch.from_numpy(rows), torch.from_numpy(mask)) for model in (short, every))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_shapes_are_those_of_the_models_they_name() -> None:
    """Parameters of the linears, from the sizes that the model cards give."""

    def linears(name: str) -> int:
        s = SHAPES[name]
        heads, keys = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
        return s["layers"] * (s["dim"] * (2 * heads + 2 * keys) + 3 * s["dim"] * s["intermediate"])

    vocabulary = {"smollm2-135m": 49_152, "qwen3-0.6b": 151_936}
    totals = {name: linears(name) + size * SHAPES[name]["dim"] for name, size in vocabulary.items()}
    assert totals["smollm2-135m"] == pytest.approx(134.5e6, rel=0.001)
    assert totals["qwen3-0.6b"] == pytest.approx(596e6, rel=0.001)


@pytest.mark.parametrize(
    ("shape", "graph"), [("huge", "onnx:int8"), ("tiny", "coreml:int8"), ("tiny", "onnx")]
)
def test_what_cannot_be_rehearsed(shape: str, graph: str) -> None:
    with pytest.raises(DataError) as error:
        rehearse(shape, graph)
    assert error.value.code == "rehearsal-invalid"
