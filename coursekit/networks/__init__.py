"""The networks that lessons share: perceptrons (plain, masked, aware of the time), and networks of pictures.

Pictures of 28 x 28 pixels enter as 14 x 14 places of 4 channels (2 x 2 pixels each) and leave the same way, so that no
convolution runs on more places than that.
"""

from coursekit.networks.convolutions import ConvDecoder, ConvEncoder, UNet
from coursekit.networks.perceptrons import MLP, MaskedLinear, MaskedMLP, TimeEmbedding, TimeMLP, autoregressive_masks

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "MaskedLinear",
    "MaskedMLP",
    "TimeEmbedding",
    "TimeMLP",
    "UNet",
    "autoregressive_masks",
]
