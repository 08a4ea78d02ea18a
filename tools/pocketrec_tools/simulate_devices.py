"""What a list would take on other phones: a model, not a measurement.

    milliseconds = overhead + multiply–adds of the graph / rate + bytes of the item table / bandwidth

The graph is counted from the manifest (linears, attention over the whole window), the scan reads the table
once. Rates are round numbers of this project, chosen for one core of a phone of that class running float32 or
int8 through a library such as XNNPACK; no phone was measured. They order phones and show what dominates. For
a phone you have, give its own numbers: `--device NAME:GMACS:GBPS:MS`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pocketrec.errors import DataError


class Device(BaseModel):
    """A stated device profile.

    Attributes:
        gmacs: 10⁹ multiply–adds a second that the graph reaches.
        gbps: 10⁹ bytes a second that the scan of the table reaches.
        overhead_ms: what every list costs besides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    gmacs: float = Field(gt=0)
    gbps: float = Field(gt=0)
    overhead_ms: float = Field(ge=0)

    def milliseconds(self, facts: dict[str, Any]) -> float:
        """Of one list, from the facts of a bundle in `Run.bundles`."""
        return self.overhead_ms + macs(facts) / self.gmacs / 1e6 + facts["table_bytes"] / self.gbps / 1e6


DEVICES = (
    Device(name="fast phone", gmacs=20, gbps=10, overhead_ms=0.2),
    Device(name="middling phone", gmacs=6, gbps=4, overhead_ms=0.5),
    Device(name="slow phone", gmacs=1.5, gbps=1.5, overhead_ms=1.5),
)


def macs(facts: dict[str, Any]) -> int:
    """Multiply–adds of one run of the graph over its whole window."""
    length, dim, shape = facts["length"], facts["dim"], facts["backbone"]
    width = shape["heads"] * shape["head_dim"]
    kv = shape["kv_heads"] * shape["head_dim"]
    linears = dim * (2 * width + 2 * kv) + 3 * dim * shape["intermediate"]
    attention = 2 * length * width
    return int(shape["layers"] * length * (linears + attention))


def device(text: str) -> Device:
    """The device of "NAME:GMACS:GBPS:MS".

    Raises:
        DataError: `argument-invalid`.
    """
    try:
        name, gmacs, gbps, overhead = text.split(":")
        return Device(name=name, gmacs=float(gmacs), gbps=float(gbps), overhead_ms=float(overhead))
    except ValueError:
        raise DataError(
            f"{text!r} is no device.",
            code="argument-invalid",
            remedy="Write NAME:GMACS:GBPS:MS, such as mine:6:4:0.5.",
        ) from None
