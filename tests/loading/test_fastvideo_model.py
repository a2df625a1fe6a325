"""FastVideo's folders for MLX (FastMetal) run as they are, with the recipe that they were distilled for."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.convert_wan import main as convert_main
from mlx_video.errors import CheckpointError, ConfigError, MissingPartError, RequestError
from mlx_video.events import Notice, StepFinished
from mlx_video.generate_wan import main as generate_main
from mlx_video.inspect.path import inspect_path
from mlx_video.latents.latents_file import load_latents
from mlx_video.loading.components import load_transformer, open_model
from mlx_video.media.video import read_frames
from mlx_video.models.block_context import Pass
from mlx_video.models.transformer import WanTransformer
from mlx_video.sampling.recipes.dmd import FASTMETAL
from mlx_video.sampling.recipes.settle import adopt_recipe
from mlx_video.variants.distilled import adopt_distilled
from mlx_video.variants.ti2v import TI2V_5B
from mlx_video.weights.names.fastvideo_names import converted_name
from mlx_video.weights.names.transformer_names import transformer_tensors
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import comfy_text_encoder, write_plain, write_words
from tests.fixtures.fastvideo_files import SIZES, pack_transformer, unpacked, write_others, write_packed
from tests.fixtures.tiny_checkpoint import TOKENIZER_FOLDER, write_tiny_checkpoint, write_transformer
from tests.models.networks import at

pytestmark = pytest.mark.slow

SMALL = {"width": 48, "height": 32, "num_frames": 5, "seed": 1}
ARGUMENTS = ["--width", "48", "--height", "32", "--num-frames", "5", "--seed", "1", "--no-prompt-cache"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V", SIZES)


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory) -> Path:
    """A whole folder, which no test may change."""
    folder = tmp_path_factory.mktemp("shared") / "FastMetal-1.3B-QAD"
    return write_others(write_packed(folder, tiny), tiny)


@pytest.fixture
def own(shared, tmp_path) -> Path:
    return shutil.copytree(shared, tmp_path / "FastMetal-1.3B-QAD")


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory) -> Path:
    """The same model, converted from the numbers that the packed transformer stands for."""
    root = tmp_path_factory.mktemp("converted")
    source = shutil.copytree(tiny.path, root / "source")
    write_transformer(source, unpacked(tiny))
    return convert_checkpoint(source, root / "model", dtype="float32")


def make(folder, *, parts=(), **options):
    pipeline = WanPipeline.from_pretrained(folder, **dict(parts))
    return pipeline("a cat", **(SMALL | options), prompt_cache=False)


def edit_manifest(folder, **changes):
    path = folder / "mlx_dit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_packed_transformer_is_the_dense_one_of_its_numbers(shared, converted):
    packed = load_transformer(*open_model(shared))
    dense = load_transformer(*open_model(converted))
    latents = mx.random.normal((16, 2, 4, 6), key=mx.random.key(0))
    context = mx.random.normal((7, 64), key=mx.random.key(1))
    results = []
    for network in (packed, dense):
        assert isinstance(network, WanTransformer)
        results += network.predict(latents, at(500.0), [Pass(network.project_text(context))])
    assert np.allclose(*map(np.array, results), atol=2e-5)


def test_every_tensor_of_the_file_gets_a_name_of_the_network(tiny):
    names = [converted_name(name) for name in pack_transformer(tiny.transformer)]
    assert len(set(names)) == len(names)
    parameters = {name for name, _ in tree_flatten(WanTransformer(SIZES.transformer).parameters())}
    assert parameters <= set(names)
    companions = set(names) - parameters
    assert {name.rpartition(".")[2] for name in companions} == {"scales", "biases"}
    assert {"blocks.1.self_attn.q.scales", "patch_embedding_proj.biases"} <= companions


def test_the_folder_makes_the_video_of_the_converted_model(shared, converted):
    recipe = {"steps": 2, "guide_scale": 1.0, "shift": 8.0, "scheduler": "euler"}
    video, expected = make(shared, **recipe), make(converted, **recipe)
    assert np.allclose(np.array(video.latents), np.array(expected.latents), atol=2e-2)
    assert video.frames.shape == (5, 32, 48, 3)


def test_a_transformer_that_is_not_packed_runs_too(tiny, shared, tmp_path):
    folder = write_others(write_packed(tmp_path / "plain", tiny, packs=False), tiny)
    assert inspect_path(folder).problems == ()
    video, packed = make(folder, steps=1), make(shared, steps=1)
    assert np.allclose(np.array(video.latents), np.array(packed.latents), atol=0.2)
    with pytest.raises(RequestError, match="is converted already"):
        convert_checkpoint(tiny.path, tmp_path / "out", transformer=folder / "mlx_dit.safetensors")


def test_the_recipe_becomes_the_defaults_and_is_told(shared):
    _, config = open_model(shared)
    sampling = config.sampling
    assert (sampling.steps, sampling.guide_scale, sampling.shift) == (3, (1.0, 1.0), 8.0)
    assert (sampling.width, sampling.height, sampling.num_frames) == (832, 448, 77)
    told = []
    video = WanPipeline.from_pretrained(shared)("a cat", **SMALL, on_event=told.append)
    assert (video.settings["steps"], video.settings["shift"]) == ("3", "8.0")
    texts = [event.text for event in told if isinstance(event, Notice)]
    assert any("Its defaults are those of recipe fastmetal: 3 steps" in text for text in texts)
    assert any(text.startswith("Recipe fastmetal: 3 steps by lcm, at guide scale 1") for text in texts)
    timesteps = [event.timestep for event in told if isinstance(event, StepFinished)]
    assert timesteps == [1000, 757, 522]


def test_the_recipe_of_the_5b_is_its_own():
    sampling = adopt_recipe(FASTMETAL, TI2V_5B.sampling, "ti2v")
    assert (sampling.steps, sampling.shift, sampling.guide_scale) == (3, 5.0, (1.0, 1.0))
    assert (sampling.width, sampling.height, sampling.num_frames) == (1280, 704, 121)
    assert adopt_distilled(TI2V_5B.sampling, "ti2v", ("FastMetal-5B-QAD",))[0] == sampling


def test_the_command_runs_it_and_plans_it(shared, tmp_path, capsys):
    video = tmp_path / "video.mp4"
    arguments = ["--model-dir", str(shared), "--prompt", "a cat", *ARGUMENTS]
    assert generate_main([*arguments, "--output-path", str(video)]) == 0
    assert read_frames(video).shape == (5, 32, 48, 3)
    assert generate_main([*arguments, "--plan"]) == 0
    assert "transformer, all 4 blocks" in capsys.readouterr().out


def test_streamed_blocks_make_the_same_latents(shared):
    videos = [make(shared, stream=mode, steps=1) for mode in ("off", "on")]
    assert mx.array_equal(videos[0].latents, videos[1].latents)


def test_its_runs_are_resumed_and_its_prompts_kept(shared, tmp_path, capsys):
    video = tmp_path / "video.mp4"
    arguments = [
        "--model-dir",
        str(shared),
        "--prompt",
        "a cat",
        *ARGUMENTS[:-1],
        "--output-path",
        str(video),
    ]
    assert generate_main([*arguments, "--keep-state"]) == 0
    frames = read_frames(video)
    assert generate_main([*arguments, "--resume"]) == 0
    assert np.array_equal(read_frames(video), frames)
    assert "is of another run" not in capsys.readouterr().err
    pipeline = WanPipeline.from_pretrained(shared)
    assert mx.array_equal(pipeline("a cat", **SMALL).latents, make(shared).latents)


def test_an_adapter_applies_to_it(shared, tmp_path):
    adapter = tmp_path / "style.safetensors"
    write_adapter(adapter, SIZES.transformer)
    plain, styled = (make(shared, steps=1, loras=loras) for loras in ((), [(adapter, 1.0)]))
    assert not mx.array_equal(plain.latents, styled.latents)


# The 14B's folder holds averaged weights in ema/.


def test_averaged_weights_are_run_from_their_own_folder_or_the_one_above(tiny, shared, tmp_path):
    above = write_others(tmp_path / "FastMetal-14B-QAD", tiny)
    write_packed(above / "ema", tiny, 0.5)
    assert open_model(above)[0].transformers == {"model": above / "ema" / "mlx_dit.safetensors"}
    assert mx.array_equal(make(above, steps=1).latents, make(above / "ema", steps=1).latents)
    write_packed(above, tiny)
    model, _ = open_model(above)
    assert model.transformers == {"model": above / "mlx_dit.safetensors"}
    assert any(f"{above / 'ema'}: holds averaged weights" in text for text in model.notices)
    assert mx.array_equal(make(above, steps=1).latents, make(shared, steps=1).latents)


# What lacks.


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["vae"], r"vae/ not found\. .*from any Wan model, converted or not: --vae FILE\."),
        (["text_encoder", "vae"], r"text_encoder/ and vae/ not found\. .*--text-encoder FILE and --vae FILE"),
    ],
)
def test_what_lacks_is_named_with_its_options(own, removed, message, capsys):
    for name in removed:
        shutil.rmtree(own / name)
    with pytest.raises(MissingPartError, match=message):
        WanPipeline.from_pretrained(own)
    found = inspect_path(own)
    assert found.problems == ()
    assert removed[0] in found.missing[0]
    assert generate_main(["--model-dir", str(own), "--prompt", "a cat"]) == 1
    assert "--vae FILE" in capsys.readouterr().err


def test_a_tokenizer_that_lacks_is_asked_for(own, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(own / "tokenizer")
    with pytest.raises(CheckpointError, match="and --tokenizer names none"):
        make(own)


def original_parts(tiny, converted, folder):
    return {"text_encoder": tiny.text_encoder_file, "vae": tiny.vae_file}


def converted_parts(tiny, converted, folder):
    return {"text_encoder": converted, "vae": converted}


def converted_files(tiny, converted, folder):
    names = {"text_encoder": "t5_encoder.safetensors", "vae": "vae.safetensors"}
    return {part: converted / name for part, name in names.items()}


def comfy_files(tiny, converted, folder):
    vae = write_plain(folder / "wan_2.1_vae.safetensors", tiny.vae)
    texts = write_words(folder / "umt5.safetensors", comfy_text_encoder(tiny.text_encoder, "F32"))
    return {"text_encoder": texts, "vae": vae}


def diffusers_folders(tiny, converted, folder):
    write_others(folder / "diffusers", tiny)
    return {name: folder / "diffusers" / name for name in ("text_encoder", "vae")}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "parts", [original_parts, converted_parts, converted_files, comfy_files, diffusers_folders]
)
def test_what_lacks_is_taken_from_any_form_of_a_wan_model(tiny, converted, tmp_path, parts):
    folder = write_packed(tmp_path / "packed", tiny)
    given = parts(tiny, converted, tmp_path)
    options = {**given, "tokenizer": tiny.path / TOKENIZER_FOLDER}
    video = make(folder, parts=options.items(), steps=1)
    expected = make(converted, steps=1, scheduler="euler", guide_scale=1.0, shift=8.0)
    assert np.allclose(np.array(video.latents), np.array(expected.latents), atol=2e-2)
    assert np.abs(video.frames.astype(int) - expected.frames).max() <= 6
    flags = [word for name, place in options.items() for word in (f"--{name.replace('_', '-')}", str(place))]
    latents = tmp_path / "latents.safetensors"
    arguments = ["--model-dir", str(folder), "--prompt", "a cat", "--steps", "1", *ARGUMENTS, *flags]
    output = str(tmp_path / "video.mp4")
    assert generate_main([*arguments, "--save-latents", str(latents), "--output-path", output]) == 0
    assert mx.array_equal(load_latents(latents)[0], video.latents)


def test_parts_take_the_place_of_those_of_a_converted_folder(tiny, converted, tmp_path):
    bare = shutil.copytree(converted, tmp_path / "bare")
    for name in ("t5_encoder.safetensors", "vae.safetensors"):
        (bare / name).unlink()
    parts = {"text_encoder": tiny.text_encoder_file, "vae": converted}
    assert mx.array_equal(make(bare, parts=parts.items(), steps=1).latents, make(converted, steps=1).latents)
    with pytest.raises(MissingPartError, match=r"t5_encoder.safetensors, vae.safetensors not found"):
        make(bare)


def test_a_plan_counts_the_parts_that_a_run_takes(tiny, converted, tmp_path, capsys):
    bare = shutil.copytree(converted, tmp_path / "bare")
    (bare / "vae.safetensors").unlink()
    arguments = ["--model-dir", str(bare), "--plan", "--memory-limit", "4"]
    assert generate_main([*arguments, "--vae", str(converted)]) == 0
    shown = capsys.readouterr().out
    assert generate_main(["--model-dir", str(converted), "--plan", "--memory-limit", "4"]) == 0
    assert shown == capsys.readouterr().out
    assert generate_main(arguments) == 1
    assert "vae.safetensors not found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "choose", "message"),
    [
        (
            "vae",
            lambda tiny: tiny.text_encoder_file,
            r"holds another part \(text encoder\), which --text-enc",
        ),
        ("text_encoder", lambda tiny: tiny.path / "absent.pth", "no such file or folder"),
        ("tokenizer", lambda tiny: tiny.path / "absent", "holds neither tokenizer.json nor spiece.model"),
    ],
)
def test_a_part_that_is_something_else_is_refused(shared, tiny, name, choose, message):
    with pytest.raises(RequestError, match=message) as caught:
        make(shared, parts=[(name, choose(tiny))])
    assert caught.value.field == name


# Damage, other forms, other commands.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, r"mlx_dit.json: format_version is 2, this version reads 1"),
        ({"quantization": {"mode": "nvfp4"}}, r"quantized as 'nvfp4', this version reads 'affine'"),
        ({"config": None}, r"mlx_dit.json: lacks config or num_blocks"),
        ({"num_blocks": 3}, r"holds 4 blocks, .*mlx_dit.json says 3"),
    ],
)
def test_another_manifest_is_refused_for_what_it_says(own, changes, message):
    edit_manifest(own, **changes)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        open_model(own)
    assert inspect_path(own).problems


def test_a_manifest_without_weights_and_weights_that_were_cut_are_told(own):
    weights = own / "mlx_dit.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"mlx_dit.safetensors: .* bytes on disk, header promises"):
        open_model(own)
    weights.unlink()
    with pytest.raises(MissingPartError, match=r"mlx_dit.safetensors not found beside mlx_dit.json"):
        open_model(own)


@pytest.mark.parametrize("place", [".", "ema"])
def test_weights_without_their_manifest_are_told(own, place, capsys):
    (own / place).mkdir(exist_ok=True)
    (own / "mlx_dit.safetensors").rename(own / place / "mlx_dit.safetensors")
    (own / "mlx_dit.json").unlink()
    with pytest.raises(MissingPartError, match=r"mlx_dit.json not found beside mlx_dit.safetensors\. Copy"):
        open_model(own)
    assert "mlx_dit.json not found" in inspect_path(own).missing[0]
    assert convert_main(["--checkpoint-dir", str(own)]) == 1
    assert "is a FastVideo MLX folder, which is not converted but run" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("options", [(), ("--quantize-only", "--quantize")])
def test_convert_wan_sends_to_generate_wan(shared, tmp_path, capsys, options):
    out = ["--output-dir", str(tmp_path / "out")]
    assert convert_main(["--checkpoint-dir", str(shared), *out, *options]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "is a FastVideo MLX folder, which is" in shown
    assert "run as it is" in shown
    assert f"python -m mlx_video.generate_wan --model-dir {shared}" in shown
    assert not (tmp_path / "out").exists()


def test_the_packed_file_is_no_transformer_to_convert(shared, tiny, tmp_path):
    with pytest.raises(RequestError, match="is converted already"):
        convert_checkpoint(tiny.path, tmp_path / "out", transformer=shared / "mlx_dit.safetensors")


def test_inspect_knows_the_folder_and_the_file(shared, capsys):
    assert convert_main(["--inspect", str(shared)]) == 0
    shown = capsys.readouterr().out
    assert "converted model, FastVideo MLX folder" in shown
    assert "8 bits, group 64" in shown
    assert f"generate_wan --model-dir {shared}" in shown
    assert "problem" not in shown
    (part,) = inspect_path(shared / "mlx_dit.safetensors").parts
    assert (part.component, part.spelling) == ("transformer", "converted for MLX by FastVideo")
    assert part.parameters == sum(map(math.prod, transformer_tensors(SIZES.transformer).values()))
