"""Control models from a checkpoint in its published layout to frames, by both commands, in float32.

What the control becomes, the network and the loop are written out in PyTorch from the formulas of VideoX-Fun,
DiffSynth-Studio and musubi-tuner; encoders, VAE and solver are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import convert, generate
from tests.fixtures.tiny_variants import (
    TinyVariant,
    tiny_variant,
    write_motion_controller,
    write_tiny_variant,
)
from tests.parity.compare_runs import assert_runs_agree, read_run
from tests.parity.official_run import build_scheduler, load_vae, read_transformer, text_encoder, to_frames
from tests.parity.official_wan21_image import encode_clip
from tests.parity.plain_network import PlainNetwork, control_motion

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


PROMPT, NEGATIVE_PROMPT, SEED, STEPS, GUIDE_SCALE, SHIFT = (
    "A red circle moves left",
    "blurred",
    42,
    6,
    4.0,
    5.0,
)
WIDTH, HEIGHT, NUM_FRAMES = 48, 16, 9
LATENT_FRAMES, ROWS, COLUMNS = 3, 2, 6
NO_IMAGE_TOKENS = 257  # zeros stand for the features of an image that is not given


@dataclass(frozen=True)
class Setting:
    """What a case works with: its pictures and videos by name, and the official encoders.

    Attributes:
        arrays: name of an input → [3, H, W] or [3, F, H, W] in [-1, 1]; a mask [1, F, H, W] of 0 and 1.
    """

    folder: Path
    variant: TinyVariant
    arrays: dict[str, Any]
    vae: Any

    def encode(self, *names: str) -> list[Any]:
        """Latents of inputs; a picture is a clip of its own."""
        return [self.encode_array(self.arrays[name]) for name in names]

    def encode_array(self, pixels: Any) -> Any:
        return self.vae.encode([pixels[:, None] if pixels.ndim == 3 else pixels])[0]

    def see(self, *names: str) -> Any:
        """CLIP features of inputs, one after the other, [K, image_dim]."""
        return encode_clip(self.folder, self.variant, [self.arrays[name] for name in names]).flatten(0, 1)

    def see_nothing(self) -> Any:
        return torch.zeros(NO_IMAGE_TOKENS, self.variant.sizes.image_encoder.width)


Inputs = dict[str, Any]


def start(setting: Setting, name: str = "image") -> Any:
    """A first frame alone, then zeros."""
    (first,) = setting.encode(name)
    return torch.nn.functional.pad(first, (0, 0, 0, 0, 0, LATENT_FRAMES - 1))


def masked(setting: Setting, images: dict[int, str]) -> Any:
    """Mask and latents of a clip with some frames given, grey elsewhere: 20 channels.

    Source: aigc-apps/VideoX-Fun videox_fun/pipeline/pipeline_wan_fun_inpaint.py, __call__.
    """
    clip, given = torch.zeros(3, NUM_FRAMES, HEIGHT, WIDTH), torch.zeros(NUM_FRAMES)
    for number, name in images.items():
        clip[:, number], given[number] = setting.arrays[name], 1
    slots = torch.cat([given[:1].repeat(4), given[1:]]).reshape(LATENT_FRAMES, 4).T
    mask = slots[:, :, None, None].expand(4, LATENT_FRAMES, ROWS, COLUMNS)
    return torch.cat([mask, setting.encode_array(clip)])


def inpainted(setting: Setting) -> Any:
    """Mask and latents of a video whose region under a mask is to be made.

    Source: aigc-apps/VideoX-Fun videox_fun/pipeline/pipeline_wan_fun_inpaint.py, resize_mask.
    """
    video, mask = setting.arrays["inpaint_video"], setting.arrays["inpaint_video_mask"]
    slots = torch.cat([mask[:, :1].repeat(1, 4, 1, 1), mask[:, 1:]], 1)
    kept = 1 - slots.reshape(LATENT_FRAMES, 4, HEIGHT, WIDTH).transpose(0, 1)[None]
    first, others = (
        torch.nn.functional.interpolate(part, (part.shape[2], ROWS, COLUMNS), mode="trilinear")
        for part in (kept[:, :, :1], kept[:, :, 1:])
    )
    return torch.cat([torch.cat([first, others], 2)[0], setting.encode_array(video * (mask < 0.5))])


def zoom_in() -> Any:
    """Packed rays of a camera that moves forward, [24, T, H, W].

    Source: aigc-apps/VideoX-Fun asset/Zoom_In.txt; videox_fun/data/utils.py, process_pose_params and
    ray_condition.
    """
    # A lens for pictures of 1280 by 720, which cover these.
    fx = fy = 0.532139961 * max(WIDTH, HEIGHT * 1280 / 720)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rays = torch.stack([(x + 0.5 - WIDTH / 2) / fx, (y + 0.5 - HEIGHT / 2) / fy, torch.ones(x.shape)], -1)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    frames = []
    for number in range(NUM_FRAMES):
        # World to camera is moved by -2 · 1.5 · i/N along the view, so that the camera is at the contrary.
        centre = torch.tensor([0.0, 0.0, 3.0 * number / NUM_FRAMES]).expand(rays.shape)
        frames.append(torch.cat([torch.linalg.cross(centre, rays), rays], -1).permute(2, 0, 1))
    plucker = torch.stack([*frames[:1] * 4, *frames[1:]], 1)
    return plucker.reshape(6, LATENT_FRAMES, 4, HEIGHT, WIDTH).transpose(1, 2).flatten(0, 1)


def one_frame(setting: Setting, target: int, controls: dict[int, str]) -> Inputs:
    """Channels of one picture among control pictures, in the order of their times.

    Source: kohya-ss/musubi-tuner wan_generate_video.py, prepare_one_frame_inference.
    """
    times, frames = sorted([target, *controls]), []
    for time in times:
        pixels = setting.arrays[controls[time]] if time != target else torch.zeros(3, HEIGHT, WIDTH)
        latents = setting.encode_array(pixels)
        frames.append(torch.cat([torch.full((4, 1, ROWS, COLUMNS), float(time != target)), latents]))
    return {"concat": torch.cat(frames, 1), "times": times}


def control_v1(setting: Setting) -> Inputs:
    (control,) = setting.encode("control_video")
    return {"concat": torch.cat([control, start(setting)]), "image": setting.see("image")}


def control_v1_1(setting: Setting) -> Inputs:
    control, reference = setting.encode("control_video", "reference_image")
    concat = torch.cat([control, torch.zeros_like(control)])
    return {"concat": concat, "image": setting.see("reference_image"), "reference": reference[:, 0]}


def control_v1_1_without_reference(setting: Setting) -> Inputs:
    return control_v1(setting) | {"reference": torch.zeros(16, ROWS, COLUMNS)}


def control_a14b(setting: Setting) -> Inputs:
    control, reference = setting.encode("control_video", "reference_image")
    ends = masked(setting, {0: "image", NUM_FRAMES - 1: "end_image"})
    return {"concat": torch.cat([control, ends]), "reference": reference[:, 0]}


def inp_between_images(setting: Setting) -> Inputs:
    concat = masked(setting, {0: "image", NUM_FRAMES - 1: "end_image"})
    return {"concat": concat, "image": setting.see("image")}


def inp_of_a_region(setting: Setting) -> Inputs:
    return {"concat": inpainted(setting), "image": setting.see_nothing()}


def inp_of_text(setting: Setting) -> Inputs:
    return {"concat": torch.zeros(20, LATENT_FRAMES, ROWS, COLUMNS), "image": setting.see_nothing()}


def inp_a14b(setting: Setting) -> Inputs:
    return {"concat": masked(setting, {0: "image"})}


def camera_v1_1(setting: Setting) -> Inputs:
    return {"concat": start(setting), "image": setting.see("image"), "camera": zoom_in()}


def camera_a14b(setting: Setting) -> Inputs:
    return {"concat": masked(setting, {0: "image"}), "camera": zoom_in()}


def speed(setting: Setting) -> Inputs:
    from safetensors.torch import load_file

    return {"added": control_motion(load_file(setting.folder / "motion_controller.safetensors"), 70)}


def one_frame_i2v(setting: Setting) -> Inputs:
    return one_frame(setting, 1, {0: "control_0"}) | {"image": setting.see("image")}


def one_frame_flf2v(setting: Setting) -> Inputs:
    controls = {10: "control_0", 0: "control_1"}
    return one_frame(setting, 1, controls) | {"image": setting.see("image", "end_image")}


@dataclass(frozen=True)
class Case:
    """What a model is given.

    Attributes:
        make: the same for the written-out network.
        given: inputs that are files, by their options; two control pictures are numbered.
        words: other options.
        target: number of the latent frame that is the result; None for a video.
    """

    variant: str
    make: Callable[[Setting], Inputs]
    given: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    boundary: float = 0.0
    target: int | None = None


ZOOM_IN = ("--camera-trajectory", "Zoom_In")
CASES = {
    "Control, first frame": Case("wan2.1-fun-control", control_v1, ("control_video", "image")),
    "Control V1.1, reference": Case(
        "wan2.1-fun-v1.1-control", control_v1_1, ("control_video", "reference_image")
    ),
    "Control V1.1, first frame": Case(
        "wan2.1-fun-v1.1-control", control_v1_1_without_reference, ("control_video", "image")
    ),
    "Control A14B, everything": Case(
        "wan2.2-fun-a14b-control", control_a14b,
        ("control_video", "reference_image", "image", "end_image"), boundary=0.9,
    ),
    "InP, between two images": Case("wan2.1-fun-inp", inp_between_images, ("image", "end_image")),
    "InP, a region": Case("wan2.1-fun-inp", inp_of_a_region, ("inpaint_video", "inpaint_video_mask")),
    "InP, text alone": Case("wan2.1-fun-inp", inp_of_text),
    "InP A14B, first frame": Case("wan2.2-fun-a14b-inp", inp_a14b, ("image",), boundary=0.9),
    "Camera V1.1": Case("wan2.1-fun-v1.1-control-camera", camera_v1_1, ("image",), ZOOM_IN),
    "Camera A14B": Case("wan2.2-fun-a14b-control-camera", camera_a14b, ("image",), ZOOM_IN, boundary=0.9),
    "T2V 1.3B, speed": Case("wan2.1-t2v-1.3b", speed, words=("--motion-bucket-id", "70")),
    "I2V 14B, one frame": Case(
        "wan2.1-i2v-14b", one_frame_i2v, ("image", "control_0"),
        ("--target-index", "1", "--control-index", "0"), target=1,
    ),
    "FLF2V 14B, one frame": Case(
        "wan2.1-flf2v-14b", one_frame_flf2v, ("image", "end_image", "control_0", "control_1"),
        ("--target-index", "1", "--control-index", "10,0"), target=1,
    ),
}  # fmt: skip


def draw(path: Path, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_input(folder: Path, name: str) -> tuple[list[str], Any]:
    """An input as a file for our command, and as an array in [-1, 1], or of a mask in 0 and 1."""
    flag = (
        "--" + name.rpartition("_")[0] + "-image"
        if name.startswith("control_") and name[-1].isdigit()
        else ""
    )
    flag = flag or "--" + name.replace("_", "-")
    seed = 1000 * sum(map(ord, name))
    if name.endswith("mask"):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[3:12, 11:35] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        return [flag, str(folder / "mask.png")], to_mask(mask)
    if name.endswith("video"):
        pixels = np.stack([draw(folder / name / f"{n}.png", seed + n) for n in range(NUM_FRAMES)], 2)
        return [flag, str(folder / name)], to_unit(pixels.transpose(3, 2, 0, 1))
    pixels = draw(folder / "pictures" / f"{name}.png", seed)
    return [flag, str(folder / "pictures" / f"{name}.png")], to_unit(pixels.transpose(2, 0, 1))


def to_mask(pixels: np.ndarray) -> Any:
    return torch.tensor(pixels / 255).float()[None, None].repeat(1, NUM_FRAMES, 1, 1)


def to_unit(pixels: np.ndarray) -> Any:
    return torch.tensor(pixels).float().div(255).sub(0.5).div(0.5)


def run_plain(original: Path, case: Case, arrays: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Latents [16, T, h, w] and frames of the written-out networks."""
    variant = tiny_variant(case.variant)
    vae = load_vae(original, variant)
    inputs = case.make(Setting(original, variant, arrays, vae))
    high, low = (
        PlainNetwork(read_transformer(original / folder), variant.sizes.transformer)
        for folder in (("high_noise_model", "low_noise_model") if variant.is_dual else (".", "."))
    )
    texts = text_encoder(original, variant.sizes)([PROMPT, NEGATIVE_PROMPT])
    count = len(inputs["times"]) if "times" in inputs else LATENT_FRAMES
    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn((16, count, ROWS, COLUMNS), generator=generator)
    scheduler, timesteps = build_scheduler("unipc", STEPS, SHIFT)
    served = set()
    for timestep in timesteps:
        network = high if timestep >= 1000 * case.boundary else low
        served.add(network)
        positive, negative = (network(latents, float(timestep), text, **inputs) for text in texts)
        velocity = negative + GUIDE_SCALE * (positive - negative)
        latents = scheduler.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
    assert len(served) == 1 + variant.is_dual
    if case.target is not None:
        latents = latents[:, case.target : case.target + 1]
    return latents.numpy(), to_frames(vae.decode([latents])[0])


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_six_guided_steps_agree_with_the_formulas(
    case: Case, tmp_path: Path, record_property: Callable[[str, object], None]
):
    original, model = tmp_path / tiny_variant(case.variant).called, tmp_path / "model"
    sizes = write_tiny_variant(original, case.variant, seed=3).sizes
    if case.make is speed:
        write_motion_controller(original / "motion_controller.safetensors", sizes.transformer.dim)
    words, arrays = [*case.words], {}
    for name in case.given:
        own, arrays[name] = write_input(tmp_path, name)
        words += own
    with torch.no_grad():
        expected, expected_frames = run_plain(original, case, arrays)
    assert convert.main(
        ["--checkpoint-dir", str(original), "--output-dir", str(model), "--dtype", "float32"]
    ) == 0  # fmt: skip
    output = ["--save-frames", str(tmp_path / "frames")]
    output += ["--num-frames", str(NUM_FRAMES)] if case.target is None else []
    assert generate.main([
        "--model-dir", str(model), "--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT,
        "--width", str(WIDTH), "--height", str(HEIGHT), "--steps", str(STEPS),
        "--guide-scale", str(GUIDE_SCALE), "--seed", str(SEED), "--shift", str(SHIFT), "--scheduler", "unipc",
        "--output-path", str(tmp_path / "video.gif"), "--save-latents", str(tmp_path / "latents.safetensors"),
        *output, *words,
    ]) == 0  # fmt: skip
    assert_runs_agree(read_run(tmp_path), (expected, expected_frames), record_property)
