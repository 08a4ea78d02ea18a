"""Foreign checkpoints: any Hugging Face decoder of Qwen3 or Llama layout as the backbone of a bundle.

    checkpoint = foreign_checkpoint("HuggingFaceTB/SmolLM2-135M", load_dataset("my-shop/"))
    export_checkpoint(checkpoint, Path("bundle"), ExportOptions())

The decoder is taken as it is; what a bundle needs besides (item rows, word table, recency path, popularity)
is made from the data directory. docs/export.md says what that is worth, and what has to be trained.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from pocketrec.errors import DataError, PocketrecError

from .backbone import decoder_shape
from .checkpoint import FORMAT, Checkpoint
from .config import BuildConfig
from .data import Dataset
from .foreign_rows import Rows, file_rows, fit_recency, fitted_words, hidden_state_rows
from .llm_checkpoint import LanguageModel, load_decoder, open_checkpoint
from .model import Material
from .text import text_features

log = logging.getLogger(__name__)

VOCABULARY = 8192
"""Of the tokenizer that is trained on the catalogue where rows do not come from the decoder's own tokens."""
TABLE_MULTIPLE, MAX_WIDTH, MAX_LAYERS = 32, 4096, 128  # docs/bundle.md §1 and §3


@dataclass(frozen=True)
class ForeignOptions:
    """How tables are made for a decoder that has none.

    Attributes:
        rows: "text", "llm", or the path of a safetensors file with the tensor `items`.
        length: events that the graph reads; 0 chooses by the data, as a build does.
        item_tokens: of an item's text that "llm" reads, at most.
        users: validation users that the recency path is fitted on, at most; 0 leaves it out.
    """

    rows: str = "text"
    length: int = 0
    item_tokens: int = 64
    users: int = 200


def is_foreign(directory: Path) -> bool:
    """Whether what is there, or nowhere, is no checkpoint that a build left."""
    return not (directory / "pocketrec.json").exists()


def foreign_checkpoint(name: str, dataset: Dataset, options: ForeignOptions | None = None) -> Checkpoint:
    """A checkpoint like one that a build leaves, around the decoder called `name`.

    Args:
        name: a directory, or a name on the hub.
        dataset: catalogue, texts, and events for popularity and the recency path.

    Raises:
        DataError: `llm-checkpoint` and `llm-tokenizer` as `open_checkpoint` and `load_decoder` say;
            `checkpoint-invalid` when it has no weights; `data-no-text` when "text" or "llm" find no text;
            `rows-invalid`, the file of rows does not fit.
        PocketrecError: `backbone-unsupported`, the decoder has something that the bundle format lacks.
    """
    options = options or ForeignOptions()
    model = open_checkpoint(name)
    _check(model)
    decoder: Any = load_decoder(model, torch.float32, 0)
    material = Material(dataset, VOCABULARY)
    lengths = np.diff(material.histories.offsets)
    length = options.length or BuildConfig().student.length_for(lengths)
    rows, words, idf, tokenizer = _tables(model, decoder, material, options, length)
    if rows.recency is None:
        recency = fit_recency(decoder, rows, material, length, options.users)
        weights: NDArray[np.float32] = recency.weights
        fitted: dict[str, Any] = {
            "decay": recency.decay,
            "weight": recency.weight,
            "users": recency.users,
        }
        if recency.users:
            fitted |= {"validation_ndcg@10": recency.ndcg, "without_ndcg@10": recency.alone}
    else:
        weights, fitted = rows.recency, {}
    dim = rows.items.shape[1]
    # The word table is the decoder's token embedding as far as a checkpoint is concerned.
    decoder.set_input_embeddings(nn.Embedding.from_pretrained(torch.from_numpy(words)))
    kinds, gaps = len(dataset.events), len(material.gap_seconds) + 2
    return Checkpoint(
        backbone=decoder,
        item_rows=rows.items,
        recency=weights,
        event_rows=np.zeros((kinds, dim), np.float32) if rows.events is None else rows.events,
        gap_rows=np.zeros((gaps, dim), np.float32) if rows.gaps is None else rows.gaps,
        idf=idf,
        seen=material.seen.astype(np.int64),
        item_ids=dataset.item_ids,
        columns=dataset.columns,
        tokenizer=tokenizer,
        meta={
            "format": FORMAT,
            "length": length,
            "events": dataset.events,
            "gap_seconds": list(material.gap_seconds),
            "foreign": {
                "checkpoint": model.label,
                "fingerprint": model.fingerprint,
                "rows": options.rows if options.rows in ("text", "llm") else "file",
                "recency": fitted,
            },
        },
    )


