"""Expressions on the keys of a config, and on metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from roundhouse.names import nearest
from roundhouse.placeholders import any_text


class Expression:
    """A Jinja expression on a config, computed once for each set of values of the keys in it, its `names`."""

    def __init__(self, source: str) -> None:
        """ValueError if it is not an expression."""
        from jinja2 import StrictUndefined, TemplateError, meta
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined)
        environment.globals.clear()
        try:
            self._compute = environment.compile_expression(source, undefined_to_none=False)
            self.names = sorted(meta.find_undeclared_variables(environment.parse("{{ (" + source + ") }}")))
        except TemplateError as error:
            raise ValueError(f"{source!r} is not an expression: {error}") from None
        self._source = source
        self._known: dict[tuple[Any, ...], Any] = {}

    def truth(self, config: Mapping[str, Any]) -> bool:
        """Its value as true or false. ValueError says why there is none."""
        return bool(self._value(config))

    def number(self, config: Mapping[str, Any]) -> float:
        """Its value as a finite number. ValueError says why there is none."""
        value = self._value(config)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{self._source!r} must give a number, not {value!r}")
        return float(value)

    def _value(self, config: Mapping[str, Any]) -> Any:
        key = tuple((name in config, type(config.get(name)), any_text(config.get(name))) for name in self.names)
        if key not in self._known:
            self._known[key] = self._evaluate(config)
        return self._known[key]

    def _evaluate(self, config: Mapping[str, Any]) -> Any:
        from jinja2 import Undefined, UndefinedError

        try:
            value = self._compute(config)
            return str(value) if isinstance(value, Undefined) else value  # the text of an undefined name is an error
        except UndefinedError as error:
            unknown = [name for name in self.names if name not in config]
            hint = f": {nearest(unknown[0], config)}" if unknown else ""
            raise ValueError(f"{self._source!r}: {error}{hint}") from None
        except Exception as error:  # an expression may fail in any way that Python can
            raise ValueError(f"{self._source!r}: {error}") from error
