"""One group of a round file: its combinations, and where its mistakes are reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roundhouse.config.round_schema import Group, RoundFile
from roundhouse.config.yaml_file import YamlFile
from roundhouse.model.experiment import StartFrom
from roundhouse.names import nearest
from roundhouse.schema import Location


@dataclass(frozen=True, slots=True)
class Combination:
    """One combination of values in a group, where it is written, and the config and path that follow from it.

    `place` is relative to the group. `names`: the config, and what only paths, commands and expressions can name.
    """

    values: Mapping[str, Any]
    place: Location
    config: Mapping[str, Any]
    names: Mapping[str, Any]
    path: str


@dataclass
class Section:
    """A group of a round file, and whether no mistake was found in it so far."""

    file: YamlFile
    content: RoundFile
    name: str
    is_sound: bool = True
    per_values: list[Any] = field(default_factory=list)  # of the key `per` of `select`
    combinations: list[Combination] = field(default_factory=list)
    starts: Sequence[StartFrom | None] = ()  # for each combination

    @property
    def group(self) -> Group:
        return self.content.experiments[self.name]

    @property
    def study(self) -> str | None:
        """The study that its experiments train, unless they run a command."""
        return self.group.study or self.content.study

    @property
    def names(self) -> list[Mapping[str, Any]]:
        """The names of each combination."""
        return [one.names for one in self.combinations]

    def writes(self, key: str) -> bool:
        """Whether the file has this key for the group."""
        return key in self.file.data["experiments"][self.name]

    def inherits(self, where: Location) -> bool:
        """Whether this is written in a file that the round extends; `where` is relative to the group."""
        return self.file.place(("experiments", self.name, *where))[0] != self.file.path

    def wrong(self, where: Location, message: str) -> None:
        """Note a mistake; `where` is relative to the group."""
        self.is_sound = False
        self.file.problem(("experiments", self.name, *where), message)

    def other_group(self, where: Location, name: str, if_own: str) -> bool:
        """Whether `name` is another group of the round; if not, that is a mistake, and `if_own` says why it is not."""
        others = [group for group in self.content.experiments if group != self.name]
        if name not in others:
            self.wrong(
                where, f"no other group is called {name!r}: {if_own if name == self.name else nearest(name, others)}"
            )
        return name in others

    @property
    def not_yet_known(self) -> str:
        """The end of a message about a name that is missing in a group with `select`."""
        select = self.group.select
        if select is None:
            return ""
        return f"; keys that come from the selected settings of {select.named(repr)} cannot be used here"
