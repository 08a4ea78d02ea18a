"""One contract for all engines: `TestContract` runs on each, from a real bundle, in each precision."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketrec import engines
from pocketrec.bundle import Bundle
from pocketrec.engine_executorch import ExecutorchEngine
from pocketrec.engine_numpy import NumpyEngine
from pocketrec.engine_onnxruntime import OnnxRuntimeEngine
from pocketrec.engines import ENGINE_NAMES, Engine, available_engines, load_engine, version_admitted
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec_export.backbone import backbone_tensors
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_executorch import to_executorch
from pocketrec_export.target_onnx import to_onnx
from tiny_backbone import DIM, LENGTH, history, random_backbone, tiny_shape
from tiny_bundle import write_tiny_bundle

# Exporting takes seconds, lowering to ExecuTorch many; "mixed" has both kinds of quantised linears in it.
CASES = [
    *(("numpy", precision) for precision in RECIPES),
    *(("onnxruntime", precision) for precision in ("fp32", "int8", "mixed")),
    ("executorch", "mixed"),
]
BACKBONE = random_backbone(tiny_shape(layers=1))


@cache
def graphs(precision: str) -> dict[str, Any]:
    """The graphs that CASES need."""
    return {
        "onnx": to_onnx(BACKBONE, RECIPES[precision]) if ("onnxruntime", precision) in CASES else None,
        "pte": to_executorch(BACKBONE, RECIPES[precision]) if ("executorch", precision) in CASES else None,
    }


class Bundles:
    """Bundles by precision, made when they are asked for; "mixed" has a graph for every engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: dict[str, Bundle] = {}

    def __getitem__(self, precision: str) -> Bundle:
        if precision not in self.opened:
            self.opened[precision] = Bundle.open(self.write(precision, precision))
        return self.opened[precision]

    def write(self, name: str, precision: str, **changes: Any) -> Path:
        content: dict[str, Any] = {
            "backbone": BackboneSpec(**vars(BACKBONE.shape)),
            "backbone_tensors": backbone_tensors(BACKBONE, RECIPES[precision]),
        }
        return write_tiny_bundle(self.root / name, precision, **content, **graphs(precision), **changes)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Engine and precision."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def engine(case: tuple[str, str], bundles: Bundles) -> Engine:
    return load_engine(case[0], bundles[case[1]])


@pytest.fixture(scope="module")
def reference(case: tuple[str, str], bundles: Bundles) -> Engine:
    return load_engine("numpy", bundles[case[1]])


