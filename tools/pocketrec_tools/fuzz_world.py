"""What the fuzzer starts from: a small sound bundle, its next catalogue, their delta, a history."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.signing import KeyPair, generate_key
from pocketrec_export.content import BundleContent, TableContent
from pocketrec_export.delta import make_delta
from pocketrec_export.writer import write_bundle, zip_directory
from pocketrec_tools.soak_bundle import small_content

ITEMS = tuple(f"item{number}" for number in range(20))
HISTORY = ("item3", "item5", "once-7", "nobody-knows-this")
DIM, LENGTH = 32, 4
_TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFKD"},
            {"type": "StripAccents"},
            {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"String": "ß"}, "content": "ss"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": "\\w+|[^\\w\\s]+"},
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "Digits", "individual_digits": False},
        ],
    },
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "BPE",
        "unk_token": "w0",
        "vocab": {"w0": 0, "w": 1, "1": 2, "w1": 3},
        "merges": [["w", "1"]],
    },
}


@dataclass(frozen=True)
class World:
    """The sound inputs.

    Attributes:
        bundle, following: folders of the bundle and of its next catalogue, both signed by `key`.
        delta: the files of the signed delta from one to the other.
        archive, delta_archive: bundle and delta as stored ZIPs.
        history, lines: a history file, and its export.
    """

    bundle: Path
    following: Path
    delta: dict[str, bytes]
    archive: bytes
    delta_archive: bytes
    history: bytes
    lines: bytes
    key: KeyPair


def make_world(root: Path) -> World:
    """Write them below `root`."""
    from pocketrec.history import History

    key = generate_key()
    content = _content()
    bundle = write_bundle(root / "bundle", content=content, sign_key=key.private_pem)
    following = write_bundle(root / "next", content=_next(content), sign_key=key.private_pem)
    zip_directory(bundle, root / "bundle.zip")
    delta = make_delta(bundle, following, root / "delta", sign_key=key.private_pem)
    with History(root / "me.db") as history:
        history.record_many([(item, "", 1_700_000_000 + at) for at, item in enumerate(ITEMS)])
        history.export(root / "lines")
    with zipfile.ZipFile(delta) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return World(
        bundle,
        following,
        files,
        (root / "bundle.zip").read_bytes(),
        delta.read_bytes(),
        (root / "me.db").read_bytes(),
        (root / "lines").read_bytes(),
        key,
    )


def _content() -> BundleContent:
    content = small_content(ITEMS, 1)
    words = np.random.default_rng(7).normal(size=(4, DIM)).astype(np.float32)
    return dataclasses.replace(
        content,
        words=TableContent("int4", rows=words),
        display={"title": [f"Titel {n} é" for n in range(len(ITEMS))]},
        retired=["item9"],
        renamed={"once-7": "item7", "once-8": "item8"},
        tokenizer=json.dumps(_TOKENIZER).encode(),
        onnx=small_graph(),
        engines={"onnxruntime": {"min_version": "1.20"}},
    )


def _next(content: BundleContent) -> BundleContent:
    """Two items more, one re-titled, one gone for good."""
    stored = content.items.stored()
    more = small_content(("a", "b"), 5).items.stored()
    kept = [at for at in range(len(ITEMS)) if at != 4]
    titles = [f"Titel {n} é" if n != 6 else "Now cheaper" for n in kept]
    return dataclasses.replace(
        content,
        items=TableContent(
            "int8", tensors={name: np.concatenate([stored[name][kept], more[name]]) for name in stored}
        ),
        item_ids=[*(ITEMS[at] for at in kept), "new-1", "new-2"],
        prior=np.arange(len(kept) + 2),
        display={"title": [*titles, "New", "Newer"]},
        golden=[["item3", "new-1"]],
        catalogue_version=2,
    )


def small_graph() -> bytes:
    """A `model.onnx` of the bundle's shape in which every kind of operator occurs that the format admits. It
    is not the bundle's backbone: what its answers are does not matter here."""
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(3)

    def floats(*shape: int) -> Any:
        return chance.normal(size=shape).astype(np.float32)

    constants = {
        "last": np.array([LENGTH - 1]), "end": np.array([LENGTH]), "one": np.array([1]),
        "step": np.array([1]), "zero_axis": np.array([0]),
        "flat": np.array([1, DIM]), "heads": np.array([0, -1, 2, 16]), "back": np.array([1, LENGTH, DIM]),
        "minus": np.array([-1]), "square": floats(DIM, DIM), "bias": floats(DIM), "half": np.float32(0.5),
        "scale": np.float32(0.05), "zero": np.int8(0), "low": np.float32(-3), "high": np.float32(3),
        "whole": chance.integers(-9, 9, (DIM, DIM)).astype(np.int8), "column": np.float32(0.1),
        "packed": chance.integers(0, 255, (DIM, 1, 16)).astype(np.uint8), "scales": np.abs(floats(DIM)),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Reshape", ["rows", "heads"], ["split"]),
        node("Transpose", ["split"], ["q"], perm=[0, 2, 1, 3]),
        node("Transpose", ["split"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["products"]),
        node("Mul", ["products", "half"], ["scaled"]),
        node("Softmax", ["scaled"], ["weights"], axis=-1),
        node("MatMul", ["weights", "q"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "back"], ["joined"]),
        node("Slice", ["joined", "last", "end", "one", "step"], ["row"]),
        node("Reshape", ["row", "flat"], ["x"]),
        node("Clip", ["x", "low", "high"], ["clipped"]),
        node("QuantizeLinear", ["clipped", "scale", "zero"], ["whole_x"]),
        node("MatMulInteger", ["whole_x", "whole"], ["sums"]),
        node("Cast", ["sums"], ["cast"], to=TensorProto.FLOAT),
        node("Mul", ["cast", "column"], ["y"]),
        node("Gemm", ["y", "square", "bias"], ["z"], transB=1),
        node("Sigmoid", ["z"], ["gate"]),
        node("MatMulNBits", ["gate", "packed", "scales"], ["w"], domain="com.microsoft",
             K=DIM, N=DIM, bits=4, block_size=32),
        node("ReduceMean", ["w", "minus"], ["mean"], keepdims=1),
        node("Sub", ["w", "mean"], ["centred"]),
        node("Concat", ["centred", "x"], ["both"], axis=0),
        node("ReduceMax", ["both", "zero_axis"], ["top"], keepdims=1),
        node("ReduceMax", ["mask"], ["any"], keepdims=0),
        node("Mul", ["top", "any"], ["query"]),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("rows", TensorProto.FLOAT, [1, LENGTH, DIM]), value("mask", TensorProto.FLOAT, [1, LENGTH])],
        [value("query", TensorProto.FLOAT, [1, DIM])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made
