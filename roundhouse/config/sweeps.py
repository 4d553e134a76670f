"""What a group sweeps besides lists of values: subsets of items, random draws, and sub-sweeps over some keys each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import combinations, product
from typing import Any

from roundhouse.config.round_schema import Focus, Subsets, Values
from roundhouse.config.templates import any_text, plain_text
from roundhouse.config.yaml_file import YamlFile
from roundhouse.names import nearest

MOST = 1_000_000  # combinations in one group
NO_ITEMS = "none"  # how the empty subset is written
BITS = 256  # of SHA-256
# Decimal arithmetic is rounded correctly everywhere, logarithms too; that of floats depends on the machine.
_EXACT = Context(prec=40, rounding=ROUND_HALF_EVEN)
_ROUNDED = Context(prec=6, rounding=ROUND_HALF_EVEN)

Row = dict[str, Any]
Distribution = Callable[[int], Any]  # from BITS random bits to a value


@dataclass
class Section:
    """A group within its file, and whether all that was read of it so far is right."""

    file: YamlFile
    name: str
    is_sound: bool = True

    def wrong(self, where: Sequence[str | int], message: str) -> None:
        """Note a mistake; `where` counts from the group."""
        self.is_sound = False
        self.file.problem(("experiments", self.name, *where), message)


def printable(config: Mapping[str, Any], subsets: Collection[str]) -> Mapping[str, Any]:
    """The config with KEY_name for each key of `combinations`: its items joined by +."""
    if not subsets:
        return config
    chosen = {key: config[key] for key in subsets if isinstance(config.get(key), list)}
    return {**config, **{name_of(key): "+".join(map(any_text, chosen[key])) or NO_ITEMS for key in chosen}}


def name_of(key: str) -> str:
    """What paths call the value of a key of `combinations`."""
    return f"{key}_name"


def product_of(section: Section, where: Sequence[str | int], axes: Sequence[Sequence[Row]]) -> list[Row]:
    """All rows of each axis with all of the others, the last changing fastest; one empty row without any axis."""
    if math.prod(map(len, axes)) > MOST:
        section.wrong(where, f"group {section.name!r} has more than {MOST:,} combinations")
        return []
    return [{key: value for part in parts for key, value in part.items()} for parts in product(*axes)]


def grid_axes(grid: Values) -> list[list[Row]]:
    """An axis for each key."""
    return [[{key: value} for value in values] for key, values in grid.items()]


def focus_axis(section: Section, focus: Mapping[str, Focus]) -> list[Row]:
    """The product of each sub-sweep, one after the other, with the sub-sweep's name as `focus`."""
    rows: list[Row] = []
    for name, part in focus.items():
        if not part.grid:
            section.wrong(("focus", name, "grid"), f"grid of focus {name!r} in group {section.name!r} is empty")
        for key, values in part.grid.items():
            if not values:
                section.wrong(
                    ("focus", name, "grid", key), f"grid of focus {name!r} in group {section.name!r} has no {key!r}"
                )
        rows += [{"focus": name, **row} for row in product_of(section, ("focus", name), grid_axes(part.grid))]
    return rows


def subset_axis(section: Section, key: str, written: Subsets) -> list[Row]:
    """The subsets by size in the order in which sizes are written, then those selected that are not yet among them."""

    def wrong(message: str, *part: str | int) -> None:
        section.wrong(("combinations", key, *part), f"combinations of {key!r} in group {section.name!r}: {message}")

    items = _items(written.of, wrong)
    if not written.sizes and not written.select:
        wrong("needs sizes or select")
    for position, size in enumerate(written.sizes):
        if size > len(written.of):
            wrong(f"there are no {size} items in `of`, only {len(written.of)}", "sizes", position)
        if size in written.sizes[:position]:
            wrong(f"size {size} is there twice", "sizes", position)
    selected: list[list[str]] = []
    for position, subset in enumerate(written.select):
        texts = [any_text(item) for item in subset]
        for unknown in [text for text in texts if text not in items]:
            wrong(f"{unknown!r} is no item of `of`: {nearest(unknown, items)}", "select", position)
        ordered = [text for text in items if text in texts]
        if len(set(texts)) < len(texts):
            wrong(f"{'+'.join(texts)} has an item twice", "select", position)
        elif ordered in selected:
            wrong(f"{'+'.join(ordered) or NO_ITEMS} is selected twice", "select", position)
        selected.append(ordered)
    if section.is_sound and sum(math.comb(len(items), size) for size in written.sizes) > MOST:
        wrong(f"more than {MOST:,} subsets", "sizes")
    if not section.is_sound:
        return []
    subsets = [chosen for size in written.sizes for chosen in combinations(items, size)]
    subsets += [tuple(chosen) for chosen in selected if len(chosen) not in written.sizes]
    return [{key: [items[text] for text in chosen]} for chosen in subsets]