class TestContract:
    def test_says_what_it_is(self, engine: Engine, case: tuple[str, str]) -> None:
        assert engine.name == case[0]
        assert version_admitted(engine.version, "1.0", None)

    def test_gives_one_vector(self, engine: Engine) -> None:
        query = engine.run(*history(5))
        assert isinstance(query, np.ndarray)
        assert query.shape == (DIM,)
        assert query.dtype == np.float32
        assert np.isfinite(query).all()

    def test_is_deterministic_and_keeps_no_state(self, engine: Engine) -> None:
        first = engine.run(*history(5))
        kept = first.copy()
        other = engine.run(*history(8, seed=1))
        assert not np.allclose(first, other)
        assert np.array_equal(engine.run(*history(5)), kept)
        assert np.array_equal(first, kept), "a later run must not write into an earlier answer"

    @pytest.mark.parametrize("used", range(1, LENGTH + 1))
    def test_agrees_with_numpy(
        self, engine: Engine, reference: Engine, case: tuple[str, str], used: int
    ) -> None:
        inputs = history(used, seed=used)
        expected = reference.run(*inputs)
        error = np.linalg.norm(engine.run(*inputs) - expected) / np.linalg.norm(expected)
        # One integer of one activation may differ where a value lies on a rounding border.
        assert error <= (1e-5 if case[1] == "fp32" else 0.03)

    def test_masked_rows_are_not_attended_to(self, engine: Engine, reference: Engine) -> None:
        """What stands in the padding reaches the query through the recency path alone."""
        rows, mask = history(4)
        full = rows.copy()
        full[:, :4] = np.random.default_rng(7).normal(size=(1, 4, DIM))
        assert isinstance(reference, NumpyEngine)
        recent = (reference.tensors["recency"] * (full - rows)[0]).sum(axis=0)
        np.testing.assert_allclose(engine.run(full, mask) - recent, engine.run(rows, mask), atol=2e-5)

    def test_mask_and_order_count(self, engine: Engine) -> None:
        rows, mask = history(4)
        query = engine.run(rows, mask)
        assert not np.allclose(engine.run(rows, np.ones_like(mask)), query, atol=1e-3)
        assert not np.allclose(engine.run(np.roll(rows, 1, axis=1), mask), query, atol=1e-3)

    def test_leaves_its_input_alone_and_takes_any_layout(self, engine: Engine) -> None:
        rows, mask = history(5)
        expected = engine.run(rows, mask)
        rows.flags.writeable = mask.flags.writeable = False
        assert np.array_equal(engine.run(rows, mask), expected)
        strided = np.asfortranarray(rows[0])[None]
        assert np.array_equal(engine.run(strided, mask), expected)

    def test_refuses_other_shapes_and_types(self, engine: Engine) -> None:
        rows, mask = history(5)
        wrong: list[tuple[np.ndarray, np.ndarray, str]] = [
            (rows[0], mask, r"rows must be float32 \[1, 8, 32\], got float32 \[8, 32\]"),
            (rows[:, 1:], mask, r"got float32 \[1, 7, 32\]"),
            (rows.astype(np.float64), mask, "got float64"),
            (rows, mask[0], r"mask must be float32 \[1, 8\], got float32 \[8\]"),
            (rows, mask.astype(bool), "got bool"),
            (rows, mask * 0.5, "0 and 1"),
        ]
        for bad_rows, bad_mask, message in wrong:
            with pytest.raises(PocketrecError, match=message) as error:
                engine.run(bad_rows, bad_mask)
            assert error.value.code == "bad-shape"

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    def test_an_answer_that_is_not_finite_is_an_error(self, engine: Engine) -> None:
        rows, mask = history(5)
        rows[0, -1, 3] = np.nan
        with pytest.raises(PocketrecError, match="not finite") as error:
            engine.run(rows, mask)
        assert error.value.code == "engine-failed"
        assert np.isfinite(engine.run(*history(5))).all(), "and the next run is fine again"

    def test_threads_share_it(self, engine: Engine) -> None:
        inputs = [history(1 + n % LENGTH, seed=n) for n in range(24)]
        one_by_one = [engine.run(*pair) for pair in inputs]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda pair: engine.run(*pair), inputs))
        assert np.array_equal(one_by_one, together)

    def test_close_ends_it(self, bundles: Bundles, case: tuple[str, str]) -> None:
        engine = load_engine(case[0], bundles[case[1]])
        engine.run(*history(5))
        engine.close()
        engine.close()
        with pytest.raises(PocketrecError, match="closed") as error:
            engine.run(*history(5))
        assert error.value.code == "engine-closed"


def test_available_engines_are_those_with_a_file(bundles: Bundles) -> None:
    assert available_engines(bundles["mixed"]) == list(ENGINE_NAMES)
    assert available_engines(bundles["int8"]) == ["onnxruntime", "numpy"]
    with pytest.raises(PocketrecError, match=r"no graph.*executorch.*It has: numpy, onnxruntime") as error:
        load_engine("executorch", bundles["int8"])
    assert error.value.code == "engine-unavailable"


def test_unknown_engines_and_numbers_of_threads_are_refused(bundles: Bundles) -> None:
    with pytest.raises(PocketrecError, match=r"'tflite'.*onnxruntime, executorch, numpy") as error:
        load_engine("tflite", bundles["int8"])
    assert error.value.code == "engine-unavailable"
    with pytest.raises(PocketrecError, match="got 0"):
        load_engine("numpy", bundles["int8"], threads=0)


