"""RePlay's SasRec, trained here and compiled by RePlay; a script for an environment that has it and not us.

Reads a job as JSON from standard input. The model and what serves it, `SasRecCompiled`, are the package's.
The loop is ours, as its own computes the padding: batches are cut to their longest history (positions count
from the end, so nothing else changes), and the loss is its sampled softmax with negatives shared by a batch.
Validated by NDCG@10 after every epoch on a sample of users; the best epoch is kept.

    job  {"split": csv, "items": n, "seed": 0, "minutes": 30, "threads": 1, "out": folder, "batch": 128,
          "model": {arguments of SasRec}, "negatives": 2048, "patience": 8, "validate": 4000}
    split.csv  user,item,position,part     part is train, validation or test
    out        `sasrec.onnx`, what `SasRecCompiled` is compiled from, `sasrec.json` {"length"}, `trained.json`

Minutes are of processor time, which a busy machine does not stretch. Training goes on where an earlier run
with the same folder stopped.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 256


def schema(items: int) -> Any:
    """RePlay's description of one sequence of item ids."""
    from replay.data import (  # type: ignore[import-not-found, unused-ignore]
        FeatureHint,
        FeatureSource,
        FeatureType,
    )
    from replay.data.nn import (  # type: ignore[import-not-found, unused-ignore]
        TensorFeatureInfo,
        TensorFeatureSource,
        TensorSchema,
    )

    return TensorSchema(
        TensorFeatureInfo(
            name="item",
            feature_type=FeatureType.CATEGORICAL,
            is_seq=True,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item")],
            cardinality=items,
            padding_value=items,
            embedding_dim=64,
        )
    )


def padded(histories: list[np.ndarray], length: int, items: int) -> dict[str, Any]:
    """RePlay's batch of histories: the last `length` items of each, padded on the left."""
    import torch

    ids = np.full((len(histories), length), items, np.int64)
    mask = np.zeros((len(histories), length), bool)
    for row, history in enumerate(histories):
        own = history[-length:]
        ids[row, length - len(own) :] = own
        mask[row, length - len(own) :] = True
    return {"feature_tensor": {"item": torch.from_numpy(ids)}, "padding_mask": torch.from_numpy(mask)}


def ndcg(model: Any, histories: list[np.ndarray], targets: np.ndarray, items: int) -> float:
    """NDCG@10 over the full catalogue, seen items filtered, ties against the model."""
    import torch

    gains = []
    model.eval()
    with torch.no_grad():
        for first in range(0, len(histories), CHUNK):
            part, wanted = histories[first : first + CHUNK], targets[first : first + CHUNK]
            length = min(model._model.max_len, max(map(len, part)))
            batch = padded(part, length, items)
            scores = model._model_predict(batch["feature_tensor"], batch["padding_mask"]).numpy().copy()
            own = scores[np.arange(len(part)), wanted]
            for row, history in enumerate(part):
                scores[row, history] = -np.inf
            ranks = (scores >= own[:, None]).sum(axis=1)
            ranks[[target in history for target, history in zip(wanted, part, strict=True)]] = items
            gains.append(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0))
    model.train()
    return float(np.concatenate(gains).mean())