def _check(model: LanguageModel) -> None:
    """Refuse, before weights are read, what cannot become a bundle."""
    shape = decoder_shape(model.config)
    width = model.config.hidden_size
    if width % TABLE_MULTIPLE or width > MAX_WIDTH or shape.layers > MAX_LAYERS:
        raise PocketrecError(
            f"{model.label} is {width} wide and has {shape.layers} layers; a bundle holds widths that are "
            f"multiples of {TABLE_MULTIPLE} up to {MAX_WIDTH}, and {MAX_LAYERS} layers.",
            code="backbone-unsupported",
            remedy="Choose a smaller checkpoint.",
        )
    if getattr(model.config, "quantization_config", None) is not None:
        raise PocketrecError(
            f"{model.label} is quantised already ({model.config.quantization_config}).",
            code="backbone-unsupported",
            remedy="Give the checkpoint that it was made from; the export quantises it its own way.",
        )
    if not model.trained:
        raise DataError(
            f"{model.name} holds no weights.",
            code="checkpoint-invalid",
            remedy="Copy model.safetensors into it, or train a student: pocketrec build.",
        )
    if not getattr(model.config, "tie_word_embeddings", False):
        log.info("%s has an output head of its own, which a bundle has no place for", model.label)


def _tables(
    model: LanguageModel, decoder: Any, material: Material, options: ForeignOptions, length: int
) -> tuple[Rows, NDArray[np.float32], NDArray[np.float32], bytes]:
    """Rows, word table [vocab, d], idf [vocab] and the bytes of tokenizer.json."""
    dataset = material.dataset
    if options.rows == "text":
        own = _fast_tokenizer(model)
        size = own.get_vocab_size()
        embeddings = decoder.get_input_embeddings().weight.detach().float().numpy()
        if size > len(embeddings):
            raise DataError(
                f"{model.label}: the tokenizer has {size} tokens, the model {len(embeddings)}.",
                code="llm-tokenizer",
                remedy="Take model and tokenizer from one checkpoint.",
            )
        words = np.ascontiguousarray(embeddings[:size])
        features = text_features(dataset.texts, own)
        without = int((np.diff(features.weights.indptr) == 0).sum())
        if without == dataset.num_items:
            raise DataError(
                "no item has a text to make its row of.",
                code="data-no-text",
                remedy="Add items.csv with text columns, or give rows of your own with --rows FILE.",
            )
        if without:
            log.warning("%d of %d items have no text; their rows are zeros", without, dataset.num_items)
        items = np.ascontiguousarray(features.weights @ words, np.float32)
        return Rows(items), words, features.idf, own.to_str().encode()
    if options.rows == "llm":
        rows = Rows(
            hidden_state_rows(decoder, model.tokenizer, dataset.texts, dataset.item_ids, options.item_tokens)
        )
    else:
        path = Path(options.rows)
        if not path.is_file():
            raise DataError(
                f"--rows {options.rows} is neither text, llm nor a file.", remedy="Choose one of them."
            )
        gaps = len(material.gap_seconds) + 2
        width = model.config.hidden_size
        rows = file_rows(path, dataset.num_items, width, length, len(dataset.events), gaps)
    features = material.features
    return rows, fitted_words(features, rows.items), features.idf, material.tokenizer.to_str().encode()


def _fast_tokenizer(model: LanguageModel) -> Tokenizer:
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"{model.label} has no tokenizer.json, which a phone needs.",
            code="llm-tokenizer",
            remedy="Save its tokenizer with transformers' fast classes, or give --rows llm.",
        )
    own = Tokenizer.from_str(backend.to_str())
    own.no_padding()
    own.no_truncation()
    return own
