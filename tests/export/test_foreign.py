"""Checkpoints that somebody else trained: what transformers saves becomes a bundle that ranks as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
import torch
from llm_worlds import SHAPE, checkpoint, text, tokenizer, walk
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from pocketrec.cli import main
from pocketrec.errors import DataError, PocketrecError
from pocketrec.inputs import InputRows
from pocketrec.manifest import TableSpec
from pocketrec.recommender import Recommender
from pocketrec.tables import Table
from pocketrec.text import TextRows
from pocketrec_export.data import Dataset
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.foreign import ForeignOptions, foreign_checkpoint, is_foreign
from pocketrec_export.options import ExportOptions
from pocketrec_export.text import text_features

LENGTH = 8
QUICK: dict[str, Any] = {"length": LENGTH, "users": 20}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return walk(tmp_path_factory.mktemp("foreign")).dataset


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp(request.param), request.param)


def test_the_bundle_ranks_as_transformers_does(saved: Path, data: Dataset, tmp_path: Path) -> None:
    """AutoModel over the same rows, no code of ours in between, gives the query of the bundle's engines."""
    foreign = foreign_checkpoint(str(saved), data, ForeignOptions(**QUICK))
    export_checkpoint(foreign, tmp_path / "bundle", ExportOptions(targets=("onnx",), precision="fp32"))
    model = AutoModel.from_pretrained(saved).eval()
    history = [data.item_ids[i] for i in (3, 4, 5)]
    with Recommender.open(tmp_path / "bundle", engine="onnxruntime") as recommender:
        bundle = recommender.bundle
        table = bundle.tables["items"].rows(np.arange(data.num_items))
        rows = torch.from_numpy(table[[3, 4, 5]])
        with torch.no_grad():
            hidden = model(inputs_embeds=rows[None]).last_hidden_state[0, -1]
        query = hidden + (torch.from_numpy(foreign.recency[-3:]) * rows).sum(dim=0)
        scores = table @ query.numpy()
        scores[[3, 4, 5]] = -np.inf
        answer = recommender.rank(history, k=5)
        np.testing.assert_allclose(
            [item.score for item in answer], np.sort(scores)[::-1][:5], rtol=1e-4, atol=1e-4
        )
        assert scores[answer[0].position] == pytest.approx(scores.max(), rel=1e-4, abs=1e-4)


def test_rows_of_text_are_token_embeddings_and_a_phone_makes_the_same(
    saved: Path, data: Dataset, tmp_path: Path
) -> None:
    foreign = foreign_checkpoint(str(saved), data, ForeignOptions(rows="text", **QUICK))
    embeddings = AutoModel.from_pretrained(saved).get_input_embeddings().weight.detach().numpy()
    own = tokenizer(False).backend_tokenizer
    weights = text_features(data.texts, own).weights
    np.testing.assert_allclose(
        foreign.item_rows, weights @ embeddings[: own.get_vocab_size()], rtol=1e-5, atol=1e-6
    )
    options = ExportOptions(targets=(), precision="fp32")
    export_checkpoint(foreign, tmp_path / "bundle", options)
    with Recommender.open(tmp_path / "bundle", engine="numpy") as recommender:
        made = TextRows(recommender.bundle).row(text(7))
    np.testing.assert_allclose(made, foreign.item_rows[7], rtol=1e-4, atol=1e-5)


def test_rows_of_the_llm_are_its_hidden_states(saved: Path, data: Dataset) -> None:
    foreign = foreign_checkpoint(str(saved), data, ForeignOptions(rows="llm", **QUICK))
    model = AutoModel.from_pretrained(saved).eval()
    token = tokenizer("llama" in str(saved))
    prompt = token("An item:\n")["input_ids"]
    for item in (0, 17):
        ids = [*prompt, *token(text(item), add_special_tokens=False)["input_ids"], token.eos_token_id]
        with torch.no_grad():
            state = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        row = foreign.item_rows[item]
        np.testing.assert_allclose(
            row / np.linalg.norm(row), state / np.linalg.norm(state), rtol=0, atol=1e-5
        )
    norms = np.linalg.norm(foreign.item_rows, axis=1)
    embeddings = model.get_input_embeddings().weight.detach().norm(dim=1).mean()
    np.testing.assert_allclose(norms, embeddings, rtol=1e-4)
    # Word rows are fitted to them: an item's text says much of its row, another text does not.
    own = foreign.words[np.asarray(text_rows_of(foreign, text(7)))].sum(axis=0)
    other = foreign.words[np.asarray(text_rows_of(foreign, text(23)))].sum(axis=0)
    assert own @ foreign.item_rows[7] > other @ foreign.item_rows[7]