def batches(histories: list[np.ndarray], size: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """The histories in random order, but that neighbours among some thousands are of like length."""
    order = rng.permutation(len(histories))
    span = 20 * size
    for first in range(0, len(order), span):
        part = order[first : first + span]
        order[first : first + span] = part[np.argsort([len(histories[at]) for at in part], kind="stable")]
    made = [[histories[at] for at in order[first : first + size]] for first in range(0, len(order), size)]
    return [made[at] for at in rng.permutation(len(made))]


def loss(model: Any, part: list[np.ndarray], items: int, negatives: int) -> Any:
    """What RePlay's `_compute_loss_ce_sampled` computes with shared negatives, as one product."""
    import torch

    longest = model._model.max_len
    batch = padded(
        [history[:-1][-longest:] for history in part], min(longest, max(map(len, part)) - 1), items
    )
    hidden = model._model.forward_step(batch["feature_tensor"], batch["padding_mask"])[batch["padding_mask"]]
    labels = torch.from_numpy(np.concatenate([history[1:][-longest:] for history in part]))
    drawn = torch.randperm(items)[:negatives]
    rows = model._model.item_embedder.item_emb
    positive = (hidden * rows(labels)).sum(dim=1, keepdim=True)
    hit = labels[:, None] == drawn
    negative = hidden @ rows(drawn).T + float(np.log(items - 1)) - 1e6 * hit
    negative = negative - torch.log((negatives - hit.sum(dim=1, keepdim=True)).float())
    logits = torch.cat([positive, negative], dim=1)
    return torch.nn.functional.cross_entropy(logits, torch.zeros(len(labels), dtype=torch.long))


def fresh(job: dict[str, Any]) -> Any:
    """An untrained model."""
    from replay.models.nn.sequential.sasrec import SasRec  # type: ignore[import-not-found, unused-ignore]

    return SasRec(schema(job["items"]), **job["model"])


def train(job: dict[str, Any]) -> None:
    """Train, or go on training; leaves `best.pt` and `trained.json`."""
    import pandas as pd
    import torch

    torch.set_num_threads(job["threads"])
    out, items = Path(job["out"]), job["items"]
    out.mkdir(parents=True, exist_ok=True)
    state_file, last = out / "trained.json", out / "last.pt"
    state: dict[str, Any] = {
        "epochs": 0,
        "best": -1.0,
        "best_epoch": 0,
        "minutes": 0.0,
        "processor_minutes": 0.0,
    }
    state |= json.loads(state_file.read_text()) if last.exists() else {}
    if last.exists() and (state["processor_minutes"] >= job["minutes"] or state["stopped"] == "patience"):
        return
    events = pd.read_csv(job["split"]).sort_values(["user", "position"])
    sequences = events[events["part"] == "train"].groupby("user")["item"].agg(list).map(np.array)
    wanted = events[events["part"] == "validation"].set_index("user")["item"]
    sample = wanted.sample(min(job["validate"], len(wanted)), random_state=0)
    sample = sample.loc[sorted(sample.index, key=lambda user: len(sequences[user]))]
    histories = [sequences[user] for user in sample.index]
    fit = [history for history in sequences if len(history) >= 2]  # one event alone teaches nothing
    torch.manual_seed(1000 * job["seed"] + state["epochs"])
    rng = np.random.default_rng([job["seed"], state["epochs"]])
    model = fresh(job)
    place = model._model.item_embedder.pos_emb
    place.forward = lambda x: place.pe.weight[-x.size(1) :].unsqueeze(0).repeat(x.size(0), 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    if last.exists():
        kept = torch.load(last, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    before, began, parent = dict(state), time.monotonic(), os.getppid()
    model.train()
    while True:
        for part in batches(fit, job["batch"], rng):
            optimizer.zero_grad()
            loss(model, part, items, job["negatives"]).backward()
            optimizer.step()
        value = ndcg(model, histories, sample.to_numpy(), items)
        state["epochs"] += 1
        state["minutes"] = before["minutes"] + (time.monotonic() - began) / 60
        state["processor_minutes"] = before["processor_minutes"] + time.process_time() / 60
        sys.stderr.write(
            f"epoch {state['epochs']}: NDCG@10 {value:.4f}, {state['minutes']:.1f} min, "
            f"{state['processor_minutes']:.2f} min of processor\n"
        )
        if value > state["best"]:
            state["best"], state["best_epoch"] = value, state["epochs"]
            torch.save(model.state_dict(), out / "best.pt")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, last)
        late = state["epochs"] - state["best_epoch"] >= job["patience"]
        state["stopped"], state["threads"] = "patience" if late else "minutes", job["threads"]
        state_file.write_text(json.dumps(state))
        if late or state["processor_minutes"] >= job["minutes"]:
            return
        if os.getppid() != parent:
            raise SystemExit("whoever wanted this model is gone")


def compiled(job: dict[str, Any]) -> None:
    """`sasrec.onnx` from the best epoch, as `SasRecCompiled.compile` makes it."""
    import torch
    from replay.models.nn.sequential.compiled import (  # type: ignore[import-not-found, unused-ignore]
        SasRecCompiled,
    )

    out, model = Path(job["out"]), fresh(job)
    model.load_state_dict(torch.load(out / "best.pt", weights_only=True))
    model.eval()
    SasRecCompiled.compile(model, mode="one_query", num_threads=1, onnx_path=str(out / "sasrec.onnx"))
    (out / "sasrec.json").write_text(json.dumps({"length": model._model.max_len}))


def main() -> None:
    """Do the job on standard input; the answer is one line of JSON, the last one on standard output."""
    warnings.simplefilter("ignore")
    job = json.load(sys.stdin)
    train(job)
    compiled(job)
    details = json.loads((Path(job["out"]) / "trained.json").read_text())
    names = ("replay-rec", "torch", "openvino", "numpy")
    details["versions"] = {name: importlib.metadata.version(name) for name in names}
    sys.stdout.write(json.dumps(details) + "\n")


if __name__ == "__main__":
    main()
