"""Tracing a list that differs back to the activations that did it: on a bundle, with flips made here."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketrec.bundle import Bundle
from pocketrec.engines import load_engine
from pocketrec.events import as_events
from pocketrec.ranking import top_k
from pocketrec_tools import android_trace
from pocketrec_tools.android_agreement import History, random_histories
from pocketrec_tools.android_trace import BorderEngine, Tracer, summary, widest
from tiny_bundle import write_tiny_bundle

K = 5


def border_engine(bundle: Bundle) -> BorderEngine:
    manifest = bundle.manifest
    tensors = bundle.tensors(manifest.engines["numpy"].file)
    return BorderEngine(tensors, manifest.backbone, manifest.graph.length, manifest.graph.dim)


def answer(bundle: Bundle, history: History, query: np.ndarray) -> dict[str, Any]:
    """What an engine that computed `query` answers."""
    scores = bundle.tables["items"].scores(query)
    positions = bundle.catalogue.positions([item for item, _, _ in history])
    scores[positions[positions >= 0]] = -np.inf
    best = top_k(scores, K)
    return {
        "items": [bundle.catalogue.item_id(int(i)) for i in best],
        "scores": scores[best].tolist(),
        "query": base64.b64encode(query.astype("<f4").tobytes()).decode(),
    }


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_activations_beyond_a_border_are_found_again(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(android_trace, "NEAR", 2e-3)  # a tiny graph has few activations
    found = 0
    with Bundle.open(write_tiny_bundle(tmp_path / "bundle", precision)) as bundle:
        engine, tracer = border_engine(bundle), Tracer(bundle)
        for index, history in enumerate(random_histories(bundle, 40, 1)):
            known = bundle.inputs.known(as_events(history), bundle.catalogue)
            rows, mask = bundle.inputs.fuse(known)
            ours = engine.trace(rows, mask)
            flip = min(engine.near, key=engine.near.__getitem__, default=None)
            if flip is None:
                continue
            theirs = engine.trace(rows, mask, frozenset([flip]))
            want, got = answer(bundle, history, ours), answer(bundle, history, theirs)
            if want["items"] == got["items"]:
                continue
            trace = tracer.explain(index, history, want, got)
            assert trace.rebuilt
            assert trace.cause == "one activation"
            assert trace.left <= android_trace.SAME < trace.moved
            found += 1
            wrong = tracer.explain(index, history, want, got | {"scores": [s + 1 for s in got["scores"]]})
            assert wrong.cause == "unexplained"  # a list that is not of this query has another cause
    assert found, "no list changed: choose another seed"


def test_without_flips_it_is_the_numpy_engine_to_the_bit(tmp_path: Path) -> None:
    with Bundle.open(write_tiny_bundle(tmp_path / "bundle")) as bundle:
        engine, reference = border_engine(bundle), load_engine("numpy", bundle, 1)
        for history in random_histories(bundle, 20, 0):
            known = bundle.inputs.known(as_events(history), bundle.catalogue)
            rows, mask = bundle.inputs.fuse(known)
            assert np.array_equal(engine.trace(rows, mask), reference.run(rows, mask))


def test_the_pair_with_the_largest_gap_is_told() -> None:
    score = {"a": 3.0, "b": 2.5, "c": 2.25, "d": 1.0}
    assert widest(["a", "b", "c"], ["a", "c", "b"], score) == (0.25, ("b", "c"))
    assert widest(["a", "b", "c"], ["c", "b", "a"], score) == (0.75, ("a", "c"))
    assert widest(["a", "b"], ["a", "d"], score) == (1.5, ("b", "d"))  # what a list lacks stands behind it


def test_no_lists_have_a_summary_too() -> None:
    assert summary([], 0.1)["lists"] == 0
