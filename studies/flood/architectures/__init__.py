"""The architectures by number, as in the document, which has neither 01 nor 06; and how to make one."""

from __future__ import annotations

from collections.abc import Callable

from roundhouse.errors import RoundhouseError as StudyError
from studies.flood.architectures.attention_convolutions import AttentionConvolutions
from studies.flood.architectures.attentions import ATTENTIONS
from studies.flood.architectures.blocks import LAST, Surrogate, initialise
from studies.flood.architectures.classic_unet import ClassicUNet
from studies.flood.architectures.downsamplers import DOWNSAMPLERS
from studies.flood.architectures.encoder_decoder_attention import EncoderDecoderAttention
from studies.flood.architectures.large_convolutions import LargeConvolutions
from studies.flood.architectures.plain_convolutions import PlainConvolutions
from studies.flood.architectures.residual_unet import ResidualUNet
from studies.flood.architectures.simplified_unet import SimplifiedUNet

__all__ = ["ARCHITECTURES", "ATTENTIONS", "DOWNSAMPLERS", "LAST", "Surrogate", "WITH_ATTENTION", "make"]

ARCHITECTURES: dict[str, Callable[[float, str, str, str], Surrogate]] = {
    "02": PlainConvolutions,
    "03": SimplifiedUNet,
    "04": AttentionConvolutions,
    "05": ClassicUNet,
    "07": EncoderDecoderAttention,
    "08": ResidualUNet,
    "09": LargeConvolutions,
}
WITH_ATTENTION = ("04", "07")  # the others take the argument `attention`, and do not use it


def make(
    number: str, width: float = 1.0, attention: str = "self", downsampler: str = "k11s10", last: str = "linear"
) -> Surrogate:
    """A new network, with Xavier's weights from torch's global generator. `width` multiplies all channels of the body.

    StudyError: an unknown name, or a width that is not above 0.
    """
    if number not in ARCHITECTURES:
        raise StudyError(f"unknown architecture {number!r}: choose one of {', '.join(ARCHITECTURES)}")
    if attention not in ATTENTIONS:
        raise StudyError(f"unknown attention {attention!r}: choose one of {', '.join(ATTENTIONS)}")
    if not width > 0:
        raise StudyError(f"width must be > 0 (got {width})")
    model = ARCHITECTURES[number](width, attention, downsampler, last)
    initialise(model)
    return model
