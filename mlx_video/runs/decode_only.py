"""A run that only makes the video: from a file of latents, or the state of a run that took all its steps."""

from __future__ import annotations

from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.geometry import VideoGeometry, measure, pixel_frames
from mlx_video.latents.latents_file import load_latents
from mlx_video.latents.run_state import RunState, is_state, load_state
from mlx_video.layouts.components import TINY_VAE
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import check_tiny_decoder
from mlx_video.loading.vae_halves import check_vae_decoder
from mlx_video.request import GenerateRequest
from mlx_video.runs.run import Run
from mlx_video.runs.settings import RunPlan, check_trim, report_output_size
from mlx_video.variants.registry import find_variant


def prepare_decoding(request: GenerateRequest, path: Path, model: ModelFolder, config: ModelConfig) -> Run:
    """A run of which only the last stage is left; of the weight files only the VAE's is opened.

    Args:
        request: names the results; what it says of sampling is not read.
        path: the latents.
        model: the converted folder.
        config: what its config.json says.

    Raises:
        MediaError: the file holds no latents.
        RequestError: the model cannot, the run of the latents has steps left, they are of another VAE, or all
            frames are to be trimmed.
        CheckpointError: the VAE's file is damaged or lacks the decoder.
    """
    variant = find_variant(config)
    if variant.continuation and variant.continuation.extra_frames:
        raise RequestError(
            "decode_only",
            f"{path}: {variant.title} decodes each clip behind the frames before it, which a file of latents "
            "does not have. Go on with --resume, or make the video again.",
        )
    state = load_finished(path)
    geometry = measure_latents(path, state, config)
    check_vae_decoder(model, config)
    check_trim(request, geometry.num_frames)
    return Run(model, config, variant, request, plan_decoding(geometry, config), state=state)


def check_decoder(run: Run) -> None:
    """Make sure that a run has the decoder that it asks for.

    Raises:
        RequestError: the model has no tiny decoder, or its frames would have another size.
        CheckpointError: the tiny decoder's file is damaged, or it is of other latents.
    """
    if run.request.decoder != "tiny":
        return
    if TINY_VAE.name not in run.model.parts:
        name = {16: "taew2_1", 48: "taew2_2"}[run.config.vae.z_dim]
        raise RequestError(
            "decoder", f"tiny: {run.model.path} has no tiny decoder. Give {name} as --tiny-vae FILE."
        )
    if run.config.vae.output_scale != 1:
        width, height = run.plan.geometry.width, run.plan.geometry.height
        raise RequestError(
            "decoder",
            f"tiny: its frames are {width}x{height}, those of the model's VAE {run.config.vae.output_scale} "
            "times as wide and as high. Give another VAE, or leave this out.",
        )
    check_tiny_decoder(run.model, run.config)


def load_finished(path: Path) -> RunState:
    """Final latents and the settings they were made with.

    Raises:
        MediaError: the file is missing, damaged, or holds something else.
        RequestError: it is the state of a run that has steps left.
    """
    latents, settings = load_latents(path)
    if not is_state(settings):
        return RunState(latents, 0, 0, settings)
    state = load_state(path)
    if not state.is_finished:
        raise RequestError(
            "decode_only",
            f"{path}: {state.progress} are taken, so the latents are noise still. Take the others with the "
            "run's own command and --resume.",
        )
    return state


def measure_latents(path: Path, state: RunState, config: ModelConfig) -> VideoGeometry:
    """Sizes of the video in a file of latents.

    Raises:
        RequestError: the model's VAE makes nothing of such latents.
    """
    channels, frames, rows, columns = state.latents.shape
    vae, patch_size = config.vae, config.transformer.patch_size
    if channels != vae.z_dim:
        raise RequestError(
            "decode_only",
            f"{path}: latents of {channels} channels, the model's VAE takes {vae.z_dim}. Give --model-dir of "
            f"the model that made them ({state.settings.get('model', 'unknown')}).",
        )
    if not frames or not rows or not columns or rows % patch_size[1] or columns % patch_size[2]:
        raise RequestError(
            "decode_only",
            f"{path}: latents of {frames} frames of {columns}x{rows} cells. No run makes such; frames have "
            f"multiples of {patch_size[2]}x{patch_size[1]} cells. Give the file that --save-latents wrote.",
        )
    return measure(
        columns * vae.stride[2],
        rows * vae.stride[1],
        pixel_frames(frames, vae.stride[0]),
        z_dim=channels,
        stride=vae.stride,
        patch_size=patch_size,
        output_scale=vae.output_scale,
    )


def plan_decoding(geometry: VideoGeometry, config: ModelConfig) -> RunPlan:
    """A plan without steps."""
    return RunPlan(
        geometry=geometry,
        steps=0,
        shift=config.sampling.shift,
        guide_scale=(1.0, 1.0),
        boundary=0.0,
        negative_prompt=None,
        fps=config.sampling.fps,
        crops_images=False,
        notices=tuple(report_output_size(geometry)),
    )
