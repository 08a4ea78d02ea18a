"""A language model as a dual encoder: histories to queries, items to rows, cosines over a temperature.

One model reads both; what tells them apart is the prompt before the texts. Low-rank adapters (LoRA, Hu et
al., ICLR 2022, arXiv 2106.09685) go to every linear layer of the model, or all weights are trained.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pocketrec.errors import DataError

from .arithmetic import bf16_is_fast
from .llm_checkpoint import LanguageModel, load_decoder
from .llm_config import LLMConfig
from .llm_prompts import Prompts, Tokens, by_length, narrowed
from .teachers import Positions

HEAD = "pocketrec-llm.json"
# Of cosines, as in CLIP (Radford et al., 2021): beyond it training becomes unstable.
HIGHEST_SCALE = 100.0


class DualEncoder(nn.Module):
    """Queries and rows of unit length.

    Args:
        decoder: token ids to hidden states; with adapters or not.
        temperature: what cosines are divided by at the start.
        bf16: whether to multiply in bfloat16.
    """

    def __init__(self, decoder: nn.Module, temperature: float, bf16: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bf16 = bf16

    @property
    def device(self) -> torch.device:
        return self.log_scale.device

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, scalar."""
        return self.log_scale.exp().clamp(max=HIGHEST_SCALE)

    @property
    def width(self) -> int:
        """Of queries and rows."""
        return int(self.decoder.get_input_embeddings().embedding_dim)

    def states(self, ids: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """float32 [m, width], of unit length: the states at the places (row, column) of ids [B, T]."""
        # Without a mask: padding is on the right, and the model is causal.
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16):
            states = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        return F.normalize(states[row, column].float(), dim=-1)

    def forward(self, histories: tuple[Tensor, ...], items: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(queries [m, width], rows [n, width], scale) of two batches, each (ids, row, column)."""
        return self.states(*histories), self.states(*items), self.scale

    @torch.no_grad()
    def read(self, tokens: Tokens) -> Tensor:
        """`states` of a batch of arrays, without gradients."""
        return self.states(*tensors(tokens, self.device))

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def tensors(tokens: Tokens, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, row, column) on a device."""
    ids, row, column = (torch.from_numpy(a).to(device) for a in (tokens.ids, tokens.row, tokens.column))
    return ids, row, column


def make_encoder(
    model: LanguageModel, prompts: Prompts, config: LLMConfig, seed: int, trained: Path | None = None
) -> DualEncoder:
    """An encoder to be trained, or with `trained`, a directory of `save_trained`, one that was.

    Raises:
        DataError: see `load_decoder`; `llm-too-long` when histories can be longer than the model reads;
            `llm-tokenizer` when the tokenizer is not the model's; `llm-no-linear` when adapters find no
            place.
    """
    longest, limit = prompts.longest(config.history_items), model.max_positions
    if limit is not None and longest > limit:
        raise DataError(
            f"histories of {config.history_items} items are up to {longest} tokens long, "
            f"{model.label} reads {limit}.",
            code="llm-too-long",
            remedy="Lower llm.history_items or llm.max_item_tokens.",
        )
    bf16 = config.mixed_precision == "bf16" or (config.mixed_precision == "auto" and bf16_is_fast())
    adapted = config.lora_rank > 0 and model.trained
    # Frozen weights need no more digits than they are multiplied with; those that learn do.
    decoder = load_decoder(model, torch.bfloat16 if bf16 and adapted else torch.float32, seed)
    vocab = decoder.get_input_embeddings().num_embeddings
    highest = max(
        int(a.max(initial=0)) for a in (prompts.tokens, prompts.history_prompt, prompts.item_prompt)
    )
    if max(highest, prompts.end) >= vocab:
        raise DataError(
            f"{model.name}: the tokenizer gives token {max(highest, prompts.end)}, the model knows {vocab}.",
            code="llm-tokenizer",
            remedy="Take model and tokenizer from one checkpoint.",
        )
    if config.gradient_checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(seed)
    if adapted:
        decoder = _adapted(decoder, config, trained)
    elif trained is not None:
        decoder = type(decoder).from_pretrained(trained, dtype=torch.float32)
    encoder = DualEncoder(decoder, config.temperature, bf16)
    if trained is not None:
        head = json.loads((trained / HEAD).read_text(encoding="utf-8"))
        encoder.log_scale.data.fill_(head["log_scale"])
    return encoder.eval()


def linear_layers(decoder: nn.Module) -> list[str]:
    """The last names of the linear layers, such as q_proj and down_proj, sorted."""
    return sorted(
        {name.rpartition(".")[2] for name, m in decoder.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    )


def _adapted(decoder: nn.Module, config: LLMConfig, trained: Path | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if trained is not None:
        return PeftModel.from_pretrained(decoder, trained)
    targets = linear_layers(decoder)
    if not targets:
        raise DataError(
            f"{type(decoder).__name__} has no linear layer that an adapter could go to.",
            code="llm-no-linear",
            remedy="Set llm.lora_rank = 0 to train all of it.",
        )
    return get_peft_model(
        decoder,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            task_type="FEATURE_EXTRACTION",
        ),
    )


def save_trained(encoder: DualEncoder, directory: Path) -> None:
    """Write what was trained: an adapter that `peft` opens, or a model that `transformers` opens, and the
    temperature. The directory appears whole; an old one is replaced."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # Adapters: never look for a change of the vocabulary, for which peft would ask the hub.
    options = {"save_embedding_layers": False} if hasattr(encoder.decoder, "peft_config") else {}
    encoder.decoder.save_pretrained(partial, **options)
    (partial / HEAD).write_text(
        json.dumps({"log_scale": float(encoder.log_scale.detach())}), encoding="utf-8"
    )
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(partial, directory)


@contextmanager
def reading(encoder: DualEncoder) -> Iterator[None]:
    """Evaluation mode, for a while."""
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)


def item_rows(encoder: DualEncoder, prompts: Prompts, items: NDArray[np.integer], budget: int) -> Tensor:
    """Rows of items, float32 [items, width], about `budget` tokens at a time."""
    out = torch.empty(len(items), encoder.width, device=encoder.device)
    with reading(encoder):
        for part in by_length(len(prompts.item_prompt) + prompts.lengths[items], budget):
            out[torch.from_numpy(part).to(out.device)] = encoder.read(prompts.rows(items[part]))
    return out


def position_queries(
    encoder: DualEncoder, prompts: Prompts, positions: Positions, history_items: int, budget: int
) -> Tensor:
    """Queries at positions, in their order, float32 [m, width], from at most `history_items` events each."""
    positions = narrowed(positions, history_items)
    out = torch.empty(len(positions), encoder.width, device=encoder.device)
    count = positions.size - positions.skip
    first = np.cumsum(count) - count
    lengths = prompts.window_lengths(positions.histories, positions.start, positions.size)
    with reading(encoder):
        for part in by_length(lengths, budget):
            tokens = prompts.histories(
                positions.histories, positions.start[part], positions.size[part], positions.skip[part]
            )
            place = np.concatenate([np.arange(first[w], first[w] + count[w]) for w in part])
            out[torch.from_numpy(place).to(out.device)] = encoder.read(tokens)
    return out
