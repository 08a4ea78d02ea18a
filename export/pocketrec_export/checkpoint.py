"""The student on disk: a Hugging Face checkpoint, and beside it what only a recommender has.

    config.json, model.safetensors      Qwen3Model; its token embedding is the word table
    tokenizer.json, …                   the tokenizer of the item texts
    pocketrec.json                      graph length, event types, gap thresholds, figures
    pocketrec.safetensors               item rows, recency, event rows, gap rows, idf, seen
    catalogue.parquet                   item ids and display columns, in the order of the item rows

`transformers.AutoModel.from_pretrained` opens the directory; so does `load_checkpoint`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors.numpy
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaModel, PreTrainedTokenizerFast, Qwen3Model

from pocketrec.errors import DataError

from .student import Student
from .text import SPECIAL_TOKENS

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A student without the machinery that trained it.

    Attributes:
        backbone: Qwen3Model (a foreign one may be a LlamaModel), float32, in evaluation mode, with the word
            table as its token embedding.
        item_rows: float32 [items, d], fused from text and behaviour.
        recency: float32 [length, d], weights of the history rows in the query, oldest position first.
        event_rows, gap_rows: float32 [events, d] and [thresholds + 2, d].
        idf: float32 [vocab].
        seen: int64 [items], training interactions.
        item_ids, columns: the catalogue.
        meta: the content of `pocketrec.json`.
    """

    backbone: Qwen3Model | LlamaModel
    item_rows: np.ndarray
    recency: np.ndarray
    event_rows: np.ndarray
    gap_rows: np.ndarray
    idf: np.ndarray
    seen: np.ndarray
    item_ids: list[str]
    columns: dict[str, list[str]]
    tokenizer: bytes
    meta: dict[str, Any]

    @property
    def length(self) -> int:
        return int(self.meta["length"])

    @property
    def words(self) -> np.ndarray:
        """Word table float32 [vocab, d]."""
        return self.backbone.embed_tokens.weight.detach().float().numpy()


@torch.no_grad()
def save_checkpoint(
    directory: Path,
    student: Student,
    tokenizer: Tokenizer,
    *,
    idf: np.ndarray,
    seen: np.ndarray,
    item_ids: list[str],
    columns: dict[str, list[str]],
    events: list[str],
    meta: dict[str, Any],
) -> None:
    """Write a checkpoint; the directory appears whole or not at all, and an old one is replaced."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    student = student.cpu().eval()
    words = student.rows.words.detach()
    student.backbone.embed_tokens = nn.Embedding.from_pretrained(words.clone(), freeze=False)
    student.backbone.config.vocab_size = len(words)
    student.backbone.save_pretrained(partial)
    student.backbone.embed_tokens = None
    pad, unk, bos, eos = SPECIAL_TOKENS
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unk, bos_token=bos, eos_token=eos
    ).save_pretrained(partial)
    rows = student.rows.table()
    tensors = {
        "items": rows.numpy(),
        "recency": student.recency_weights().flip(0).contiguous().numpy(),
        "events": student.event_rows.numpy(),
        "gaps": student.gap_rows.numpy(),
        "idf": idf,
        "seen": seen.astype(np.int64),
    }
    safetensors.numpy.save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial / "pocketrec.safetensors"
    )
    pl.DataFrame({"item_id": item_ids, **columns}).write_parquet(partial / "catalogue.parquet")
    description = {
        "format": FORMAT,
        "length": student.length,
        "events": events,
        "gap_seconds": list(student.gap_seconds),
        **meta,
    }
    (partial / "pocketrec.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    if directory.exists():
        shutil.rmtree(directory)
    os.replace(partial, directory)


def store_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint that was made of another one, such as a narrower student; the directory appears
    whole or not at all.

    Raises:
        DataError: `exists`, the directory is there.
    """
    if directory.exists():
        raise DataError(f"{directory} is there already.", code="exists", remedy="Name another directory.")
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.backbone.save_pretrained(partial)
    (partial / "tokenizer.json").write_bytes(checkpoint.tokenizer)
    tensors = {
        "items": checkpoint.item_rows,
        "recency": checkpoint.recency,
        "events": checkpoint.event_rows,
        "gaps": checkpoint.gap_rows,
        "idf": checkpoint.idf,
        "seen": checkpoint.seen,
    }
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        partial / "pocketrec.safetensors",
    )
    catalogue = pl.DataFrame({"item_id": checkpoint.item_ids, **checkpoint.columns})
    catalogue.write_parquet(partial / "catalogue.parquet")
    (partial / "pocketrec.json").write_text(json.dumps(checkpoint.meta, indent=1), encoding="utf-8")
    os.replace(partial, directory)


def load_checkpoint(directory: Path) -> Checkpoint:
    """Open a checkpoint of `save_checkpoint`.

    Raises:
        DataError: something is missing or does not fit; names the file.
    """
    for name in (
        "config.json",
        "pocketrec.json",
        "pocketrec.safetensors",
        "catalogue.parquet",
        "tokenizer.json",
    ):
        if not (directory / name).is_file():
            raise DataError(
                f"{directory} has no {name}.",
                code="checkpoint-invalid",
                remedy="Give the student directory that `pocketrec build` left in its work directory.",
            )
    meta = json.loads((directory / "pocketrec.json").read_text(encoding="utf-8"))
    if meta.get("format") != FORMAT:
        raise DataError(
            f"{directory / 'pocketrec.json'}: format {meta.get('format')!r}, this version reads {FORMAT}.",
            code="checkpoint-invalid",
            remedy="Build it again, or use the pocketrec version that made it.",
        )
    tensors = safetensors.numpy.load_file(directory / "pocketrec.safetensors")
    catalogue = pl.read_parquet(directory / "catalogue.parquet")
    if len(catalogue) != len(tensors["items"]):
        raise DataError(
            f"{directory}: catalogue.parquet has {len(catalogue)} items, "
            f"pocketrec.safetensors {len(tensors['items'])}.",
            code="checkpoint-invalid",
            remedy="Take both files from the same build.",
        )
    backbone = Qwen3Model.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()
    return Checkpoint(
        backbone=backbone,
        item_rows=tensors["items"],
        recency=tensors["recency"],
        event_rows=tensors["events"],
        gap_rows=tensors["gaps"],
        idf=tensors["idf"],
        seen=tensors["seen"],
        item_ids=catalogue["item_id"].to_list(),
        columns={name: catalogue[name].to_list() for name in catalogue.columns if name != "item_id"},
        tokenizer=(directory / "tokenizer.json").read_bytes(),
        meta=meta,
    )
