"""Optimum as a second opinion: its export of the same checkpoint gives the hidden states of our graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from llm_worlds import checkpoint
from transformers import AutoModel

from pocketrec.engine_numpy import NumpyEngine
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import fp32
from support import require_package

LENGTH = 12


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_hidden_states_are_those_of_optimum(family: str, tmp_path: Path) -> None:
    """A history whose rows are token embeddings is a text: optimum reads its ids, our graph its rows."""
    require_package("optimum.exporters.onnx")
    from optimum.exporters.onnx import main_export

    saved = checkpoint(tmp_path / "checkpoint", family)
    out = tmp_path / "optimum"
    main_export(str(saved), output=out, task="feature-extraction", do_validation=False)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    model = AutoModel.from_pretrained(saved).eval()
    embeddings = model.get_input_embeddings().weight.detach().numpy()
    backbone = Backbone.from_decoder(model, torch.zeros(LENGTH, embeddings.shape[1]))
    engine = NumpyEngine(backbone_tensors(backbone, fp32), backbone.shape, LENGTH, backbone.dim)
    random = np.random.default_rng(0)
    for used in (1, 5, LENGTH):
        ids = random.integers(0, len(embeddings), (1, used))
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(used)[None]}
        inputs = {node.name: given[node.name] for node in session.get_inputs()}
        theirs = session.run(["last_hidden_state"], inputs)[0][0, -1]
        rows, mask = np.zeros((1, LENGTH, backbone.dim), np.float32), np.zeros((1, LENGTH), np.float32)
        rows[0, LENGTH - used :], mask[0, LENGTH - used :] = embeddings[ids[0]], 1
        with torch.no_grad():
            ours = backbone(torch.from_numpy(rows), torch.from_numpy(mask))[0].numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
        np.testing.assert_allclose(engine.run(rows, mask), theirs, rtol=0, atol=2e-5)
