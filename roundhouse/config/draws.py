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

    written = section.group.random
    numbers = {"count": written.get("count"), "seed": written.get("seed", 0)}
    for name, number in numbers.items():
        if name not in written and name == "count":
            wrong(f"needs the key {name!r}", name)
        elif type(number) is not int:
            wrong(f"{name} must be a whole number, not {number!r}", name)
        elif name == "count" and not 1 <= number <= MAX_DRAWS:
            wrong(f"count must be between 1 and {MAX_DRAWS:,}", name)
    distributions: dict[str, Distribution] = {}
    for key in written.keys() - numbers.keys():
        try:
            distributions[key] = distribution(written[key])
        except ValueError as error:
            kind = list(written[key])[:1] if isinstance(written[key], dict) else []
            wrong(f"{key!r} {error}", key, *kind)
    if not written.keys() - numbers.keys():
        wrong("draws no key: write KEY: {uniform: [LOW, HIGH]} or another distribution")
    if not section.is_sound:
        return []
    keys = [key for key in written if key in distributions]
    return [
        {"draw": number, **{key: distributions[key](random_bits(numbers["seed"], key, number)) for key in keys}}
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
        raise ValueError(f"{kind} has a limit that is too large for a floating-point number") from None
    if _ROUNDED.plus(low) == _ROUNDED.plus(high):
        raise ValueError(f"{kind} has limits that are equal in the 6 digits to which draws are rounded")
    return low, high


def _share(bits: int) -> Decimal:
    """The fraction of the way from low to high: at least 0, below 1."""
    return _EXACT.divide(Decimal(bits >> (BITS - 64)), Decimal(2**64))


def _rounded(value: Decimal, low: Decimal, high: Decimal) -> float:
    return float(min(max(_ROUNDED.plus(value), low), high))
