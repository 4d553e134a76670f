"""`extends` in a round file: the groups of another round, in which everything that this file writes takes precedence.

Files are merged as plain data, of which each key keeps the place where it was written. So what follows reads one file,
and reports each mistake with the file and line that contain it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from roundhouse.config.named_files import named_file
from roundhouse.config.round_schema import ExtendingFile, RoundFile
from roundhouse.config.yaml_file import Place, Places, YamlFile, read_yaml
from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest

Data = dict[str, Any]
SWEEPS = ("grid", "zip", "combinations", "random", "focus")
MERGED = ("config", *SWEEPS, "select", "halving")  # keys of a group that are merged key by key; others are replaced
NO_CONFIG = {"random": ("count", "seed")}  # keys there that are not keys of a config


def read_round_file(name: str, folder: Path) -> tuple[YamlFile, RoundFile, tuple[Path, ...]]:
    """A round file, merged with those that it extends; its content; and all these files, its own first.

    RoundhouseError: mistakes in one of the files, each with file and line.
    """
    path = named_file("round", name, folder)
    files: list[YamlFile] = []
    while True:
        file = read_yaml(path)
        content = file.read_as(ExtendingFile if "extends" in file.data else RoundFile)
        if content.round != path.stem:
            file.problem(("round",), f"the name of the round is {content.round!r}, but the file is {path.name}")
        if content.groups is not None and content.extends is None:
            file.problem(("groups",), "groups can only be written with `extends`: it selects groups of that round")
        files.append(file)
        if content.extends is None:
            break
        path = _extended(file, content.extends, folder, [one.path.stem for one in files])
    if len(files) == 1:
        return file, content, (path,)
    for written in reversed(files[:-1]):
        file.check()
        file = _Merge(file, written).file()
    return file, file.read_as(RoundFile), tuple(one.path for one in files)


def _extended(file: YamlFile, name: str, folder: Path, before: Sequence[str]) -> Path:
    """The file of the round that a file extends."""
    if name in before:
        chain = " extends ".join([*before[before.index(name) :], name])
        file.problem(("extends",), f"rounds extend each other in a cycle: {chain}")
    try:
        path = named_file("round", name, folder)
    except RoundhouseError as error:
        file.problem(("extends",), str(error))
    file.check()
    return path


class _Merge:
    """The data of the round file `written`, together with that of the round that it extends."""

    def __init__(self, base: YamlFile, written: YamlFile) -> None:
        self._written, self._places = written, Places(base.places, written.places)
        self._base, self._own = base.data, written.data
        self._defaults = written.data.get("defaults", {})

    def file(self) -> YamlFile:
        """The merged file. RoundhouseError: the two do not fit together."""
        base, own = self._base, self._own
        data = self._mapping(self._without(base, ["description"]), self._without(own, ["extends", "groups"]))
        data["defaults"] = self._mapping(base.get("defaults", {}), self._defaults)
        data["figures"] = self._mapping(base.get("figures", {}), own.get("figures", {}))
        data["retry"] = self._retry(base.get("retry", {}), own.get("retry", {}))
        data["resources"] = self._requests(base.get("resources", {}), own.get("resources", {}))
        data["experiments"] = self._groups(base["experiments"], own.get("experiments", {}))
        self._written.check()
        return YamlFile(data, self._places, self._written.place(()))

    def _groups(self, base: Data, own: Data) -> Data:
        """The groups of the other round, or some of them, in its order; then new ones."""
        chosen = self._own.get("groups")
        self._check_names(base, own, chosen)
        left_out = set() if chosen is None else base.keys() - set(chosen)
        groups = self._mapping(self._without(base, left_out), own)
        for name in groups.keys() & base.keys():
            groups[name] = self._group(base[name], own.get(name, {}))
            self._leave_out(name, groups[name], left_out)
        return groups

    def _check_names(self, base: Data, own: Data, chosen: Sequence[str] | None) -> None:
        other = self._own["extends"]
        for number, name in enumerate(chosen or ()):
            if name not in base and name not in own:
                self._written.problem(("groups", number), f"round {other} has no group {name!r}: {nearest(name, base)}")
        for name, group in own.items():
            if name in base and chosen is not None and name not in chosen:
                message = f"group {name!r} of round {other} is changed here, but `groups` leaves it out"
                self._written.problem(("experiments", name), message)
            elif name not in base and "path" not in group:
                message = f"experiments.{name} needs the key 'path', or the name of a group of round {other}: "
                self._written.problem(("experiments", name), message + nearest(name, base))

    def _leave_out(self, name: str, group: Data, left_out: Collection[str]) -> None:
        """Check that a group depends on none that was left out. If its baseline was, it has none."""
        sources = (group.get("select") or {}).get("from", [])
        needed = {*group.get("after", ()), *([sources] if isinstance(sources, str) else sources)}
        for one in sorted(needed & set(left_out)):
            message = f"groups leaves out {one!r}, on which group {name!r} depends: add it, or change {name!r} here"
            self._written.problem(("groups",), message)
        if group.get("baseline") in left_out:
            del group["baseline"]

    def _group(self, base: Data, own: Data) -> Data:
        """A group, in which `own` takes precedence, and so does what this file writes for all groups."""
        removed = [key for key, value in own.items() if value is None]
        own = self._without(own, removed)
        replaced = {"study", "priority"} & self._own.keys()
        base = self._without(base, [*removed, *replaced, *(key for key, value in base.items() if value is None)])
        fixed = {*self._defaults, *own.get("config", {})}
        swept = {kind: _keys_swept(kind, own.get(kind, {})) for kind in SWEEPS}
        group = self._mapping(base, own)
        for key in base.keys() & MERGED:
            mine = own.get(key, {})
            # `config` keeps the values that keys of `focus` have in all other sub-sweeps
            others = (keys for kind, keys in swept.items() if (key, kind) != ("config", "focus"))
            gone = self._defaults.keys() if key == "config" else fixed
            gone = gone | (set().union(*others) - _keys_swept(key, mine))
            group[key] = self._mapping(self._without_keys(key, base[key], gone), mine)
            if key in SWEEPS and key not in own and not _keys_swept(key, group[key]):
                del group[key]  # all of its keys have one value now
        if "include" in base and "include" not in own:
            group["include"] = [self._without(row, fixed) for row in base["include"]]
            self._places.note(group["include"], self._places.of(base["include"]))
        if "resources" in base:
            group["resources"] = self._requests(
                base["resources"], self._own.get("resources", {}), own.get("resources", {})
            )
        return group

    def _without_keys(self, key: str, value: Data, gone: Collection[str]) -> Data:
        """The value of a key of a group, without these config keys."""
        if key in ("select", "halving"):
            return value
        if key != "focus":
            return self._without(value, set(gone) - {*NO_CONFIG.get(key, ())})
        parts = self._mapping(value)
        for name, part in value.items():
            parts[name] = self._mapping(part)
            parts[name]["grid"] = self._without(part["grid"], gone)
        return self._without(parts, [name for name, part in parts.items() if not part["grid"]])

    def _retry(self, base: Data, own: Data) -> Data:
        """Each cause of the two; a number means `tries`."""
        merged = self._mapping(base, own)
        for cause in base.keys() & own.keys():
            if isinstance(base[cause], dict) or isinstance(own[cause], dict):
                both = [one if isinstance(one, dict) else {"tries": one} for one in (base[cause], own[cause])]
                merged[cause] = self._mapping(*both)
        return merged

    def _requests(self, first: Data, *others: Data) -> Data:
        """Requests for resources, of which each overrides those before it, their `when` included."""
        merged, conditional = self._without(first, ["when"]), self._items(first.get("when", []))
        for one in others:
            plain = self._without(one, ["when"])
            if conditional and plain:
                place = next(iter(self._places.of(one).values()), None)
                conditional.append((self._mapping({"if": "true"}, plain), place))
            else:
                merged = self._mapping(merged, plain)
            conditional += self._items(one.get("when", []))
        if conditional:
            merged["when"] = [entry for entry, _ in conditional]
            places = {number: place for number, (_, place) in enumerate(conditional) if place}
            self._places.note(merged["when"], places)
        return merged

    def _items(self, values: Sequence[Any]) -> list[tuple[Any, Place | None]]:
        return [(value, self._places.of(values).get(number)) for number, value in enumerate(values)]

    def _mapping(self, *parts: Mapping[str, Any], left_out: Collection[str] = ()) -> Data:
        """The keys of all parts, each with its place; later ones override earlier ones."""
        merged = {key: value for part in parts for key, value in part.items() if key not in left_out}
        places = {key: place for part in parts for key, place in self._places.of(part).items() if key in merged}
        self._places.note(merged, places)
        return merged

    def _without(self, part: Mapping[str, Any], keys: Collection[str]) -> Data:
        """The other keys of a mapping, each with its place."""
        return self._mapping(part, left_out=keys)


def _keys_swept(kind: str, value: Data) -> set[str]:
    """The config keys that this part of a group gives values to."""
    if kind == "focus":
        return {key for part in value.values() for key in part["grid"]}
    return value.keys() - {*NO_CONFIG.get(kind, ())}
