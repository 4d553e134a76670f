"""Random draws of config values: the same on every machine, whatever else is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from roundhouse.config.section import Section
from roundhouse.names import nearest
from roundhouse.placeholders import any_text

MAX_DRAWS = 1_000_000
BITS = 256  # of SHA-256
# Decimal arithmetic is rounded correctly on every machine, logarithms too; that of floats depends on the machine.
_EXACT = Context(prec=40, rounding=ROUND_HALF_EVEN)
_ROUNDED = Context(prec=6, rounding=ROUND_HALF_EVEN)

Distribution = Callable[[int], Any]  # from BITS random bits to a value


def draw_axis(section: Section) -> list[dict[str, Any]]:
    """Row i holds `draw: i` and the i-th draw of each key, which depends only on (seed, key, i)."""

    def wrong(message: str, *part: str) -> None:
        section.wrong(("random", *part), f"random of group {section.name!r}: {message}")

    written = {"seed": 0, **section.group.random}
    if "count" not in written:
        wrong("needs the key 'count'", "count")
    distributions: dict[str, Distribution] = {}
    for key, value in written.items():
        if key not in ("count", "seed"):
            try:
                distributions[key] = distribution(value)
            except ValueError as error:
                wrong(f"{key!r} {error}", key, *(list(value)[:1] if isinstance(value, dict) else []))
        elif type(value) is not int:
            wrong(f"{key} must be a whole number, not {value!r}", key)
        elif key == "count" and not 1 <= value <= MAX_DRAWS:
            wrong(f"count must be between 1 and {MAX_DRAWS:,}", key)
    if not written.keys() - {"count", "seed"}:
        wrong("draws no key: write KEY: {uniform: [LOW, HIGH]} or another distribution")
    if not section.is_sound:
        return []
    return [
        {
            "draw": number,
            **{key: draw(random_bits(written["seed"], key, number)) for key, draw in distributions.items()},
        }
        for number in range(written["count"])
    ]


def random_bits(seed: int, key: str, number: int) -> int:
    """BITS bits that depend only on the arguments, the same on every machine and Python."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}/{number}".encode()).digest(), "big")


def distribution(written: Any) -> Distribution:
    """The distribution in {uniform: [low, high]} and the like. ValueError says what is wrong."""
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
    return lambda bits: _rounded(_between(low, high, bits), low, high)


def _log_uniform(limits: Any) -> Distribution:
    low, high = _float_limits("log_uniform", limits)
    if low <= 0:
        raise ValueError(f"log_uniform must begin above 0, not at {limits[0]}")
    start, end = _EXACT.ln(low), _EXACT.ln(high)
    return lambda bits: _rounded(_EXACT.exp(_between(start, end, bits)), low, high)


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
        raise ValueError(f"{kind} has a limit that is too large for a floating-point number") from None
    if _ROUNDED.plus(low) == _ROUNDED.plus(high):
        raise ValueError(f"{kind} has limits that are equal in the 6 digits to which draws are rounded")
    return low, high


def _between(start: Decimal, end: Decimal, bits: int) -> Decimal:
    """A point on the way from `start` to `end`, which itself is not reached."""
    share = _EXACT.divide(Decimal(bits >> (BITS - 64)), Decimal(2**64))
    return _EXACT.fma(_EXACT.subtract(end, start), share, start)


def _rounded(value: Decimal, low: Decimal, high: Decimal) -> float:
    return float(min(max(_ROUNDED.plus(value), low), high))
