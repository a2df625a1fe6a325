"""Noisy examples of every kind of model, and transformers with known weights to train on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_video.conditioning.control.fun import ReferenceAddOn
from mlx_video.conditioning.control.vace import VACEAddOn
from mlx_video.conditioning.types import Conditioning
from mlx_video.config import TransformerConfig
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.training.example import Example
from mlx_video.training.loss import NoisyExample, add_noise
from mlx_video.variants.registry import VARIANTS
from mlx_video.weights.network import PLAIN, TransformerNetwork
from tests.models.networks import Arrays, load
from tests.parity.golden import fill, fill_weights

SIZES = (3, 4, 6)
CONTEXT_NUMBERS = fill((9, 32), 1001)
CONTEXT = mx.array(CONTEXT_NUMBERS)
TINY = TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32)
IMAGE = replace(TINY, in_dim=36, model_type="i2v", image_dim=160)
CONCAT = fill((20, *SIZES), 1003, 1.7)
LEVEL = 0.6
SEED = 11


@dataclass(frozen=True)
class Kind:
    """One kind of model, and what is told to it.

    Attributes:
        variant: that it is like.
        config: its sizes.
        conditioning: of its example.
        level: of noise.
    """

    variant: str
    config: TransformerConfig
    conditioning: Conditioning = Conditioning(CONTEXT)
    level: float = LEVEL

    @property
    def network(self) -> TransformerNetwork:
        return next((one.network for one in VARIANTS if one.name == self.variant), PLAIN)

    @property
    def arrays(self) -> Arrays:
        """Weights under the official names."""
        return fill_weights(self.network.tensors(self.config))

    def build(self, arrays: Arrays | None = None) -> VideoTransformer:
        """Our transformer with these weights."""
        network = self.network.build(self.config)
        return load(network, arrays or self.arrays, self.network.rules, mx.float32)

    def example(self, salt: int = 0) -> NoisyExample:
        """A noisy example; another salt gives another."""
        shape = (self.config.out_dim, *SIZES)
        latents, noise = fill(shape, 1002 + salt, 1.7), fill(shape, 2002 + salt, 1.7)
        return add_noise("clip", mx.array(latents), mx.array(noise), self.level, self.conditioning)


KINDS: dict[str, Kind] = {
    "text to video": Kind("wan2.1-t2v-1.3b", TINY),
    "image to video": Kind(
        "wan2.1-i2v-14b",
        IMAGE,
        Conditioning(CONTEXT, concat_latents=mx.array(CONCAT), image_tokens=mx.array(fill((257, 160), 1004))),
        # Diffusers computes the sinusoid in float32, which is exact to 6e-8 only at early timesteps.
        0.001,
    ),
    "first and last frame": Kind(
        "wan2.1-flf2v-14b",
        replace(IMAGE, model_type="flf2v", image_positions=514),
        Conditioning(CONTEXT, concat_latents=mx.array(CONCAT), image_tokens=mx.array(fill((514, 160), 1004))),
        0.001,
    ),
    "text and image to video": Kind(
        "wan2.2-ti2v-5b",
        replace(TINY, in_dim=48, out_dim=48, model_type="ti2v"),
        Conditioning(CONTEXT, first_frames=mx.array(fill((48, 1, *SIZES[1:]), 1005, 1.7))),
    ),
    "expert of image to video": Kind(
        "wan2.2-i2v-a14b",
        replace(TINY, in_dim=36, model_type="i2v"),
        Conditioning(CONTEXT, concat_latents=mx.array(CONCAT)),
        0.95,
    ),
    "VACE": Kind(
        "wan2.1-vace-1.3b",
        replace(TINY, model_type="vace", num_layers=4, vace_layers=(0, 1, 3), vace_in_dim=96),
        Conditioning(CONTEXT, add_ons=(VACEAddOn(mx.array(fill((96, *SIZES), 1007, 1.7))),)),
        0.001,
    ),
    "Fun control": Kind(
        "wan2.2-fun-a14b-control",
        replace(TINY, in_dim=52, model_type="i2v", reference_dim=16),
        Conditioning(
            CONTEXT,
            concat_latents=mx.array(fill((36, *SIZES), 1008, 1.7)),
            add_ons=(ReferenceAddOn(mx.array(fill((16, *SIZES[1:]), 1009, 1.7))),),
        ),
    ),
}


class OneExample:
    """A training of one example, whose clip was made from a seed."""

    batches_per_epoch, identity = 1, "one"

    def __init__(self, kind: Kind) -> None:
        latents = mx.array(fill((kind.config.out_dim, *SIZES), 1002, 1.7))
        self.example = Example("clip", latents, kind.conditioning, SEED)

    def batch(self, position: int) -> tuple[Example, ...]:
        return (self.example,)
