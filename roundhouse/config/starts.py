"""`init` and `continue` of a group: the checkpoint that each of its experiments starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from roundhouse.config.dependencies import matching, sources_of
from roundhouse.config.round_schema import Continue, Init
from roundhouse.config.section import Combination, Section
from roundhouse.formatting import abbreviated
from roundhouse.model.experiment import SELECTED, StartFrom
from roundhouse.names import nearest
from roundhouse.placeholders import parse_template

LISTED = 3  # paths in a message
_FILE = ".pth"
Sources = Sequence[tuple[str | None, bool]]  # for each experiment its source, and whether that is a file


def starts_of(section: Section, sections: Mapping[str, Section]) -> Sequence[StartFrom | None]:
    """For each experiment of a group the checkpoint that it starts from. Mistakes become problems of the file."""
    group, nothing = section.group, [None for _ in section.combinations]
    if group.init and group.continue_:
        section.wrong(("init",), f"group {section.name!r} has both init and continue: it needs one of them")
        return nothing
    written, kind = group.init or group.continue_, "init" if group.init else "continue"
    if written is None:
        return nothing
    if group.command:
        what = "only a study can start from a checkpoint. A command gets the files of others by `after`"
        section.wrong((kind,), f"group {section.name!r} has {kind}, and a command: {what}")
        return nothing
    if kind in group.after or kind in sources_of(section):
        section.wrong((kind,), f"group {section.name!r} has {kind}, and depends on a group of this name: rename that")
        return nothing
    find = _of_group if written.source in sections else _of_paths
    sources = find(section, sections, kind, written)
    tags = _tags(section, written.snapshot) if isinstance(written, Init) else nothing
    if sources is None or tags is None:
        return nothing
    return [
        None if source is None else StartFrom(kind, source, tag, is_file)
        for (source, is_file), tag in zip(sources, tags, strict=True)
    ]


def _of_group(section: Section, sections: Mapping[str, Section], kind: str, written: Continue) -> Sources | None:
    """The experiments of a group that `from` names. None: there is a mistake."""
    source, selected = sections[written.source], sources_of(section)
    chosen = [sections[name] for name in selected if name in sections] if written.source in selected else [source]
    if not all(_fits(section, one, kind) for one in chosen):
        return None
    if source.name not in selected:
        found = _matching_ones(section, source, kind, written)
        return None if found is None else [(path, False) for path in found]
    if written.match:
        why = f"the selected run of {source.name!r} is taken: leave it out"
        section.wrong((kind, "match"), f"{kind}.match of group {section.name!r} has no effect, because {why}")
        return None
    return [(SELECTED, False) for _ in section.combinations]


def _of_paths(section: Section, sections: Mapping[str, Section], kind: str, written: Continue) -> Sources | None:
    """The experiments or files whose paths `from` names. None: there is a mistake."""
    owners = {one.path: other for other in sections.values() for one in other.combinations}
    sources: list[tuple[str | None, bool]] = []
    for one in section.combinations:
        try:
            path = parse_template(written.source).fill(one.names)
        except ValueError as error:
            section.wrong((kind, "from"), f"{kind}.from of group {section.name!r}: {error}{section.not_yet_known}")
            return None
        is_file = path not in owners and path.endswith(_FILE) and isinstance(written, Init)
        if not (is_file or path in owners):
            files = ", nor a .pth file" if isinstance(written, Init) else ""
            what = f"neither a group nor the path of an experiment in this round{files}"
            hint = nearest(path, [*(name for name in sections if name != section.name), *owners])
            section.wrong((kind, "from"), f"{kind}.from of group {section.name!r}: {path!r} is {what}: {hint}")
            return None
        if written.match:
            section.wrong((kind, "match"), f"{kind}.match needs the name of a group in {kind}.from")
            return None
        if is_file and isinstance(written, Init) and written.snapshot is not None:
            section.wrong(
                (kind, "snapshot"), f"init.snapshot needs an experiment, and {path!r} is a file: leave it out"
            )
            return None
        if not is_file and not _fits(section, owners[path], kind):
            return None
        sources.append((path, is_file))
    return sources


def _fits(section: Section, source: Section, kind: str) -> bool:
    """Whether the experiments of `source` write checkpoints that those of a group can start from."""
    if source.group.command:
        message = f"group {source.name!r} runs a command, and only a study writes checkpoints"
    elif kind == "continue" and source.study != section.study:
        message = f"group {source.name!r} trains the study {source.study}, not {section.study}"
    else:
        return True
    section.wrong((kind, "from"), f"{kind} of group {section.name!r}: {message}")
    return False


def _matching_ones(section: Section, source: Section, kind: str, written: Continue) -> Sequence[str | None] | None:
    """For each experiment the only one in `source` that fulfils the conditions; None in a chain: it is the first."""
    conditions = written.match or {key: f"{{{key}}}" for key in _shared_keys(section, source)}
    place = (kind, "match") if written.match else (kind,)
    matched = matching(section, source, conditions, place)
    if matched is None or not source.combinations:
        return None
    begins_chain = source is section and any(matched)
    for one, paths in zip(section.combinations, matched, strict=True):
        if len(paths) == 1 or (begins_chain and not paths):
            continue
        section.wrong(place, _not_one(one, paths, source, kind, conditions))
        return None
    return [paths[0] if paths else None for paths in matched]


def _not_one(
    one: Combination, paths: Sequence[str], source: Section, kind: str, conditions: Mapping[str, object]
) -> str:
    keys = ", ".join(conditions) or "no keys"
    if not paths:
        return f"no experiment of group {source.name!r} matches `{kind}` for {one.path} (compared: {keys})"
    which = f"{len(paths)} experiments of group {source.name!r} match `{kind}` for {one.path} (compared: {keys})"
    advice = f"they are {abbreviated(paths, LISTED)}. Add keys to {kind}.match until one is left"
    return f"{which}: {advice}"


def _shared_keys(section: Section, source: Section) -> list[str]:
    """The config keys in which the experiments of `source` differ, and that all experiments of a group have."""
    first = source.combinations[0].config if source.combinations else {}
    differing = dict.fromkeys(
        key
        for one in source.combinations
        for key in {**first, **one.config}
        if key not in first or key not in one.config or one.config[key] != first[key]
    )
    return [key for key in differing if all(key in one.names for one in section.combinations)]


def _tags(section: Section, snapshot: str | None) -> Sequence[str | None] | None:
    """For each experiment the tag of the snapshot; None if there is a mistake."""
    if snapshot is None:
        return [None for _ in section.combinations]
    tags = []
    for one in section.combinations:
        try:
            tags.append(parse_template(snapshot).fill(one.names))
        except ValueError as error:
            section.wrong(("init", "snapshot"), f"init.snapshot of group {section.name!r}: {error}")
            return None
        if not re.fullmatch(r"[^/.][^/]*", tags[-1]):
            section.wrong(
                ("init", "snapshot"), f"{tags[-1]!r} is not the tag of a snapshot, which is part of a file name"
            )
            return None
    return tags
