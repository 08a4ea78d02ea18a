"""Figures that others published, for the page of the quality benchmark; quoted, not measured here.

All are leave-one-out over the full catalogue with seen items filtered, as far as their sources say.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row: HR@10 and NDCG@10 as the source prints them."""

    model: str
    hr: str
    ndcg: str
    source: str


@dataclass(frozen=True)
class Anchors:
    """What is known of a data set; shown where the directory has this name and so many users and events."""

    users: int
    events: int
    rows: tuple[Published, ...]


_ESASREC = "README of eSASRec, [arXiv 2508.06450](https://arxiv.org/abs/2508.06450)"
_DROSS = "README of Turning Dross Into Gold Loss, [arXiv 2309.07602](https://arxiv.org/abs/2309.07602)"
_TIGER = "TIGER, [arXiv 2305.05065](https://arxiv.org/abs/2305.05065)"
_SECOND = "second-hand, from [arXiv 2310.14318](https://arxiv.org/abs/2310.14318)"

ANCHORS: dict[str, Anchors] = {
    "amazon-beauty": Anchors(
        22_363,
        198_502,
        (
            Published("BERT4Rec", ".0347", ".0170", _TIGER),
            Published("SASRec, one binary negative", ".0605", ".0318", _TIGER),
            Published("TIGER", ".0648", ".0384", _TIGER),
            Published("LC-Rec, Qwen3-1.7B", ".0791", ".0438", "README of GenRec; perhaps validation"),
            Published("HSTU", ".0788", ".0439", _ESASREC),
            Published("SASRec, 256 negatives", ".0921", ".0531", _ESASREC),
            Published("eSASRec", ".0928", ".0523", _ESASREC),
            Published("ICSRec", ".0960", ".0579", _SECOND),
        ),
    ),
    "ml-1m": Anchors(
        6_040,
        999_611,
        (
            Published("SASRec, one binary negative", ".2500", ".1341", _DROSS),
            Published("BERT4Rec", ".2843", ".1537", _DROSS),
            Published("gSASRec", ".3003", ".1726", "the authors' repository, [arXiv 2308.07192]"
                      "(https://arxiv.org/abs/2308.07192)"),
            Published("HSTU, 3,706 items", ".3037", ".1719", _ESASREC),
            Published("eSASRec, 3,706 items", ".3133", ".1772", _ESASREC),
            Published("SASRec, full softmax", ".3152", ".1821", _DROSS),
            Published("SASRec, 3,000 negatives", ".3159", ".1857", _DROSS),
            Published("ICSRec", ".3368", ".2007", _SECOND),
        ),
    ),
}  # fmt: skip


def published(name: str, users: int, events: int) -> tuple[Published, ...]:
    """The rows for a data set, none when it is another one of the same name."""
    found = ANCHORS.get(name)
    return found.rows if found is not None and (found.users, found.events) == (users, events) else ()
