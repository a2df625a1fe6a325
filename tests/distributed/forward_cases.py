"""Forwards of every kind that several processes must make as one does: networks, inputs, passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_video.config import TransformerConfig
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.loading.block_stream import load_streamed
from mlx_video.models.block_context import BlockHook, Pass, Step, StepCache
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.control.camera_adapter import CameraHook
from mlx_video.models.control.fun import FunTransformer, ReferenceHook
from mlx_video.models.control.mot import MoTHook, MoTTransformer
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.models.forward import BlockSource
from mlx_video.models.longcat.transformer import LongCatTransformer
from mlx_video.models.token_layout import TokenLayout, video_layout
from mlx_video.models.transformer import WanTransformer
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.sampling.guidance_forms.normalized_attention import NormalizedAttention
from mlx_video.sampling.step_caches.first_block import FirstBlockDecision
from mlx_video.sampling.step_caches.residual import ResidualCache
from mlx_video.sampling.step_caches.teacache import TeaDecision, TeaRule
from mlx_video.weights.quantize import is_quantized_layer
from tests.models.control_networks import PLAIN, sine_input
from tests.models.networks import layout_at

SIZE = (3, 4, 6)
GRID = (3, 2, 3)
# Four heads for four processes, whose channels are whole groups of quantized numbers.
TEXT_TO_VIDEO = replace(PLAIN, dim=128, ffn_dim=160, num_heads=4, num_layers=3)
IMAGE_TO_VIDEO = replace(TEXT_TO_VIDEO, in_dim=36, image_dim=1280)
VACE = replace(TEXT_TO_VIDEO, vace_layers=(0, 2), vace_in_dim=96)
LONGCAT = TransformerConfig(
    dim=128, ffn_dim=256, num_heads=4, num_layers=3, text_dim=PLAIN.text_dim, text_len=16, freq_dim=64,
    time_dim=32, model_type="longcat",
)  # fmt: skip
MOT = replace(IMAGE_TO_VIDEO, mot_layers=(0, 2))
CONTROL = replace(TEXT_TO_VIDEO, in_dim=48, reference_dim=16)

Passes = Callable[[VideoTransformer], list[Pass]]
Build = Callable[[], VideoTransformer]


@dataclass(frozen=True)
class Case:
    """Steps of one run.

    Attributes:
        build: its transformer.
        passes: of every step; the same objects in all of them.
        layout: of its tokens; None for those of the latents alone.
        concat: channels behind those of the latents.
        steps: how many.
    """

    build: Build
    passes: Passes
    layout: TokenLayout | None = None
    concat: int = 0
    steps: int = 1

    def velocities(
        self,
        transformer: VideoTransformer,
        share: Callable[[Pass], Pass] = lambda one: one,
        block_source: BlockSource | None = None,
    ) -> list[np.ndarray]:
        """Velocities of all passes of all steps, from latents that follow the first pass."""
        passes = [share(one) for one in self.passes(transformer)]
        concat = mx.array(sine_input((self.concat, *SIZE), 0.19)) if self.concat else None
        latents, found = mx.array(sine_input((16, *SIZE), 0.11)), []
        for index in range(self.steps):
            sigma = 1 - index / self.steps
            step = Step(index, self.steps, 1000 * sigma, sigma, sigma - 1 / self.steps)
            made = transformer.predict(
                latents, step, passes, concat_latents=concat, layout=self.layout, block_source=block_source
            )
            latents = latents - 0.2 * made[0]
            mx.eval(latents, made)
            found += [np.array(one) for one in made]
        return found


def text(transformer: VideoTransformer, sign: float = 1.0, image: bool = False):
    """A prompt as the transformer sees it."""
    tokens = mx.array(sine_input((257, 1280), 0.05)) if image else None
    return transformer.project_text(sign * mx.array(sine_input((5, PLAIN.text_dim), 0.23)), tokens)


def two_prompts(transformer: VideoTransformer) -> list[Pass]:
    """The prompt, and the negative prompt without a block."""
    return [Pass(text(transformer)), Pass(text(transformer, -1.0), skip_layers=frozenset({1}))]


def with_image(transformer: VideoTransformer) -> list[Pass]:
    return [Pass(text(transformer, image=True))]


def with_normalized_attention(transformer: VideoTransformer) -> list[Pass]:
    prompts = {"positive": text(transformer), "negative": text(transformer, -1.0)}
    attention = NormalizedAttention(9.0, limit=1.2).make_attention(prompts)
    return [Pass(prompts["positive"], attention=attention)]


def with_vace(transformer: VideoTransformer) -> list[Pass]:
    context = mx.array(sine_input((96, *SIZE), 0.07))
    return [
        Pass(text(transformer), hooks=(VACEHook(transformer, sign * context, (1.0, 0.5)),))
        for sign in (1, -1)
    ]


def with_reference(transformer: VideoTransformer) -> list[Pass]:
    """Reference tokens, then something added to all of them."""
    reference = transformer.embed_reference(mx.array(sine_input((16, 4, 6), 0.3)))
    camera = mx.array(sine_input((18, transformer.config.dim), 0.2))
    return [Pass(text(transformer), hooks=(CameraHook(camera), ReferenceHook(reference)))]


def with_reference_video(transformer: VideoTransformer) -> list[Pass]:
    reference = mx.array(sine_input((transformer.config.in_dim, 2, 4, 6), 0.3))
    prompt = text(transformer.mot_ref, -1.0, image=True)
    return [Pass(text(transformer, image=True), hooks=(MoTHook(transformer, reference, prompt),))]


def after_clean_frames(transformer: VideoTransformer) -> list[Pass]:
    """Two clean frames of three see only each other; some processes have clean tokens alone."""
    return [Pass(text(transformer))]


class MeanOfAll(BlockHook):
    """Adds to each token the mean of all, so that it must see all; it runs a block of its own, too."""

    further_blocks = MappingProxyType({1: BlockName(MAIN, 0)})

    def before_blocks(self, tokens, context):
        return tokens + tokens.mean(axis=0)

    def join_block(self, block, index):
        if index != 2:
            return block

        def run(tokens, context):
            assert len(tokens) == context.layout.num_tokens
            return block(tokens, context) + 0.1 * tokens.mean(axis=0)

        return run

    def after_block(self, tokens, context):
        assert len(tokens) == context.layout.num_tokens
        return tokens + 0.1 * tokens.mean(axis=0) if context.index == 1 else tokens

    def run_block(self, tokens, context, block):
        return tokens + 0.1 * block(tokens.mean(axis=0) + 0.5 * tokens, context)


def with_mean_of_all(transformer: VideoTransformer) -> list[Pass]:
    return [Pass(text(transformer), hooks=(MeanOfAll(),))]


def with_cache(new_cache: Callable[[], StepCache]) -> Passes:
    return lambda transformer: [Pass(text(transformer), cache=new_cache())]


def first_block_cache() -> StepCache:
    return ResidualCache(FirstBlockDecision(0.12), decides_after=1)


def tea_cache() -> StepCache:
    return ResidualCache(TeaDecision(TeaRule("non-ret", (1.0, 0.0)), 0.3))


@contextmanager
def streamed(
    case: Case, folder: Path, order: Sequence[BlockName]
) -> Iterator[tuple[VideoTransformer, BlockSource]]:
    """The case's transformer, whose blocks are read from a file."""
    whole, path = case.build(), folder / "model.safetensors"
    mx.save_safetensors(str(path), dict(tree_flatten(whole.parameters())))
    transformer = type(whole)(whole.config)
    with SafetensorsFile(path) as source, load_streamed(transformer, source, order, 0) as blocks:
        yield transformer, blocks


