"""Item texts through the sentence encoder of a build: word rows to start from, and rows for a ranker.

    texts = EncodedTexts.of(material, config.text, work / "texts", seed=0)     # None without an encoder
    start = texts.start_rows(256, positions)                                   # float32 [vocab, 256]

The encoder is asked once; what it said is kept on disk (`sentence_encoder.encode_texts`). The word rows that
are made of it (`text_rows.distil`) are where training starts from, instead of latent semantic analysis; a
device needs neither the encoder nor its embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import Material
from .processes import agreed, processes
from .sentence_encoder import encode_texts, encoder_directory, fingerprint, resolve_encoder
from .teachers import Positions
from .text_config import TextConfig
from .text_rows import distil

log = logging.getLogger(__name__)


class EncodedTexts:
    """A catalogue's texts and the encoder that reads them.

    Args:
        encoder: "minilm", a directory, or a hub name.
        cache_dir: where embeddings are kept.
        seed: draws what word rows are fitted on.

    Attributes:
        key: stands for the encoder's files and all that is read; where the files lie is no part of it.

    Raises:
        DataError: `encoder-missing` or `encoder-damaged`: at once, before anything is trained.
    """

    def __init__(
        self, material: Material, encoder: str, config: TextConfig, cache_dir: Path, *, seed: int
    ) -> None:
        self._material, self._encoder, self._config = material, encoder, config
        self._cache_dir, self._seed = cache_dir, seed
        self.key = (
            fingerprint(encoder_directory(encoder)), config.max_tokens, config.prompt, config.floor
        )  # fmt: skip
        self._floors: dict[int, float] = {}
        self._start: dict[int, NDArray[np.float32]] = {}

    @classmethod
    def of(cls, material: Material, config: TextConfig, cache_dir: Path, *, seed: int) -> EncodedTexts | None:
        """What `config` asks for; None without an encoder, or where no item has a text."""
        encoder = resolve_encoder(config.encoder)
        if encoder is None:
            return None
        if not any(text.strip() for text in material.dataset.texts):
            log.warning("no item has a text: the sentence encoder %s is not asked", encoder)
            return None
        return cls(material, encoder, config, cache_dir, seed=seed)

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """float32 [items, d], read-only; 0 for items without a text. One process encodes, the others wait."""

        def encoded() -> NDArray[np.float32]:
            config = self._config
            return encode_texts(
                self._material.dataset.texts,
                self._encoder,
                self._cache_dir,
                max_tokens=config.max_tokens,
                prompt=config.prompt,
            )

        found = encoded() if processes().is_main_process else None
        processes().wait_for_everyone()
        return encoded() if found is None else found

    def start_rows(self, dim: int, positions: Callable[[], Positions]) -> NDArray[np.float32]:
        """Word rows float32 [vocab, dim] to start training from; the same for every model of this width.

        Args:
            positions: of the validation part; asked for only where the floor of whitening is to be chosen.
        """
        if dim not in self._start:
            features = self._material.features
            words = distil(features, self.embeddings, dim, self._seed)
            floor = self._config.floor
            if floor < 0:
                floor = agreed(words.choose_floor(features, positions()))
            self._floors[dim], self._start[dim] = floor, words.start_rows(floor)
        return self._start[dim]

    def told(self) -> dict[str, Any]:
        """For the figures of a bundle: the encoder's name without its folder, its fingerprint, the width of
        its embeddings, and the floor of whitening for each width of word rows."""
        return {
            "encoder": Path(self._encoder).name,
            "sha256": self.key[0],
            "width": int(self.embeddings.shape[1]),
            "floor": {str(dim): floor for dim, floor in self._floors.items()},
        }
