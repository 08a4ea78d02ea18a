"""The catalogue of a made-up outdoor and home shop: needs that follow one another, brands, titles.

Every word here is our own; brands and product lines are invented.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Each line is a department, an activity, and its needs in the order in which people come to them.
# A star marks what is used up and bought again.
_NEEDS = """
Outdoor > Camping: tent, sleeping bag, sleeping mat, camp stove, gas cartridge*, cook set, camping
    lantern, folding chair, cool box, water container, tarp, camp table
Home > Kitchen: chef's knife, chopping board, frying pan, saucepan, mixing bowl, kitchen scale,
    baking tin, baking paper*, storage jar, apron, casserole dish, knife sharpener
Outdoor > Hiking: hiking boots, hiking socks, daypack, rain jacket, trekking poles, drinking bottle,
    head torch, compass, blister plasters*, energy bars*, gaiters, bivvy bag
Home > Garden: garden spade, seed packet*, potting soil*, watering can, gardening gloves, secateurs,
    garden hose, plant labels*, raised bed, compost bin, cold frame, kneeling pad
Outdoor > Cycling: cycle helmet, bike lock, bike lights, floor pump, inner tube*, chain oil*, bike
    multitool, pannier bag, mudguards, cycling gloves, bottle cage, cycling shorts
Home > Coffee: coffee grinder, pour-over dripper, paper filters*, coffee beans*, gooseneck kettle,
    coffee scale, serving jug, cup set, travel mug, moka pot, milk frother, descaling tablets*
Outdoor > Snow: base layer, ski jacket, ski trousers, ski goggles, ski gloves, ski socks, hand
    warmers*, ski wax*, snow helmet, vacuum flask, toboggan, snow boots
Home > Workshop: cordless drill, drill bit set, screwdriver set, workbench, bar clamp, hand saw,
    sandpaper*, wood glue*, tape measure, safety glasses, tool box, wood oil*
Outdoor > Climbing: climbing shoes, chalk bag, chalk block*, climbing harness, belay device,
    climbing rope, quickdraw set, screw-gate carabiner, climbing helmet, finger tape*, rope bag,
    bouldering mat
Outdoor > Paddling: inflatable kayak, kayak paddle, buoyancy aid, dry bag, neoprene shoes, wetsuit,
    spray deck, throw line, roof rack straps, kayak trolley, patch kit*, waterproof phone case
"""

_BRANDS = """
Fellmoor Oakmere Tarnwick Brackenby Lindvarn Skerrow Halvdal Quillon Marrowby
Esterlow Thornquay Wexholm Ravelgate Umberline Dunlace Norrskog Pellisk Varnholt
"""
_LINES = "Kestrel Rowan Heron Alder Marten Juniper Plover Sorrel Otter Linnet Lapwing Swift"
BRANDS, LINES = _BRANDS.split(), _LINES.split()
STYLES = ["ultralight", "family", "recycled", "compact", "classic", "professional"]
COLOURS = ["moss green", "slate grey", "ochre", "navy blue", "brick red", "sand", "black", "cream"]

NEEDS_EACH = 12
FEWEST_ITEMS, MOST_ITEMS = 60, 50_000


@dataclass(frozen=True)
class DemoCatalogue:
    """Items sorted by need: those of need n are `starts[n]:starts[n + 1]`. Arrays have [items] entries.

    Args:
        item_ids: shuffled numbers, which tell nothing about the item.
        starts: int64 [needs + 1].
        weights: float64, popularity inside the need (Zipf).
        launches: float64, days after the first day at which an item appears; the last ones never do.
        consumable: bool [needs].
    """

    item_ids: list[str]
    titles: list[str]
    categories: list[str]
    needs: NDArray[np.int64]
    brands: NDArray[np.int64]
    styles: NDArray[np.int64]
    starts: NDArray[np.int64]
    weights: NDArray[np.float64]
    launches: NDArray[np.float64]
    consumable: NDArray[np.bool_]

    @property
    def num_needs(self) -> int:
        return len(self.starts) - 1

    @property
    def num_activities(self) -> int:
        return self.num_needs // NEEDS_EACH


def make_catalogue(items: int, days: int, rng: np.random.Generator) -> DemoCatalogue:
    """Make up `items` products, over as many activities as they fill with five for each need."""
    activities = _activities()[: max(1, min(10, items // FEWEST_ITEMS))]
    names = [(path, need) for path, needs in activities for need in needs]
    needs = np.sort(np.arange(items) % len(names))
    starts = np.searchsorted(needs, np.arange(len(names) + 1))
    # A brand is at home in about half of the activities, and makes most of their needs.
    at_home = rng.random((len(activities), len(BRANDS))).argsort(axis=1)[:, : len(BRANDS) // 2]
    brands = at_home[needs // NEEDS_EACH, rng.integers(at_home.shape[1], size=items)]
    styles = rng.integers(len(STYLES), size=items)
    titles, taken = [], set()
    for need, brand, style in zip(needs, brands, styles, strict=True):
        title = ""
        while not title or title in taken:  # two products never share a title
            line, colour = LINES[rng.integers(len(LINES))], COLOURS[rng.integers(len(COLOURS))]
            noun = names[need][1].rstrip("*")
            title = f"{BRANDS[brand]} {line} {STYLES[style]} {noun}, {colour}"
        taken.add(title)
        titles.append(title)
    zipf = (1.0 / np.arange(1, count + 1) ** 0.9 for count in np.diff(starts))
    weights = np.concatenate([rng.permutation(part) for part in zipf])
    # Most of the shelf is there from the start, a seventh comes in the last third, some is yet to come.
    launches = np.zeros(items)
    order = rng.permutation(items)
    late, never = order[: items // 7], order[items // 7 : items // 7 + items // 40]
    launches[late] = days * rng.uniform(0.66, 0.99, len(late))
    launches[never] = np.inf
    launches[starts[:-1]] = 0.0  # no need is ever without a product
    return DemoCatalogue(
        item_ids=[f"p{number:05d}" for number in rng.permutation(items) + 1],
        titles=titles,
        categories=[_category(*names[need]) for need in needs],
        needs=needs,
        brands=brands,
        styles=styles,
        starts=starts,
        weights=weights,
        launches=launches,
        consumable=np.array([need.endswith("*") for _, need in names]),
    )


def _activities() -> list[tuple[str, list[str]]]:
    """(path, needs) of each activity."""
    found: list[tuple[str, list[str]]] = []
    for line in _NEEDS.strip().replace("\n    ", " ").splitlines():
        path, needs = line.split(": ")
        found.append((path, needs.split(", ")))
    return found


def _category(path: str, need: str) -> str:
    name = need.rstrip("*")
    return f"{path} > {name[0].upper()}{name[1:]}"