def _items(of: Sequence[Any], wrong: Callable[..., None]) -> dict[str, Any]:
    """Each item by its text, which tells it from the others."""
    items: dict[str, Any] = {}
    if not of:
        wrong("`of` is empty", "of")
    for position, item in enumerate(of):
        try:
            text = plain_text(item)
        except ValueError as error:
            wrong(f"item {any_text(item)} {error}", "of", position)
            continue
        if text in items:
            wrong(f"{text!r} is in `of` twice", "of", position)
        items[text] = item
    return items


def draw_axis(section: Section, written: Mapping[str, Any]) -> list[Row]:
    """Row i holds `draw: i` and the i-th draw of each key, which depends on (seed, key, i) and on nothing else."""

    def wrong(message: str, *part: str | int) -> None:
        section.wrong(("random", *part), f"random of group {section.name!r}: {message}")

    numbers = {"count": written.get("count"), "seed": written.get("seed", 0)}
    for name, number in numbers.items():
        if type(number) is not int:
            said = f"{name} must be a whole number, not {number!r}" if name in written else f"needs the key {name!r}"
            wrong(said, name)
        elif name == "count" and not 1 <= number <= MOST:
            wrong(f"count must lie between 1 and {MOST:,}", name)
    drawn = [key for key in written if key not in numbers]
    distributions: dict[str, Distribution] = {}
    for key in drawn:
        try:
            distributions[key] = distribution(written[key])
        except ValueError as error:
            kind = list(written[key])[:1] if isinstance(written[key], dict) else []
            wrong(f"{key!r} {error}", key, *kind)
    if not drawn:
        wrong("draws no key: write KEY: {uniform: [LOW, HIGH]} or the like")
    if not section.is_sound:
        return []
    return [
        {
            "draw": number,
            **{key: value(random_bits(numbers["seed"], key, number)) for key, value in distributions.items()},
        }
        for number in range(written["count"])
    ]


def random_bits(seed: int, key: str, number: int) -> int:
    """BITS bits that depend on these three alone, the same on every machine and Python."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}/{number}".encode()).digest(), "big")


def distribution(written: Any) -> Distribution:
    """The distribution in {uniform: [low, high]} and the like. ValueError says what is wrong with it."""
    if not isinstance(written, dict) or len(written) != 1:
        known = ", ".join(_DISTRIBUTIONS)
        raise ValueError(
            f"needs one distribution, such as {{uniform: [0, 1]}}, not {any_text(written)}: known are {known}"
        )
    ((kind, values),) = written.items()
    if kind not in _DISTRIBUTIONS:
        raise ValueError(f"has the unknown distribution {kind!r}: {nearest(kind, _DISTRIBUTIONS)}")
    return _DISTRIBUTIONS[kind](values)


def _uniform(limits: Any) -> Distribution:
    low, high = _float_limits("uniform", limits)
    span = _EXACT.subtract(high, low)
    return lambda bits: _rounded(_EXACT.fma(span, _share(bits), low), low, high)


def _log_uniform(limits: Any) -> Distribution:
    low, high = _float_limits("log_uniform", limits)
    if low <= 0:
        raise ValueError(f"log_uniform must begin above 0, not at {limits[0]}")
    start = _EXACT.ln(low)
    span = _EXACT.subtract(_EXACT.ln(high), start)
    return lambda bits: _rounded(_EXACT.exp(_EXACT.fma(span, _share(bits), start)), low, high)


def _integer(limits: Any) -> Distribution:
    low, high = _limits("integer", limits, (int,))
    return lambda bits: low + (bits * (high - low + 1) >> BITS)


def _choice(values: Any) -> Distribution:
    if not isinstance(values, list) or not values:
        raise ValueError(f"choice must be a list of values, not {any_text(values)}")
    return lambda bits: values[bits * len(values) >> BITS]


_DISTRIBUTIONS: dict[str, Callable[[Any], Distribution]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "choice": _choice,
    "integer": _integer,
}


def _limits(kind: str, limits: Any, types: tuple[type, ...]) -> list[Any]:
    numbers = "whole numbers" if types == (int,) else "numbers"
    if not isinstance(limits, list) or len(limits) != 2 or any(type(one) not in types for one in limits):
        raise ValueError(f"{kind} must be two {numbers}, [LOW, HIGH], not {any_text(limits)}")
    if limits[0] >= limits[1]:
        raise ValueError(f"{kind} must go from a low number to a high one, not from {limits[0]} to {limits[1]}")
    return limits


def _float_limits(kind: str, limits: Any) -> tuple[Decimal, Decimal]:
    try:
        low, high = (Decimal(repr(float(one))) for one in _limits(kind, limits, (int, float)))
    except OverflowError:
        raise ValueError(f"{kind} has a limit that is no floating-point number") from None
    if _ROUNDED.plus(low) == _ROUNDED.plus(high):
        raise ValueError(f"{kind} has limits that are equal in the 6 digits to which draws are rounded")
    return low, high


def _share(bits: int) -> Decimal:
    """Of the way from low to high: at least 0, below 1."""
    return _EXACT.divide(Decimal(bits >> (BITS - 64)), Decimal(2**64))


def _rounded(value: Decimal, low: Decimal, high: Decimal) -> float:
    return float(min(max(_ROUNDED.plus(value), low), high))
