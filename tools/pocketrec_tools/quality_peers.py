"""Who else is measured in the quality benchmark, in the same run, on the same split, in the same protocol.

Popularity and two rankers of neighbours are computed here. SASRec and eSASRec are RecTools' own, trained by
its package in an environment of its own, which is made in the work directory the first time
(`quality_rectools`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec.errors import DataError, PocketrecError
from pocketrec.output import note
from pocketrec_export.metrics import Metrics, popularity_ranks
from pocketrec_export.split import Part, Split
from pocketrec_export.stages import stage_key
from pocketrec_tools import quality_rectools
from pocketrec_tools.processes import ONE_THREAD
from pocketrec_tools.quality_neighbours import text_ranks, user_ranks
from pocketrec_tools.quality_records import QualityData, Record, Store, stamp

REQUIREMENTS = (
    "rectools[torch]==0.19.0",
    "torch==2.13.0",
    "pytorch-lightning==2.5.2",
    "numpy==1.26.4",
    "pandas==2.3.3",
)

PARTS: tuple[Part, Part] = ("validation", "test")
SHORT = 50
CUT_OFF = 0.2
# [epochs, batches], whichever is longer.
MOST = [200, 6000]
PATIENCE = [8, 400]


@dataclass(frozen=True)
class Peer:
    """Somebody to compare with.

    Args:
        label: in the page.
        ranks: ranks of a part, for a peer without training.
        short, long: settings of RecTools' SASRecModel for short and for long histories.
    """

    label: str
    ranks: Callable[[Split, Part], NDArray[np.int64]] | None = None
    short: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, Any] = field(default_factory=dict)


_WIDE = {"n_factors": 128, "n_blocks": 2, "n_heads": 4, "dropout_rate": 0.2, "loss": "softmax"}
# As the authors of eSASRec set both for Amazon Beauty and for MovieLens-1M.
_SAMPLED = {"n_heads": 1, "loss": "sampled_softmax", "n_negatives": 256}
_SAMPLED_SHORT = {**_SAMPLED, "n_factors": 256, "n_blocks": 1, "dropout_rate": 0.2, "session_max_len": SHORT}
_SAMPLED_LONG = {**_SAMPLED, "n_factors": 64, "n_blocks": 2, "dropout_rate": 0.1, "session_max_len": 200}
_LIGR = {
    "transformer_layers_type": "rectools.models.nn.transformers.ligr.LiGRLayers",
    "transformer_layers_kwargs": {"ff_factors_multiplier": 4},
    "use_key_padding_mask": True,
}

PEERS: dict[str, Peer] = {
    "popularity": Peer("popularity", popularity_ranks),
    "text": Peer("TF-IDF similarity of texts, recency-weighted", text_ranks),
    "item-knn": Peer("item-kNN, cosine with idf, recency-weighted", user_ranks),
    "sasrec": Peer(
        "SASRec, full softmax (RecTools)",
        short={**_WIDE, "session_max_len": SHORT},
        long={**_WIDE, "session_max_len": 200},
    ),
    "sasrec-sampled": Peer(
        "SASRec, 256 negatives (RecTools)",
        short=_SAMPLED_SHORT,
        long=_SAMPLED_LONG,
    ),
    "esasrec": Peer(
        "eSASRec: LiGR, 256 negatives (RecTools)",
        short={**_SAMPLED_SHORT, **_LIGR},
        long={**_SAMPLED_LONG, **_LIGR},
    ),
}


def long_histories(split: Split) -> bool:
    """Whether keeping the last 50 training events of each user would lose more than a fifth of them all."""
    lengths = split.train_ends - split.dataset.offsets[:-1]
    return float(np.minimum(lengths, SHORT).sum()) < (1 - CUT_OFF) * float(lengths.sum())


def peer_settings(data: QualityData, name: str) -> dict[str, Any]:
    """The `settings` of a peer's record.

    Raises:
        DataError: there is no such peer.
    """
    peer = find_peer(name)
    if peer.ranks is not None:
        return {}
    model = dict(peer.long if long_histories(data.split) else peer.short)
    return {"model": model, "most": MOST, "patience": PATIENCE}


def seeded(name: str) -> bool:
    """Whether anything about the peer is random."""
    return find_peer(name).ranks is None


def run_peer(data: QualityData, name: str, seed: int, minutes: float, store: Store) -> Record:
    """Measure a peer and note it down.

    Args:
        minutes: after which a peer that is trained is not given another epoch; those of a run before that was
            killed, or had fewer, count.

    Raises:
        DataError: there is no such peer.
        PocketrecError: `peer-environment`, `process-failed`.
    """
    settings, compute = peer_settings(data, name), find_peer(name).ranks
    began = time.monotonic()
    details: dict[str, Any] = {}
    training: dict[str, float] = {}
    if compute is not None:
        ranks = {part: compute(data.split, part) for part in PARTS}
    else:
        ranks, details = run_rectools(data, settings, seed, minutes, store.work)
        details["limit_minutes"] = minutes
        training = {"peer": details.pop("seconds") / 60}
    record = Record(
        kind="peer",
        data=data.figures,
        arm=name,
        seed=seed,
        settings=settings,
        **stamp(),
        minutes=(time.monotonic() - began) / 60,
        training=training,
        validation=Metrics.from_ranks(ranks["validation"]).to_dict(),
        **data.of_ranks(ranks["test"]),
        details=details,
    )
    return store.save(record, ranks["test"])


def find_peer(name: str) -> Peer:
    """The peer of this name; `DataError` when there is none."""
    if name not in PEERS:
        raise DataError(
            f"there is no peer {name!r}.", code="peer-unknown", remedy=f"Choose from {','.join(PEERS)}."
        )
    return PEERS[name]


def write_split(split: Split, file: Path) -> None:
    """The split as a CSV file that others can read: user, item, position, part; rows as in the dataset."""
    dataset = split.dataset
    lengths = np.diff(dataset.offsets)
    part = np.where(split.train_mask, "train", "test").astype(object)
    part[split.targets("validation")] = "validation"
    pl.DataFrame(
        {
            "user": np.repeat(np.arange(dataset.num_users), lengths),
            "item": dataset.items,
            "position": np.arange(dataset.num_events) - np.repeat(dataset.offsets[:-1], lengths),
            "part": pl.Series(part, dtype=pl.String),
        }
    ).write_csv(file)


def run_rectools(
    data: QualityData, settings: dict[str, Any], seed: int, minutes: float, work: Path
) -> tuple[dict[Part, NDArray[np.int64]], dict[str, Any]]:
    """Ranks by part and details, from a process in RecTools' own environment.

    A run that was killed, or that more minutes can do something for, goes on after its last epoch.
    """
    python = rectools_environment(work)
    folder = work / data.name
    folder.mkdir(parents=True, exist_ok=True)
    split, out = folder / "split.csv", folder / f"rectools-{os.getpid()}.npz"
    write_split(data.split, split)
    key = stage_key("rectools", data.figures.fingerprint, REQUIREMENTS, settings, seed)
    state = folder / f"rectools-{key}.ckpt"
    import torch

    threads = torch.get_num_threads()
    job = {"split": str(split), "items": data.dataset.num_items, "seed": seed, "threads": threads}
    job |= {"out": str(out), "state": str(state), "minutes": minutes}
    command = [str(python), "-I", "-W", "ignore", str(Path(quality_rectools.__file__))]
    done = subprocess.run(
        command,
        input=json.dumps({**job, **settings}),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        check=False,
    )
    if done.returncode:
        raise PocketrecError(
            f"RecTools ended with status {done.returncode}; what it said is above.",
            code="process-failed",
            remedy=f"Remove {python.parent.parent} to have its environment made again.",
        )
    with np.load(out) as ranks:
        found = {part: ranks[part] for part in PARTS}
    out.unlink()
    details = json.loads(done.stdout.splitlines()[-1])
    if details["stopped"] != "minutes":
        state.unlink()
    return found, details


def rectools_place(work: Path) -> Path:
    """Where the environment of RecTools is in a work directory; absolute, other programs are told of it."""
    return work.absolute() / "rectools-0.19.0"


def rectools_environment(work: Path) -> Path:
    """The interpreter of RecTools' environment, see `environment`."""
    return environment(rectools_place(work), REQUIREMENTS, "RecTools")


def environment(place: Path, requirements: Sequence[str], whose: str) -> Path:
    """The interpreter of an environment that has `requirements` and nothing of ours; made when it is absent.

    Args:
        whose: packages these are, for people.

    Raises:
        PocketrecError: `peer-environment` when it cannot be made.
    """
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    complete = place / "complete"
    if complete.exists() and complete.read_text() == "\n".join(requirements):
        return python
    note(f"making an environment for {whose} in {place}")
    try:
        from uv import find_uv_bin

        uv = find_uv_bin()
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)],
            [uv, "pip", "install", "--quiet", "--python", str(python), *requirements],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise PocketrecError(
            f"{whose} cannot be installed: {said.strip()[-1500:]}",
            code="peer-environment",
            remedy="Install uv and give it a package index, or leave these peers out.",
        ) from None
    complete.write_text("\n".join(requirements))
    return python
