"""Item texts: a tokenizer trained on them, TF-IDF weights over its tokens, and word rows to start from.

An item's text row is the TF-IDF weighted sum of the rows of its tokens. So the word table and the item table
live in one space, and the row of an item that nobody has seen needs nothing but its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

SAMPLE = 100_000
"""Items that the tokenizer and the start of the word rows are learnt from, at most: beyond that, more of the
same texts add time and memory and nothing else. Weights of tokens are counted over all items."""

BLOCK = 1 << 14
"""Texts turned into tokens at a time; as the library gives them, tokens take a hundred times their room."""

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Train a byte-pair tokenizer (lower-cased, accents stripped, split at spaces and punctuation) on item
    texts.

    The vocabulary has at most `vocab_size` entries, fewer when the texts hold fewer; the four special tokens
    come first.
    """
    # No prefix for the inside of words: with one, the library numbers tokens differently in every process.
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator([texts[i] for i in sample_items(len(texts))], trainer)
    return tokenizer


def sample_items(items: int, seed: int = 0) -> np.ndarray:
    """int64, ascending: all items, or `SAMPLE` of them, drawn by the seed."""
    if items <= SAMPLE:
        return np.arange(items)
    return np.sort(np.random.default_rng(seed).choice(items, SAMPLE, replace=False))


@dataclass(frozen=True)
class TextFeatures:
    """TF-IDF of the catalogue over token ids.

    Attributes:
        weights: CSR float32 [items, vocab]; each row has L2 norm 1, or is empty when the item has no text.
        idf: float32 [vocab], the weight of one occurrence of each token.
    """

    weights: sparse.csr_matrix
    idf: np.ndarray

    def start_rows(self, dim: int, seed: int) -> np.ndarray:
        """Word rows float32 [vocab, dim] under which dot products of text rows approximate TF-IDF cosines.

        They are the right singular vectors of the TF-IDF matrix (latent semantic analysis, Deerwester et al.
        1990); what the rank of the matrix leaves free is zero.
        """
        vocab = self.weights.shape[1]
        rows = np.zeros((vocab, dim), np.float32)
        some = sample_items(self.weights.shape[0], seed)
        weights = self.weights if len(some) == self.weights.shape[0] else self.weights[some]
        rank = min(dim, vocab - 1, weights.shape[0] - 1)
        if rank > 0 and weights.nnz:
            svd = TruncatedSVD(n_components=rank, algorithm="randomized", n_iter=4, random_state=seed)
            svd.fit(weights)
            rows[:, :rank] = svd.components_.T
        return rows


def text_features(texts: list[str], tokenizer: Tokenizer) -> TextFeatures:
    """TF-IDF with sublinear term frequency (scikit-learn's formulas) of every text over the tokenizer's
    vocabulary."""
    tokens, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for first in range(0, len(texts), BLOCK):
        encoded = tokenizer.encode_batch(texts[first : first + BLOCK], add_special_tokens=False)
        ids = [e.ids for e in encoded]
        lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
        tokens.append(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths[-1].sum())))
    indptr, indices = np.cumsum(np.concatenate(lengths)), np.concatenate(tokens)
    counts = sparse.csr_matrix(
        (np.ones(len(indices), np.float32), indices, indptr), shape=(len(texts), tokenizer.get_vocab_size())
    )
    counts.sum_duplicates()
    transformer = TfidfTransformer(sublinear_tf=True, norm="l2")
    weights = transformer.fit(counts).transform(counts, copy=False).astype(np.float32, copy=False).tocsr()
    return TextFeatures(weights, transformer.idf_.astype(np.float32))
