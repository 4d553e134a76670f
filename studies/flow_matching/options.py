"""The config of a flow matching run: keys, defaults, valid values. The runner imports it, so no torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import check_batch, choose

COMPLEXITIES = ("simple", "multi_frequency", "radial", "interference", "modulated", "composite")

TECHNIQUES = {
    1: "Rectified flow",
    2: "Multi-scale position encoding",
    3: "Consistency loss",
    4: "Perceptual (spectral) loss",
    5: "Adaptive layer norm",
    6: "Self-conditioning",
    7: "Exponential moving average",
    8: "Noise schedule",
    9: "Gradient clipping and warm-up",
    10: "Stochastic depth",
}
"""The ten techniques, by the numbers of the document."""


def parse_techniques(text: str) -> tuple[int, ...]:
    """The numbers in `text`, ascending: "" is the base, "1+2+7" and "1,2,7" are three techniques.

    StudyError: it is not such a text, a number is unknown, or it occurs twice.
    """
    words = [word.strip() for word in re.split(r"[+,]", text)] if text.strip() else []
    known = {str(number) for number in TECHNIQUES}
    for word in words:
        choose(f"technique in config key 'techniques', which is {text!r}:", word, known)
    if len(set(words)) < len(words):
        raise StudyError(f"config key 'techniques' is {text!r}: a number occurs twice; write each once")
    return tuple(sorted(int(word) for word in words))


@dataclass(frozen=True)
class Options:
    """The config of a run. Keys that its techniques do not use are ignored, so one `defaults` serves a whole round."""

    version: int = 2  # the document's number of this combination: a label
    techniques: str = ""  # numbers, divided by + (or by commas); empty: the base
    method: str = "flow"  # flow; regression: the same network predicts the field in one pass
    # The data
    complexity: str = "simple"  # the family of fields
    size: int = 32  # pixels of a side
    observations: int = 51  # pixels that are seen
    queries: int = 200  # pixels asked for in a training step
    query_pattern: str = "random"  # random; patch: a square of the largest side that fits into `queries`
    fields: int = 500  # for training
    validation_fields: int = 50
    test_fields: int = 50
    # The network
    d_model: int = 128
    num_layers: int = 4
    heads: int = 8
    feedforward: int | None = None  # width of the hidden layer; None: 4 * d_model
    dropout: float = 0.1
    locality: str = "distance"  # distance: a term in the attention that falls with the distance; none
    # Training
    epochs: int = 100
    batch_size: int = 32
    accumulation: int | str = 1  # number of parts of a batch; auto: the fewest that fit into GPU memory
    lr: float = 1e-3
    schedule: str = "constant"  # constant; warmup_cosine: that of technique 9, without its clipping
    warmup_share: float = 0.1  # of all steps, in which the rate rises to `lr` (warmup_cosine, technique 9)
    validate_every: int = 10  # epochs
    # Sampling
    sampler: str = "heun"  # heun or euler
    sample_steps: int = 50
    samples: int = 16  # samples of a field whose mean is reported beside single samples
    # The techniques
    reflow_epochs: int | None = None  # 1: length of the second phase; None: half of `epochs`
    reflow_pairs: int = 4  # 1: coupled pairs for each training field
    consistency_weight: float = 1.0  # 3: weight of its loss beside the flow loss
    consistency_segments: int = 2  # 3: segments of t
    spectral_weight: float = 0.01  # 4: weight of its loss beside the flow loss
    ema_decay: float = 0.999  # 7: largest decay
    noise_schedule: str = "cosine_path"  # 8: cosine_path; logit_normal: the linear path, with another density of t
    clip_norm: float = 1.0  # 9: largest norm of all gradients together
    drop_path: float = 0.1  # 10: probability of leaving out a branch of the last block

    def __post_init__(self) -> None:
        parse_techniques(self.techniques)
        for name, known in _CHOICES.items():
            choose(name, getattr(self, name), known)
        for names, fits, wanted in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise StudyError(f"config key {name!r} is {value}; it must {wanted}")
        self._check_sizes()
        check_batch(self.batch_size, self.accumulation)

    def _check_sizes(self) -> None:
        pixels = self.size**2
        for name in ("observations", "queries"):
            if getattr(self, name) > pixels:
                raise StudyError(
                    f"config key {name!r} is {getattr(self, name)}, but a field has {pixels} pixels: lower it, or "
                    "raise 'size'"
                )
        if self.d_model % self.heads:
            raise StudyError(
                f"config key 'd_model' is {self.d_model}; {self.heads} heads cannot divide it: change 'd_model' or "
                "'heads'"
            )
        if self.method == "regression" and self.technique_numbers:
            raise StudyError(
                "config key 'method' is regression, but the techniques change a flow: remove 'techniques', or use "
                "method flow"
            )

    @property
    def technique_numbers(self) -> tuple[int, ...]:
        return parse_techniques(self.techniques)

    @property
    def second_phase_epochs(self) -> int:
        """The length of technique 1's second phase."""
        return max(1, self.epochs // 2) if self.reflow_epochs is None else self.reflow_epochs


_CHOICES: dict[str, Collection[str]] = {
    "method": ("flow", "regression"),
    "complexity": COMPLEXITIES,
    "query_pattern": ("random", "patch"),
    "locality": ("distance", "none"),
    "schedule": ("constant", "warmup_cosine"),
    "sampler": ("heun", "euler"),
    "noise_schedule": ("cosine_path", "logit_normal"),
}
_FROM_1 = (
    "observations", "queries", "fields", "validation_fields", "test_fields", "d_model", "num_layers", "heads",
    "feedforward", "epochs", "batch_size", "validate_every", "sample_steps", "samples", "reflow_epochs", "reflow_pairs",
    "consistency_segments",
)  # fmt: skip
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("size",), lambda value: value >= 4, "be at least 4"),
    (_FROM_1, lambda value: value >= 1, "be at least 1"),
    (("lr", "clip_norm", "spectral_weight", "consistency_weight"), lambda value: value > 0, "be above 0"),
    (("warmup_share", "dropout", "drop_path", "ema_decay"), lambda value: 0 <= value < 1, "lie between 0 and 1"),
)
