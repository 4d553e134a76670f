"""Which part of a machine a job gets: a share of a GPU, whole GPUs, or CPU cores. Pure functions of what is in use."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from roundhouse.model.experiment import Resources

SEPARATOR = ","  # between a slot's places; no GPU name contains it, because CUDA_VISIBLE_DEVICES is a list with commas


@dataclass(frozen=True, slots=True)
class Slot:
    """What one job gets: a share of a GPU, whole GPUs, or CPU cores.

    `places` are the names of these parts, the same for all runners. `threads` is the number of threads of each process;
    a job has one process for each GPU, or one without GPUs.
    """

    places: tuple[str, ...]
    gpus: tuple[str, ...] | None  # None: there are no GPUs, and CUDA_VISIBLE_DEVICES stays unchanged
    threads: int

    @property
    def name(self) -> str:
        return SEPARATOR.join(self.places)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the GPUs and CPU cores of a machine or an allocation are divided into slots.

    `per_gpu` jobs share a GPU; `cpu_slots` is the number of jobs without a GPU; `most`, if given, the number of jobs of
    any kind, where a job with whole GPUs counts as all jobs that could share them. `home` is a prefix of the names of
    places; it distinguishes allocations on the same node.
    """

    gpus: tuple[str, ...]
    per_gpu: int
    cpu_slots: int
    cores: int
    most: int | None = None
    home: str = ""

    @property
    def places(self) -> frozenset[str]:
        """The names of all places."""
        gpus = (place for gpu in self.gpus for place in (self._whole(gpu), *self._shares(gpu)))
        return frozenset((*self._cpu_places(), *gpus))

    def refusal(self, need: Resources) -> str:
        """Why a job with this request can never run here; empty if it can."""
        if need.ngpus <= max(1, len(self.gpus)):
            return ""  # one that requests a GPU runs on the CPU if there is none; studies are refused before
        found = f"{len(self.gpus)} can be used" if self.gpus else "none was found"
        return f"it requests {need.ngpus} GPUs, but {found} on this host: set a smaller ngpus, or use another host"

    def choose(self, need: Resources, taken: Collection[str]) -> Slot | None:
        """A free slot for a job with this request, given the names of the places in use; None if there is none now."""
        if self.refusal(need) or (self.most is not None and self._weight(taken) + self._cost(need) > self.most):
            return None
        if not self.gpus or not need.ngpus:
            place = next((name for name in self._cpu_places() if name not in taken), None)
            gpus = () if self.gpus else None
            return None if place is None else Slot((place,), gpus, self._threads(need, self.cpu_slots))
        threads = self._threads(need, len(self.gpus) * self.per_gpu)
        loads = {gpu: self._load(gpu, taken) for gpu in self.gpus}
        if need.ngpus == 1:  # a share of the GPU with the fewest jobs
            shared = (gpu for gpu in sorted(loads, key=loads.__getitem__) if self._whole(gpu) not in taken)
            shares = ((gpu, share) for gpu in shared for share in self._shares(gpu) if share not in taken)
            return next((Slot((share,), (gpu,), threads) for gpu, share in shares), None)
        whole = tuple(gpu for gpu in self.gpus if not loads[gpu])[: need.ngpus]
        return Slot(tuple(map(self._whole, whole)), whole, threads) if len(whole) == need.ngpus else None

    def kept_for(self, need: Resources, taken: Collection[str]) -> frozenset[str]:
        """The places of the GPUs to keep for a job that must wait for several: those with the fewest jobs now."""
        loads = sorted((self._load(gpu, taken), number) for number, gpu in enumerate(self.gpus))
        gpus = [self.gpus[number] for _, number in loads[: need.ngpus]] if need.ngpus > 1 else []
        return frozenset(map(self._whole, gpus))

    def _threads(self, need: Resources, slots: int) -> int:
        """Threads of each process of a job, if the cores are divided among `slots` slots."""
        return max(1, self.cores * self._cost(need) // (self.most or slots) // max(1, need.ngpus))

    def _cost(self, need: Resources) -> int:
        """As how many jobs this one counts towards `most`."""
        whole = need.ngpus * self.per_gpu if need.ngpus > 1 else 1
        return min(whole, self.most or whole)

    def _weight(self, taken: Iterable[str]) -> int:
        """How many of `most` the jobs in places of this layout use."""
        whole = {self._whole(gpu) for gpu in self.gpus}
        return sum(self.per_gpu if place in whole else 1 for place in self.places.intersection(taken))

    def _cpu_places(self) -> list[str]:
        return [f"{self.home}cpu/{number}" for number in range(self.cpu_slots)]

    def _whole(self, gpu: str) -> str:
        return f"{self.home}gpu {gpu}"

    def _shares(self, gpu: str) -> list[str]:
        return [f"{self._whole(gpu)}/{share}" for share in range(self.per_gpu)]

    def _load(self, gpu: str, taken: Iterable[str]) -> int:
        """How many jobs are on a GPU, including those of runners with a larger `per_gpu`."""
        whole = self._whole(gpu)
        return sum(place == whole or place.rpartition("/")[0] == whole for place in taken)


@dataclass
class Room:
    """The free places of a layout during one pass, assigned to jobs in the order in which they start.

    Later jobs get what the first one that must wait cannot use, but no GPU that is kept for it: otherwise small jobs
    could delay it forever.
    """

    layout: Layout
    taken: set[str]
    kept: frozenset[str] = frozenset()  # places for the first job that must wait
    _waits: bool = False

    def has(self, need: Resources) -> bool:
        """Whether there is a free slot for such a job."""
        return self.layout.choose(need, self.taken) is not None

    def take(self, need: Resources) -> bool:
        """Whether such a job can start next; if so, take its places. True if it can never run: starting refuses it."""
        if self.layout.refusal(need):
            return True
        if self._waits and self.layout.most is not None:
            return False
        slot = self.layout.choose(need, self.taken | self.kept)
        if slot is None:
            self.kept = self.kept or self.layout.kept_for(need, self.taken)
            self._waits = True
            return False
        self.taken |= set(slot.places)
        return True