def text_rows_of(foreign: Any, said: str) -> list[int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(foreign.tokenizer.decode()).encode(said, add_special_tokens=False).ids


def test_rows_of_a_file_are_taken_as_they_are(saved: Path, data: Dataset, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    dim = SHAPE["hidden_size"]
    tensors = {
        "items": random.normal(size=(data.num_items, dim)).astype(np.float32),
        "recency": random.normal(size=(LENGTH, dim)).astype(np.float32),
        "events": random.normal(size=(len(data.events), dim)).astype(np.float32),
    }
    path = tmp_path / "rows.safetensors"
    safetensors.numpy.save_file(tensors, path)
    foreign = foreign_checkpoint(str(saved), data, ForeignOptions(rows=str(path), **QUICK))
    np.testing.assert_array_equal(foreign.item_rows, tensors["items"])
    np.testing.assert_array_equal(foreign.recency, tensors["recency"])
    np.testing.assert_array_equal(foreign.event_rows, tensors["events"])
    assert not foreign.gap_rows.any()
    assert foreign.meta["foreign"]["rows"] == "file"
    safetensors.numpy.save_file({"items": tensors["items"][1:]}, path)
    with pytest.raises(DataError, match=r"items is float32 \[29, 64\]") as error:
        foreign_checkpoint(str(saved), data, ForeignOptions(rows=str(path), **QUICK))
    assert error.value.code == "rows-invalid"


def test_the_recency_path_is_never_worse_than_none_where_it_was_fitted(saved: Path, data: Dataset) -> None:
    fitted = foreign_checkpoint(str(saved), data, ForeignOptions(**QUICK))
    said = fitted.meta["foreign"]["recency"]
    assert said["users"] == 20
    assert said["validation_ndcg@10"] >= said["without_ndcg@10"]
    table = Table(TableSpec(file="i", rows=30, dim=64, scheme="fp32"), {"rows": fitted.item_rows})
    inputs = InputRows(table, fitted.event_rows, fitted.gap_rows, [""], fitted.meta["gap_seconds"], LENGTH)
    assert inputs.length == LENGTH
    weights = fitted.recency
    assert (weights == weights[:, :1]).all(), "one weight for all elements of a row"
    assert (np.diff(weights[:, 0]) >= 0).all(), "newer events weigh more"
    without = foreign_checkpoint(str(saved), data, ForeignOptions(length=LENGTH, users=0))
    assert not without.recency.any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"hidden_size": 72, "head_dim": 18}, "72 wide"),
    ],
)
def test_what_the_format_lacks_is_named(
    tmp_path: Path, data: Dataset, changes: dict[str, Any], named: str
) -> None:
    config = LlamaConfig(**(SHAPE | changes))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer(True).save_pretrained(tmp_path)
    with pytest.raises(PocketrecError, match=named) as error:
        foreign_checkpoint(str(tmp_path), data)
    assert error.value.code == "backbone-unsupported"
    assert error.value.remedy


def test_other_families_and_quantised_checkpoints_are_named(tmp_path: Path, data: Dataset) -> None:
    GPT2Config(vocab_size=40, n_embd=64, n_layer=1, n_head=2).save_pretrained(tmp_path)
    tokenizer(True).save_pretrained(tmp_path)
    with pytest.raises(PocketrecError, match=r"'gpt2'.*") as error:
        foreign_checkpoint(str(tmp_path), data)
    assert error.value.code == "backbone-unsupported"
    Qwen3Config(**SHAPE, quantization_config={"quant_method": "gptq", "bits": 4}).save_pretrained(tmp_path)
    with pytest.raises(PocketrecError, match="quantised already") as error:
        foreign_checkpoint(str(tmp_path), data)
    assert error.value.code == "backbone-unsupported"


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path, data: Dataset) -> None:
    with pytest.raises(DataError, match="no weights") as error:
        foreign_checkpoint(str(checkpoint(tmp_path, "qwen3", weights=False)), data)
    assert error.value.code == "checkpoint-invalid"


def test_data_without_texts_needs_rows(saved: Path, tmp_path: Path) -> None:
    from pocketrec_export.data import load_dataset

    rows = pl.DataFrame({"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": [1, 2, 3, 4]})
    rows.write_csv(tmp_path / "interactions.csv")
    bare = load_dataset(tmp_path)
    for way in ("text", "llm"):
        with pytest.raises(DataError) as error:
            foreign_checkpoint(str(saved), bare, ForeignOptions(rows=way))
        assert error.value.code == "data-no-text"
    items = np.random.default_rng(0).normal(size=(4, SHAPE["hidden_size"])).astype(np.float32)
    safetensors.numpy.save_file({"items": items}, tmp_path / "rows.safetensors")
    foreign = foreign_checkpoint(
        str(saved), bare, ForeignOptions(rows=str(tmp_path / "rows.safetensors"), length=4)
    )
    assert not foreign.words.any()


def test_what_a_build_left_is_not_foreign(tmp_path: Path) -> None:
    assert is_foreign(tmp_path)
    (tmp_path / "pocketrec.json").write_text("{}")
    assert not is_foreign(tmp_path)


def test_the_command_line(
    saved: Path, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk(tmp_path / "data")
    command = ["export", str(saved), "--out", str(tmp_path / "bundle"), "--targets", "onnx", "--json"]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "checkpoint-invalid"
    options = ["--data", str(tmp_path / "data"), "--rows", "llm", "--length", "8"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, *options])
    assert json.loads(capsys.readouterr().out)["verification"]["ok"]
    with Recommender.open(tmp_path / "bundle") as recommender:
        assert len(recommender.rank([data.item_ids[3]], 5)) == 5
        figures = recommender.bundle.manifest.figures["foreign"]
    assert figures["rows"] == "llm"
    assert str(tmp_path) not in json.dumps(figures), "no path of the machine that built it"