def test_versions_outside_the_range_are_refused(bundles: Bundles) -> None:
    path = bundles.write("too-new", "int8", engines={"onnxruntime": {"min_version": "99.1"}})
    with Bundle.open(path) as bundle:
        assert available_engines(bundle) == ["numpy"]
        with pytest.raises(PocketrecError, match=r"99\.1 to any.*Install a version in that range") as error:
            load_engine("onnxruntime", bundle)
    assert error.value.code == "engine-unavailable"


def test_an_engine_that_is_not_installed_says_how(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = (("a-distribution-nobody-has",), "'pocketrec[executorch]'")
    monkeypatch.setitem(engines._DISTRIBUTIONS, "executorch", missing)
    assert available_engines(bundles["mixed"]) == ["onnxruntime", "numpy"]
    with pytest.raises(PocketrecError, match=r"pip install 'pocketrec\[executorch\]'"):
        load_engine("executorch", bundles["mixed"])


@pytest.mark.parametrize(
    ("version", "minimum", "maximum", "admitted"),
    [
        ("1.28.0", "1.20", None, True),
        ("1.20.0", "1.20", None, True),
        ("1.19.9", "1.20", None, False),
        ("1.4.1", "1.4.2", None, False),
        ("1.5.7", "1.4", "1.5", True),
        ("1.6.0", "1.4", "1.5", False),
        ("2.0", None, "1.5", False),
        ("1.10.0", None, "1.9", False),
        ("1.4.1+cpu", "1.4.1", "1.4", True),
        ("1.5.0rc1", "1.4", "1.5", True),
        ("3", None, None, True),
    ],
)
def test_version_ranges(version: str, minimum: str | None, maximum: str | None, admitted: bool) -> None:
    assert version_admitted(version, minimum, maximum) is admitted


@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, ExecutorchEngine])
def test_files_that_are_no_graph_are_refused(engine: Any) -> None:
    for junk in (b"", b"\0" * 4096, b"not a graph at all"):
        with pytest.raises(PocketrecError, match=r"refuses the .*: ") as error:
            engine(junk, LENGTH, DIM)
        assert error.value.code == "engine-failed"


@pytest.mark.parametrize("name", ["onnxruntime", "executorch"])
def test_graphs_of_another_size_are_refused(bundles: Bundles, name: str) -> None:
    bundle = bundles["mixed"]
    data = bundle.path_or_bytes(bundle.manifest.engines[name].file)
    kind = {"onnxruntime": OnnxRuntimeEngine, "executorch": ExecutorchEngine}[name]
    with pytest.raises(BundleError, match=r"manifest asks for") as caught:
        kind(data, LENGTH + 1, DIM)
    assert caught.value.code == "graph-invalid"
    with pytest.raises(BundleError, match=r"manifest asks for"):
        kind(data, LENGTH, DIM * 2)


def test_tensors_of_another_shape_are_refused() -> None:
    tensors = backbone_tensors(BACKBONE, RECIPES["int8"])
    for name, tensor in tensors.items():
        with pytest.raises(BundleError, match=name.replace(".", r"\.")) as caught:
            NumpyEngine(tensors | {name: tensor[:-1]}, BACKBONE.shape, LENGTH, DIM)
        assert caught.value.code == "tensors-invalid"
        with pytest.raises(BundleError, match=name.removesuffix(".q").replace(".", r"\.")):
            NumpyEngine({k: t for k, t in tensors.items() if k != name}, BACKBONE.shape, LENGTH, DIM)


def test_onnxruntime_comes_without_torch_and_without_telemetry() -> None:
    code = (
        "import os, sys, pocketrec.engine_onnxruntime as e;"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1';"
        "assert not {'torch', 'executorch', 'pocketrec_export'} & set(sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
