"""The `llm` teacher: a causal language model that ranks the catalogue by texts.

    teacher = train_llm_teacher(material, LLMConfig(checkpoint="Qwen/Qwen3-0.6B"), work, seed=0)
    write_cache(teacher, material.histories, directory, k=100, length=50)

That a language model can recommend from texts alone was shown by RecFormer (Li et al., KDD 2023, arXiv
2305.13731); reading a history with one model and its items with the same as embeddings is in the line of HLLM
(Chen et al., arXiv 2409.12740) and LLM2Rec (He et al., KDD 2025, arXiv 2506.21579). docs/llm-teacher.md says
what is done here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocketrec import __version__

from .llm_checkpoint import LanguageModel, open_checkpoint, write_scratch
from .llm_config import SCRATCH, LLMConfig
from .llm_encoder import DualEncoder, item_rows, make_encoder, position_queries
from .llm_prompts import Prompts
from .llm_state import Progressed, best_directory, finish, finished
from .llm_training import train_encoder
from .llm_validation import Validation
from .model import Material
from .processes import processes
from .progress import Progress
from .teachers import CHUNK_BYTES, Lists, Positions, lists_from_log_probs

log = logging.getLogger(__name__)

# Longer than any history and item that the defaults allow; the model has no positions to learn.
SCRATCH_LENGTH = 8192
# Of the catalogue, read at a time.
ROWS = 4096


class LLMTeacher:
    """A `Teacher` and a `Ranker`; make it with `train_llm_teacher`.

    Args:
        encoder: the trained model.
        prompts: the catalogue that it ranks.
        rows_file: where the rows of the catalogue are kept, float32 [items, width]; found there, they are not
            read again.

    Attributes:
        training: how its training went.
    """

    def __init__(
        self,
        name: str,
        key: str,
        encoder: DualEncoder,
        prompts: Prompts,
        config: LLMConfig,
        rows_file: Path,
        training: Progressed,
    ) -> None:
        self.name, self.key, self.items = name, key, prompts.items
        self.encoder, self.prompts, self.config = encoder, prompts, config
        self.training = training
        self._rows_file = rows_file
        self._rows: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """float32 [items, width], of unit length, on the encoder's device."""
        if self._rows is None:
            if not self._rows_file.exists():
                self._write_rows()
            mapped = np.load(self._rows_file, mmap_mode="c")
            self._rows = torch.from_numpy(mapped).to(self.encoder.device)
        return self._rows

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]: log-probabilities over the catalogue after each position.

        It looks at the last `history_items` events, or at half of them at least.
        """
        with torch.no_grad():
            queries = position_queries(
                self.encoder, self.prompts, positions, self.config.history_items, self.config.read_tokens
            )
            return torch.log_softmax(self.encoder.scale * queries @ self.rows.T, dim=1)

    def lists(self, positions: Positions, k: int) -> Lists:
        """See `Teacher.lists`."""
        parts = []
        for windows in positions.chunks(max(1, CHUNK_BYTES // (4 * self.items))):
            chunk = positions.part(windows)
            parts.append(lists_from_log_probs(self.log_probs(chunk), chunk, k))
        if not parts:
            raise ValueError("no positions")
        return Lists(*(np.concatenate([getattr(p, name) for p in parts]) for name in Lists.__annotations__))

    def _write_rows(self) -> None:
        everything = np.arange(self.items)
        partial = self._rows_file.with_name(f".{self._rows_file.name}.{os.getpid()}")
        mapped = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.float32, shape=(self.items, self.encoder.width)
        )
        parts = np.array_split(everything, -(-self.items // ROWS))
        with Progress("llm rows", total=len(parts)) as progress:
            for part in parts:
                rows = item_rows(self.encoder, self.prompts, part, self.config.read_tokens)
                mapped[part] = rows.cpu().numpy()
                progress.advance()
        mapped.flush()
        os.replace(partial, self._rows_file)


def train_llm_teacher(
    material: Material, config: LLMConfig, work: Path, *, seed: int, max_seconds: float | None = None
) -> LLMTeacher:
    """Train the teacher, or open it if it is there already; a killed training goes on where it was.

    In a launch of several processes each one calls this.

    Args:
        work: where everything is kept, in directories named after what it depends on.
        max_seconds: for training, earlier runs included; validation and what follows come on top.

    Raises:
        DataError: see `open_checkpoint`, `Prompts.make` and `make_encoder`.
    """
    team = processes()
    model = _language_model(material, config, work)
    dataset = material.dataset
    prompts = Prompts.make(dataset.texts, dataset.item_ids, model.tokenizer, config)
    key = _digest(
        __version__,
        model.fingerprint,
        config.model_dump(exclude={"checkpoint", "save_steps", "read_tokens"}),
        dataset.fingerprint,
        seed,
    )
    directory = work / f"llm-{key}"
    directory.mkdir(parents=True, exist_ok=True)
    training = finished(directory)
    team.wait_for_everyone()
    if training is None:
        encoder = make_encoder(model, prompts, config, seed)
        training = train_encoder(
            encoder,
            prompts,
            material.histories,
            Validation(material, prompts, config, seed),
            config,
            learning_rate=config.learning_rate or _chosen_rate(config, model),
            seed=seed,
            directory=directory,
            max_seconds=max_seconds,
        )
        if team.is_main_process:
            finish(directory, training)
        team.wait_for_everyone()
        del encoder
    else:
        log.info("the llm teacher is trained already: %s", directory)
    return _open(model, prompts, config, seed, directory, training)


def _open(
    model: LanguageModel,
    prompts: Prompts,
    config: LLMConfig,
    seed: int,
    directory: Path,
    training: Progressed,
) -> LLMTeacher:
    best = best_directory(directory, training)
    encoder = make_encoder(model, prompts, config, seed, best).to(processes().device)
    weights = hashlib.sha256()
    for file in sorted([*best.glob("*.safetensors"), *best.glob("pocketrec-*.json")]):
        with file.open("rb") as content:
            weights.update(hashlib.file_digest(content, "sha256").digest())
    key = _digest(directory.name, weights.hexdigest())
    rows = directory / f"rows-{weights.hexdigest()[:16]}.npy"
    return LLMTeacher(f"llm ({Path(config.checkpoint).name})", key, encoder, prompts, config, rows, training)


def _language_model(material: Material, config: LLMConfig, work: Path) -> LanguageModel:
    if config.checkpoint != SCRATCH:
        return open_checkpoint(config.checkpoint)
    shape = f"{config.scratch_width}-{config.scratch_layers}"
    key = _digest(material.dataset.fingerprint, material.vocab, shape, __version__)
    with processes().main_process_first():
        directory = write_scratch(
            work / f"scratch-{key}",
            material.tokenizer,
            config.scratch_width,
            config.scratch_layers,
            SCRATCH_LENGTH,
        )
    return open_checkpoint(str(directory))


def _chosen_rate(config: LLMConfig, model: LanguageModel) -> float:
    if not model.trained:
        return 1e-3
    return 2e-4 if config.lora_rank > 0 else 2e-5


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
