"""What stops the training of the `llm` teacher: ranks of validation targets."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from .llm_config import LLMConfig
from .llm_encoder import DualEncoder, item_rows, position_queries
from .llm_prompts import Prompts
from .metrics import pessimistic_rank
from .model import Material
from .teachers import CHUNK_BYTES, Positions


class Validation:
    """Ranks of some users' validation targets in the protocol of `metrics`; processes share the work.

    Args:
        seed: draws the users.
    """

    def __init__(self, material: Material, prompts: Prompts, config: LLMConfig, seed: int) -> None:
        self.material, self.prompts, self.config = material, prompts, config
        self.users = material.split.some_users("validation", config.validation_users, seed)

    @torch.no_grad()
    def __call__(self, encoder: DualEncoder, accelerator: Accelerator) -> NDArray[np.int64]:
        """int64 [users], the same in every process."""
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        rows = _gathered(
            accelerator, item_rows(encoder, self.prompts, np.arange(self.prompts.items)[mine], self._budget)
        )[: self.prompts.items]
        ranks = torch.from_numpy(self._ranks(encoder, rows, self.users[mine])).to(encoder.device)
        return _gathered(accelerator, ranks)[: len(self.users)].cpu().numpy()

    @property
    def _budget(self) -> int:
        return self.config.read_tokens

    def _ranks(self, encoder: DualEncoder, rows: Tensor, users: NDArray[np.int32]) -> NDArray[np.int64]:
        split, length = self.material.split, self.config.history_items
        histories, items = self.material.ranker.histories, split.dataset.items
        out = [np.zeros(0, np.int64)]
        step = max(1, CHUNK_BYTES // (4 * self.prompts.items))
        for first in range(0, len(users), step):
            some = users[first : first + step]
            positions = Positions.held_out(histories, split, "validation", some, length)
            queries = position_queries(encoder, self.prompts, positions, length, self._budget)
            seen = [items[split.history(int(user), "validation")] for user in some]
            scores = (encoder.scale * queries @ rows.T).cpu().numpy()
            out.append(pessimistic_rank(scores, positions.targets, seen))
        return np.concatenate(out)


def _gathered(accelerator: Accelerator, part: Tensor) -> Tensor:
    """Put together what each process has of a thing that was dealt out one by one, first to the first.

    Returns:
        [processes · longest part, …]: in the order of the whole; behind its end, padding.
    """
    if accelerator.num_processes == 1:
        return part
    padded = accelerator.pad_across_processes(part, dim=0)
    stacked = accelerator.gather(padded).view(accelerator.num_processes, *padded.shape)
    return stacked.transpose(0, 1).reshape(-1, *padded.shape[1:])