def quantized(build: Build, bits: int) -> VideoTransformer:
    """A transformer whose blocks are quantized."""
    transformer = build()
    nn.quantize(
        transformer, group_size=32, bits=bits, class_predicate=lambda path, _: is_quantized_layer(path)
    )
    return transformer


def in_bfloat16(build: Build) -> VideoTransformer:
    transformer = build()
    transformer.set_dtype(mx.bfloat16)
    return transformer


def randomized(build: Build) -> VideoTransformer:
    """A transformer of random weights, whose tokens differ and attend to few others."""
    transformer = build()
    random = np.random.default_rng(1)
    arrays = []
    for name, array in tree_flatten(transformer.parameters()):
        numbers = random.standard_normal(array.shape).astype(np.float32)
        numbers *= 1 / np.sqrt(array.shape[-1]) if array.ndim > 1 else 0.3
        arrays.append((name, mx.array(numbers + ("norm" in name and name.endswith("weight")))))
    transformer.update(tree_unflatten(arrays))
    return transformer


_plain: Build = partial(randomized, partial(WanTransformer, TEXT_TO_VIDEO))
_image: Build = partial(randomized, partial(WanTransformer, IMAGE_TO_VIDEO))
_vace: Build = partial(randomized, partial(VACETransformer, VACE))
_mot: Build = partial(randomized, partial(MoTTransformer, MOT))
_longcat: Build = partial(randomized, partial(LongCatTransformer, LONGCAT))
_control: Build = partial(randomized, partial(FunTransformer, CONTROL))

CASES: Mapping[str, Case] = {
    "text": Case(_plain, two_prompts, steps=2),
    "image": Case(_image, with_image, concat=20),
    "first frame given": Case(_plain, two_prompts, video_layout(GRID, 1)),
    "a timestep for each token": Case(
        _plain, two_prompts, layout_at(GRID, [0.0, 0.0, None, 5.0, 0.0, 500.0] * 3)
    ),
    "vace": Case(_vace, with_vace, steps=2),
    "reference": Case(_control, with_reference, concat=32),
    "reference video": Case(_mot, with_reference_video, concat=20, steps=2),
    "clean frames": Case(_longcat, after_clean_frames, video_layout(GRID, 2)),
    "normalized attention": Case(_plain, with_normalized_attention),
    "a hook of all tokens": Case(_plain, with_mean_of_all, video_layout(GRID, 1)),
    "first-block cache": Case(_plain, with_cache(first_block_cache), steps=6),
    "teacache": Case(_plain, with_cache(tea_cache), video_layout(GRID, 1), steps=6),
    "8 bits": Case(partial(quantized, _plain, 8), two_prompts),
    "4 bits, vace": Case(partial(quantized, _vace, 4), with_vace),
}

WITHOUT_HEADS = ("clean frames",)
"""Cases whose heads cannot be shared out."""
