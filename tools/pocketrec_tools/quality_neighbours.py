"""Peers that need no training: recency-weighted similarity to the items of a history.

    score(i) = Σ_j  0.7^(steps back of j) · cosine(i, j)        over the events j of the history

Cosines are of what items have in common: the users of their training events (item-kNN), or the words of their
texts (TF-IDF). Everything is sparse; scores exist for a chunk of users at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from pocketrec_export.metrics import pessimistic_rank
from pocketrec_export.split import Part, Split

DECAY = 0.7
CHUNK = 512


def user_vectors(split: Split) -> sparse.csr_matrix:
    """float64 [items, users], rows of length 1 or 0: who had an item in training, weighted by idf.

    A user who had much says little about any of it: the weight is log(items / (1 + their distinct items)).
    """
    offsets, items, _, _ = split.train_csr()
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    shape = (split.dataset.num_items, len(offsets) - 1)
    met = sparse.csr_matrix((np.ones(len(items)), (items, users)), shape=shape)
    met.data[:] = 1  # an item that somebody had twice counts once
    had = np.bincount(met.indices, minlength=shape[1])
    met.data = np.log(shape[0] / (1 + had))[met.indices].clip(min=0)
    return normalize(met)


def text_vectors(texts: Sequence[str]) -> sparse.csr_matrix:
    """float64 [items, words], rows of length 1 or 0: TF-IDF of the texts' words, scikit-learn's."""
    if not any(text.strip() for text in texts):
        return sparse.csr_matrix((len(texts), 1))
    return TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts).tocsr()


def history_weights(histories: Sequence[NDArray[np.integer]], items: int) -> sparse.csr_matrix:
    """float64 [histories, items]: 1 for the last event, 0.7 for the one before, and so on; repeats add up."""
    lengths = [len(history) for history in histories]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    back = [DECAY ** np.arange(length - 1, -1, -1.0) for length in lengths]
    columns = np.concatenate(histories) if histories else np.zeros(0, np.int64)
    weights = np.concatenate(back) if back else np.zeros(0)
    return sparse.csr_matrix((weights, (rows, columns)), shape=(len(lengths), items))


def neighbour_scores(
    histories: Sequence[NDArray[np.integer]], *factors: sparse.csr_matrix
) -> NDArray[np.float32]:
    """float32 [histories, items]: the weights of the histories times the factors of the items' similarity."""
    product = history_weights(histories, factors[0].shape[0])
    for factor in factors:
        product = product @ factor
    scores: NDArray[np.float32] = product.toarray().astype(np.float32)
    return scores


def neighbour_ranks(split: Split, part: Part, *factors: sparse.csr_matrix) -> NDArray[np.int64]:
    """Ranks of the targets of `users_for(part)`, int64 [n], in the protocol of `metrics`."""
    users, targets = split.users_for(part), split.target_items(part)
    items = split.dataset.items
    out = [np.zeros(0, np.int64)]
    for first in range(0, len(users), CHUNK):
        seen = [items[split.history(int(user), part)] for user in users[first : first + CHUNK]]
        scores = neighbour_scores(seen, *factors)
        out.append(pessimistic_rank(scores, targets[first : first + CHUNK], seen))
    return np.concatenate(out)


def user_ranks(split: Split, part: Part) -> NDArray[np.int64]:
    """Item-kNN. Few items share a user, so that their similarity is sparse and is made once."""
    vectors = user_vectors(split)
    return neighbour_ranks(split, part, (vectors @ vectors.T).tocsr())


def text_ranks(split: Split, part: Part) -> NDArray[np.int64]:
    """Similar texts. Most items share a word, so that their similarity is never made as a whole."""
    vectors = text_vectors(split.dataset.texts)
    return neighbour_ranks(split, part, vectors, vectors.T.tocsr())
