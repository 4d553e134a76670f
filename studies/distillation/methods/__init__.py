"""The distillation methods, by name. Each has a module of its own: equation, paper, shapes, weight."""

from __future__ import annotations

from roundhouse.training import choose
from studies.distillation.methods.attention_transfer import AttentionTransfer
from studies.distillation.methods.base import Method, Shapes
from studies.distillation.methods.dkd import DecoupledKnowledge
from studies.distillation.methods.factor_transfer import FactorTransfer
from studies.distillation.methods.fitnets import FitNets
from studies.distillation.methods.logit import Logit
from studies.distillation.methods.nst import NeuronSelectivity
from studies.distillation.methods.rkd import RelationalKnowledge
from studies.distillation.methods.sp import SimilarityPreserving

__all__ = ["METHODS", "Method", "Shapes", "method_named"]

METHODS: dict[str, type[Method]] = {
    "logit": Logit,
    "fitnets": FitNets,
    "attention_transfer": AttentionTransfer,
    "factor_transfer": FactorTransfer,
    "rkd": RelationalKnowledge,
    "nst": NeuronSelectivity,
    "sp": SimilarityPreserving,
    "dkd": DecoupledKnowledge,
}


def method_named(name: str) -> type[Method]:
    """The method `name`. StudyError: there is none of that name; the message suggests the nearest."""
    return METHODS[choose("method", name, METHODS)]
