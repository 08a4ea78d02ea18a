"""RecTools' own SASRec and eSASRec on our split; a script for an environment that has RecTools and not us.

Reads a job as JSON from standard input, trains with the model, loss and data loading of the package, and
writes the ranks of the held-out targets. What is ours here is the protocol: validate NDCG@10 after every
epoch, stop when it has not risen for `patience` or the minutes are spent, keep the best epoch, rank the full
catalogue with seen items filtered, ties against the model. An item that the package does not know ranks last.

    job  {"split": csv, "items": n, "model": {…}, "seed": 0, "minutes": 60, "threads": 1, "out": npz,
          "state": ckpt,                                 # after every epoch; goes on there when it exists
          "most": [200, 6000], "patience": [8, 400]}     # [epochs, batches], whichever is longer
    split.csv  user,item,position,part     rows of ours; part is train, validation or test
    out        int64 arrays `validation` and `test`, for the users who have such a target, in ascending order
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

CHUNK = 256

# What a run that goes on has to know of the epochs before.
KEPT = ("best", "best_epoch", "epochs", "minutes", "weights")


def pessimistic(scores: np.ndarray, targets: np.ndarray, seen: list[np.ndarray]) -> np.ndarray:
    """Ranks from 1, int64 [B], of targets among [B, items] scores; a seen target ranks last.

    The rule of `pocketrec_export.metrics.pessimistic_rank`, which cannot be imported here.
    """
    rows = np.arange(len(targets))
    own = scores[rows, targets].copy()
    scores = scores.copy()
    missed = np.zeros(len(targets), bool)
    candidates = np.ones(scores.shape, bool)
    for row, items in enumerate(seen):
        candidates[row, items] = False
        missed[row] = targets[row] in items
    ranks = (candidates & ~(scores < own[:, None])).sum(axis=1)
    return np.where(missed, scores.shape[1] + 1, ranks).astype(np.int64)


class HeldOut:
    """The users of a part, with what they had before and what came next.

    Attributes:
        histories: int64 [any] each, oldest first.
        targets: int64 [users].
    """

    def __init__(self, events: Any, part: str) -> None:
        parts = ["train"] if part == "validation" else ["train", "validation"]
        wanted = events[events["part"] == part].sort_values("user")
        before = events[events["part"].isin(parts) & events["user"].isin(wanted["user"])]
        grouped = before.sort_values(["user", "position"]).groupby("user")["item"]
        self.histories = [items.to_numpy() for _, items in grouped]
        self.targets = wanted["item"].to_numpy()
        if len(self.histories) != len(self.targets):
            raise SystemExit(f"{part}: a target without a history")

    def ranks(self, module: Any, items: int) -> np.ndarray:
        """Ranks of the targets by a RecTools lightning module, int64 [users]."""
        import torch

        model, preparator = module.torch_model, module.data_preparator
        known = preparator.get_known_item_ids().astype(np.int64)
        inner = np.zeros(items, np.int64)  # 0 is their padding
        inner[known] = preparator.get_known_items_sorted_internal_ids()
        length = preparator.session_max_len
        was_training = model.training
        model.eval()
        out = []
        with torch.no_grad():
            rows = model.item_model.get_all_embeddings()
            for first in range(0, len(self.targets), CHUNK):
                histories = self.histories[first : first + CHUNK]
                x = np.zeros((len(histories), length), np.int64)
                for row, history in enumerate(histories):
                    own = inner[history]
                    own = own[own > 0][-length:]
                    x[row, length - len(own) :] = own
                batch = {"x": torch.from_numpy(x).to(rows.device)}
                query = model.encode_sessions(batch, rows)[:, -1:]
                logits = model.similarity_module(query, rows)[:, 0].cpu().numpy()
                scores = np.full((len(histories), items), -np.inf, np.float32)
                scores[:, known] = logits[:, inner[known]]
                out.append(pessimistic(scores, self.targets[first : first + CHUNK], histories))
        model.train(was_training)
        return np.concatenate(out)


def ndcg(ranks: np.ndarray, k: int = 10) -> float:
    """NDCG@k with one relevant item."""
    return float(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0).mean())


def longer(limit: list[int], batches: int) -> int:
    """Epochs of a limit [epochs, batches], whichever is longer: a small data set has few batches an epoch."""
    return max(limit[0], -(-limit[1] // max(batches, 1)))


def stopper(held_out: HeldOut, job: dict[str, Any]) -> Any:
    """A lightning callback that validates after every epoch, keeps the best weights and its state, stops."""
    import pytorch_lightning

    class Stopper(pytorch_lightning.Callback):
        best, best_epoch, epochs, minutes, stopped = -1.0, 0, 0, 0.0, "epochs"
        weights: dict[str, Any]
        parent = os.getppid()
        began = time.monotonic()

        def state_dict(self) -> dict[str, Any]:
            return {name: getattr(self, name) for name in KEPT}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            for name in KEPT:
                setattr(self, name, state_dict[name])
            self.began -= 60 * self.minutes

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if os.getppid() != self.parent:
                raise SystemExit("whoever wanted these ranks is gone")
            value = ndcg(held_out.ranks(pl_module, job["items"]))
            self.epochs += 1
            self.minutes = (time.monotonic() - self.began) / 60
            sys.stderr.write(f"epoch {self.epochs}: NDCG@10 {value:.4f}, {self.minutes:.1f} min\n")
            if value > self.best:
                self.best, self.best_epoch = value, self.epochs
                self.weights = {k: v.detach().cpu().clone() for k, v in pl_module.state_dict().items()}
            if self.epochs - self.best_epoch >= longer(job["patience"], trainer.num_training_batches):
                self.stopped = "patience"
            elif self.minutes >= job["minutes"]:
                self.stopped = "minutes"
            trainer.should_stop = self.stopped != "epochs"
            trainer.save_checkpoint(job["state"] + ".partial")
            os.replace(job["state"] + ".partial", job["state"])

    return Stopper()


def train(job: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Ranks by part, and how the training went."""
    import pandas as pd
    import pytorch_lightning
    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.set_num_threads(job["threads"])
    pytorch_lightning.seed_everything(job["seed"], verbose=False)
    events = pd.read_csv(job["split"])
    held_out = {part: HeldOut(events, part) for part in ("validation", "test")}
    rows = events[events["part"] == "train"]
    frame = pd.DataFrame(
        {"user_id": rows["user"], "item_id": rows["item"], "weight": 1.0, "datetime": rows["position"]}
    )
    model = SASRecModel.from_params({"cls": "SASRecModel", **job["model"]})
    users = int((rows.groupby("user").size() >= 2).sum())  # fewer events teach nothing

    class Trainer(pytorch_lightning.Trainer):  # RecTools copies it and calls `fit` without a checkpoint
        def fit(self, *arguments: Any, **options: Any) -> None:
            there = job["state"] if os.path.exists(job["state"]) else None
            # Or RecTools draws the weights anew once the checkpoint is loaded.
            arguments[0].is_fitted = there is not None
            super().fit(*arguments, ckpt_path=there, **options)

    model._trainer = Trainer(
        max_epochs=longer(job["most"], -(-users // model.batch_size)),
        callbacks=[stopper(held_out["validation"], job)],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model.fit(Dataset.construct(frame))
    state = next(c for c in model.fit_trainer.callbacks if type(c).__name__ == "Stopper")
    model.lightning_model.load_state_dict(state.weights)
    details = {
        "epochs": state.epochs,
        "best_epoch": state.best_epoch,
        "stopped": state.stopped,
        "seconds": 60 * state.minutes,
        "parameters": sum(p.numel() for p in model.torch_model.parameters()),
    }
    ranks = {part: asked.ranks(model.lightning_model, job["items"]) for part, asked in held_out.items()}
    return ranks, details


def main() -> None:
    """Do the job on standard input; the answer is one line of JSON, the last one on standard output."""
    import importlib.metadata

    job = json.load(sys.stdin)
    ranks, details = train(job)
    with open(job["out"], "wb") as out:
        np.savez(out, validation=ranks["validation"], test=ranks["test"])
    names = ("rectools", "torch", "pytorch-lightning", "numpy")
    details["versions"] = {name: importlib.metadata.version(name) for name in names}
    sys.stdout.write(json.dumps(details) + "\n")


if __name__ == "__main__":
    main()
