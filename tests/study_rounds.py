"""A separate repository for rounds of a test's own studies: the real runner, job scripts and training library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rounds_for_tests import REPOSITORY, Rounds


@dataclass
class StudyRounds(Rounds):
    """Rounds whose studies a test writes."""

    @property
    def root(self) -> Path:
        return self.folder / "repository"

    @classmethod
    def of(cls, rounds: Rounds) -> StudyRounds:
        made = cls(folder=rounds.folder, mark=rounds.mark)
        (made.root / "studies").mkdir(parents=True)
        for name in ("runner.py", "train.py"):
            (made.root / name).write_text((REPOSITORY / name).read_text())
        for name in ("roundhouse", "templates"):
            (made.root / name).symlink_to(REPOSITORY / name)
        (made.root / "studies/__init__.py").touch()
        return made

    def argv(self, *options: str) -> list[str]:
        words = super().argv(*options)
        words[1] = str(self.root / "runner.py")
        return words

    def study(self, name: str, options: str, train: str) -> None:
        """Write a study from the source of its options.py and train.py."""
        folder = self.root / "studies" / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "options.py").write_text(options)
        (folder / "train.py").write_text(train)
