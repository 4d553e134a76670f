"""Which part of a machine a job gets: a share of a GPU, whole GPUs, or some CPU cores. Pure, from what is taken."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from roundhouse.model.experiment import Resources

BETWEEN = ","  # between a slot's places; no GPU's name holds it, since CUDA_VISIBLE_DEVICES is a list with commas


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one experiment: a share of a GPU, some whole GPUs, or CPU cores.

    `places` are the names of what it takes; they are the same for all runners. `threads` are for each process: one for
    each GPU, or one in all.
    """

    places: tuple[str, ...]
    gpus: tuple[str, ...] | None  # None: the machine has none, and CUDA_VISIBLE_DEVICES stays as it is
    threads: int

    @property
    def name(self) -> str:
        return BETWEEN.join(self.places)


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is to give away.

    `per_gpu` jobs share a GPU; `cpu_slots` is how many jobs without a GPU fit; `most`, if given, how many jobs of
    whatever kind, where one that takes whole GPUs counts as all that might have shared them. `home` sets the names
    apart from those of other allocations on the same node.
    """

    gpus: tuple[str, ...]
    per_gpu: int
    cpu_slots: int
    cores: int
    most: int | None = None
    home: str = ""

    @property
    def places(self) -> frozenset[str]:
        """The names of all places that there are."""
        gpus = (place for gpu in self.gpus for place in (self._whole(gpu), *self._shares(gpu)))
        return frozenset((*self._cpu_places(), *gpus))

    def refusal(self, need: Resources) -> str:
        """Why such a job can never run here; empty if it can."""
        if need.ngpus <= max(1, len(self.gpus)):
            return ""  # one that asks for a single GPU runs on the CPU where there is none
        here = f"{len(self.gpus)} may be used" if self.gpus else "none can be found"
        return f"it asks for {need.ngpus} GPUs, and here {here}: ask for fewer (ngpus), or run it elsewhere"

    def choose(self, need: Resources, taken: Collection[str]) -> Slot | None:
        """A free slot for such a job, given the names of the places that are taken; None if there is none now."""
        if self.refusal(need) or (self.most is not None and self._weight(taken) + self._cost(need) > self.most):
            return None
        if not self.gpus or not need.ngpus:
            place = next((name for name in self._cpu_places() if name not in taken), None)
            gpus = () if self.gpus else None
            return None if place is None else Slot((place,), gpus, self._threads(need, self.cpu_slots))
        threads = self._threads(need, len(self.gpus) * self.per_gpu)
        if need.ngpus == 1:
            return self._share(threads, taken)
        unused = [gpu for gpu in self.gpus if not self._load(gpu, taken)]
        if len(unused) < need.ngpus:
            return None
        whole = tuple(unused[: need.ngpus])
        return Slot(tuple(map(self._whole, whole)), whole, threads)

    def _share(self, threads: int, taken: Collection[str]) -> Slot | None:
        """A share of the GPU with the fewest jobs on it."""
        for gpu in sorted(self.gpus, key=lambda gpu: self._load(gpu, taken)):
            if self._whole(gpu) in taken:
                continue
            for place in self._shares(gpu):
                if place not in taken:
                    return Slot((place,), (gpu,), threads)
        return None

    def _threads(self, need: Resources, slots: int) -> int:
        """For each process of a job; the cores are divided among so many slots."""
        return max(1, self.cores * self._cost(need) // (self.most or slots) // max(1, need.ngpus))

    def _cost(self, need: Resources) -> int:
        """For how many jobs that share a GPU this one counts."""
        whole = need.ngpus * self.per_gpu if need.ngpus > 1 else 1
        return min(whole, self.most or whole)

    def _weight(self, taken: Iterable[str]) -> int:
        """How many of `most` are used up by this allocation's own jobs."""
        whole = {self._whole(gpu) for gpu in self.gpus}
        return sum(self.per_gpu if place in whole else 1 for place in self.places.intersection(taken))

    def _cpu_places(self) -> list[str]:
        return [f"{self.home}cpu/{number}" for number in range(self.cpu_slots)]

    def _whole(self, gpu: str) -> str:
        return f"{self.home}gpu {gpu}"

    def _shares(self, gpu: str) -> list[str]:
        return [f"{self._whole(gpu)}/{share}" for share in range(self.per_gpu)]

    def _load(self, gpu: str, taken: Iterable[str]) -> int:
        """How many jobs are on a GPU, those of runners that share it among more included."""
        whole = self._whole(gpu)
        return sum(place == whole or place.rpartition("/")[0] == whole for place in taken)


@dataclass
class Room:
    """What is free during one pass, given out in the order in which jobs are to start.

    A job that must wait holds back those after it that want the same: small ones would else keep it waiting for ever.
    """

    layout: Layout
    taken: set[str]
    _held: set[bool] = field(default_factory=set)  # whether the jobs that wait want GPUs

    def has(self, need: Resources) -> bool:
        """Whether such a job would find a slot."""
        return self.layout.choose(need, self.taken) is not None

    def take(self, need: Resources) -> bool:
        """Whether such a job can be started next. One that can never run may: it is refused as it starts."""
        if self.layout.refusal(need):
            return True
        kind = bool(need.ngpus and self.layout.gpus)
        if kind in self._held or (self.layout.most is not None and self._held):
            return False
        slot = self.layout.choose(need, self.taken)
        if slot is None:
            self._held.add(kind)
            return False
        self.taken |= set(slot.places)
        return True
