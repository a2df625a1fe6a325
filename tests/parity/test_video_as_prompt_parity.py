"""Video-As-Prompt's transformer agrees with DiffSynth-Studio's modules, walked as its authors' forward does.

DiffSynth's own forward hands the head the time features of the expert; the authors' does not, so the walk is
written out here. Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and a product adds up to 1280.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.control.video_prompt import ReferencePrompts, ReferenceVideo
from mlx_video.models.block_context import Pass
from mlx_video.models.control.mot import MoTTransformer
from mlx_video.models.token_layout import video_layout
from mlx_video.weights.names.mot_names import MOT_DIFFUSERS_RULES, MOT_RULES, mot_tensors
from mlx_video.weights.names.transformer_names import DIFFUSERS_RULES, WAN_RULES, transformer_tensors
from mlx_video.weights.rules import find_sources
from tests.models.networks import (
    CONCAT_LATENTS,
    CONTEXT,
    IMAGE_TO_VIDEO,
    LATENT_SIZE,
    LATENTS,
    NUM_TOKENS,
    ONE_IMAGE,
    TIMESTEP,
    at,
    load,
    relative_error,
)
from tests.parity.diffsynth_models import bare_diffsynth, load_models
from tests.parity.golden import fill, fill_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
CONFIG = replace(IMAGE_TO_VIDEO, num_layers=6, mot_layers=(0, 4))
ARRAYS = fill_weights(transformer_tensors(CONFIG) | mot_tensors(CONFIG))
REFERENCE = fill((36, *LATENT_SIZE), 71, 1.7)
CAPTION = fill((7, 32), 72)
REFERENCE_IMAGE = fill((257, 1280), 73)


class Theirs:
    """Main network and expert of DiffSynth-Studio."""

    def __init__(self) -> None:
        dit, mot = load_models("wan_video_dit", "wan_video_mot")
        sizes = {
            "dim": CONFIG.dim, "in_dim": CONFIG.in_dim, "ffn_dim": CONFIG.ffn_dim,
            "text_dim": CONFIG.text_dim,
            "freq_dim": CONFIG.freq_dim, "eps": CONFIG.eps, "patch_size": CONFIG.patch_size,
            "num_heads": CONFIG.num_heads, "has_image_input": True,
        }  # fmt: skip
        self.main = dit.WanModel(**sizes, out_dim=16, num_layers=CONFIG.num_layers)
        self.main.load_state_dict(
            {name: torch.tensor(values) for name, values in ARRAYS.items() if "mot_ref" not in name}
        )
        self.expert = mot.MotWanModel(CONFIG.mot_layers, **sizes)
        with bare_diffsynth():
            convert = importlib.import_module("diffsynth.utils.state_dict_converters.wan_video_mot")
        self.expert.load_state_dict(convert.WanVideoMotStateDictConverter(published_arrays()))
        self.sinusoid = dit.sinusoidal_embedding_1d

    def time(self, network, timestep: float):
        embedded = network.time_embedding(self.sinusoid(CONFIG.freq_dim, torch.tensor([timestep])))
        return embedded, network.time_projection(embedded).unflatten(1, (6, CONFIG.dim))

    def prompt(self, network, text: np.ndarray, image: np.ndarray):
        padded = np.pad(text, [(0, CONFIG.text_len - len(text)), (0, 0)])
        parts = network.img_emb(torch.tensor(image)[None]), network.text_embedding(torch.tensor(padded)[None])
        return torch.cat(parts, dim=1)

    def tokens(self, network, latents: np.ndarray):
        return network.patch_embedding(torch.tensor(latents)[None]).flatten(2).transpose(1, 2)

    def predict(self, latents: np.ndarray, reference: np.ndarray):
        frames, rows, columns = 3, 2, 3
        axes = [
            table[:length].view(*shape, -1).expand(frames, rows, columns, -1)
            for table, length, shape in zip(
                self.main.freqs, (frames, rows, columns), ((3, 1, 1), (1, 2, 1), (1, 1, 3)), strict=True
            )
        ]
        freqs = torch.cat(axes, dim=-1).reshape(NUM_TOKENS, 1, -1)
        freqs_mot = self.expert.compute_freqs_mot(frames, rows, columns)
        x, x_mot = self.tokens(self.main, latents), self.tokens(self.expert, reference)
        embedding, modulation = self.time(self.main, TIMESTEP)
        _, modulation_mot = self.time(self.expert, 1.0)
        prompt = self.prompt(self.main, CONTEXT, ONE_IMAGE)
        caption = self.prompt(self.expert, CAPTION, REFERENCE_IMAGE)
        for index, block in enumerate(self.main.blocks):
            if index in CONFIG.mot_layers:
                x, x_mot = self.expert(
                    block, x, prompt, modulation, freqs, x_mot, caption, modulation_mot, freqs_mot, index
                )
            else:
                x = block(x, prompt, modulation, freqs)
        patches = self.main.head(x, embedding)[0]
        cells = patches.reshape(frames, rows, columns, 2, 2, 16).permute(5, 0, 1, 3, 2, 4)
        return cells.reshape(16, *LATENT_SIZE)


def published_arrays() -> dict[str, object]:
    """The expert under the names of the published checkpoint."""
    rules = (*MOT_DIFFUSERS_RULES, *DIFFUSERS_RULES)
    names = {name: find_sources(name, rules) for name in mot_tensors(CONFIG)}
    return {
        next(source for source in sources if "_mot_ref" in source): torch.tensor(ARRAYS[name])
        for name, sources in names.items()
    }


@pytest.fixture(scope="module")
def theirs():
    with torch.no_grad():
        yield Theirs()


@pytest.fixture(scope="module")
def ours() -> MoTTransformer:
    return load(MoTTransformer(CONFIG), ARRAYS, (*MOT_RULES, *WAN_RULES), mx.float32)


def predict(
    ours: MoTTransformer, reference: np.ndarray = REFERENCE, caption: np.ndarray = CAPTION
) -> mx.array:
    one = Pass(ours.project_text(mx.array(CONTEXT), mx.array(ONE_IMAGE)))
    one = ReferencePrompts(mx.array(caption))(ours, one)
    one = ReferenceVideo(mx.array(reference), mx.array(REFERENCE_IMAGE))(ours, one)
    (velocity,) = ours.predict(mx.array(LATENTS), at(), [one], concat_latents=mx.array(CONCAT_LATENTS))
    return velocity


def test_whole_transformer_agrees(theirs, ours):
    with torch.no_grad():
        expected = theirs.predict(np.concatenate([LATENTS, CONCAT_LATENTS]), REFERENCE)
    assert relative_error(predict(ours), expected) <= TOLERANCE


def test_expert_timestep_agrees(theirs, ours):
    with torch.no_grad():
        _, expected = theirs.time(theirs.expert, 1.0)
    found = ours.mot_ref.embed_time(1.0, video_layout((3, 2, 3))).modulation
    assert relative_error(found, expected) <= TOLERANCE


def test_expert_reads_caption_and_image_as_theirs(theirs, ours):
    with torch.no_grad():
        expected = theirs.prompt(theirs.expert, CAPTION, REFERENCE_IMAGE)[0]
    found = ours.mot_ref.project_text(mx.array(CAPTION), mx.array(REFERENCE_IMAGE))
    joined = mx.concatenate([found.image.tokens, found.text.tokens])
    assert relative_error(joined, expected) <= TOLERANCE


def test_reference_and_caption_change_the_velocity(ours):
    before = predict(ours)
    assert relative_error(predict(ours, reference=REFERENCE * 0.5), before) > 1e-3
    assert relative_error(predict(ours, caption=CAPTION * 0.5), before) > 1e-4
