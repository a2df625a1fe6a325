"""GGUF transformers whose first kernel lies in a file of its own, as ComfyUI-GGUF leaves them half-way."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.convert.convert import convert
from mlx_video.errors import CheckpointError, MLXVideoError, RequestError
from mlx_video.events import Notice
from mlx_video.inspect.path import inspect_path
from mlx_video.request import ConvertRequest
from mlx_video.weights.names.transformer_names import transformer_tensors
from tests.fixtures.comfy_files import SIZES, TEXT_ENCODER, VAE, write_comfy_tree, write_plain
from tests.fixtures.tiny_checkpoint import random_arrays, write_tiny_checkpoint
from tests.fixtures.weight_files import round_to
from tests.formats.gguf_writer import pack, write_gguf
from tests.parity.diffusers_transformer import diffusers_name

KERNEL = "patch_embedding.weight"
FIX_FILE = "fix_5d_tensors_wan.safetensors"
MISSING = (
    r"wan-Q8_0\.gguf: patch_embedding\.weight is missing\. ComfyUI-GGUF keeps it in fix_5d_tensors_wan\.safe"
    r"tensors, and the step that puts it back, tools/fix_5d_tensors\.py, was left out\."
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that no test may change."""
    return write_tiny_checkpoint(
        tmp_path_factory.mktemp("tiny") / "Wan2.1-T2V", SIZES, transformer_dtype="F16"
    )


@pytest.fixture(scope="module")
def expected(tiny, tmp_path_factory):
    """The files that the original checkpoint converts to."""
    folder = tmp_path_factory.mktemp("expected") / "out"
    run(ConvertRequest(tiny.path, folder))
    return file_bytes(folder)


@pytest.fixture
def tree(tiny, tmp_path):
    """ComfyUI's folders with the half-made transformer, and no file beside it yet."""
    tree = write_comfy_tree(tmp_path / "models", tiny)
    shutil.rmtree(tree / "diffusion_models")
    write_half(tree / "diffusion_models" / "wan-Q8_0.gguf", tiny.transformer)
    shutil.copytree(tiny.path / "google", tree / "google")
    return tree


def run(request):
    return [event.text for event in convert(request) if isinstance(event, Notice)]


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def write_half(path, arrays):
    """What the quantizer leaves: no tensor of five axes, no first axis of length one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {}
    for name, values in arrays.items():
        if values.ndim < 5:
            values = values[0] if name.endswith(("modulation", "scale_shift_table")) else values
            kind = "F16" if values.ndim == 2 and "blocks." in name and name.endswith("weight") else "F32"
            packed[name] = kind, pack(values, kind)
    return write_gguf(path, packed)


def write_fix_file(folder, arrays, name=FIX_FILE):
    return write_plain(folder / name, {KERNEL: arrays[KERNEL]})


def test_the_kernel_beside_a_gguf_file_in_comfys_folders_is_read(tiny, tree, tmp_path, expected):
    write_fix_file(tree / "diffusion_models", tiny.transformer)
    notices = run(ConvertRequest(tree, tmp_path / "out"))
    assert file_bytes(tmp_path / "out") == expected
    told = f"wan-Q8_0.gguf: {KERNEL}, which its converter left out, is taken from {FIX_FILE} beside it."
    assert notices.count(told) == 1


@pytest.mark.parametrize("place", ["file", "folder", "other name"])
def test_the_kernel_beside_a_gguf_file_given_by_option_is_read(tiny, tmp_path, expected, place):
    own = tmp_path / "own"
    file = write_half(own / "wan.gguf", tiny.transformer)
    write_fix_file(own, tiny.transformer, "wan.gguf.5d.safetensors" if place == "other name" else FIX_FILE)
    given = own if place == "folder" else file
    notices = run(ConvertRequest(tiny.path, tmp_path / "out", transformer=given))
    assert file_bytes(tmp_path / "out") == expected
    assert any("is taken from" in text for text in notices)


@pytest.mark.parametrize("spelling", ["prefixed", "diffusers"])
def test_half_made_files_under_other_names_are_read_and_refused_alike(
    tiny, tree, tmp_path, expected, spelling
):
    rename = diffusers_name if spelling == "diffusers" else "model.diffusion_model.{}".format
    folder = tree / "diffusion_models"
    write_half(folder / "wan-Q8_0.gguf", {rename(name): v for name, v in tiny.transformer.items()})
    with pytest.raises(CheckpointError, match=MISSING):
        run(ConvertRequest(tree, tmp_path / "out"))
    write_plain(folder / FIX_FILE, {rename(KERNEL): tiny.transformer[KERNEL]})
    assert any("is taken from" in text for text in run(ConvertRequest(tree, tmp_path / "out")))
    assert file_bytes(tmp_path / "out") == expected


def test_a_half_made_file_alone_names_what_it_lacks_and_the_step_left_out(tree, tiny, tmp_path):
    half = tree / "diffusion_models" / "wan-Q8_0.gguf"
    with pytest.raises(CheckpointError, match=MISSING + " Lay that file beside this one, run the step"):
        run(ConvertRequest(tree, tmp_path / "out"))
    with pytest.raises(CheckpointError, match=MISSING):
        run(ConvertRequest(tiny.path, tmp_path / "out", transformer=half))
    assert not (tmp_path / "out").exists()


def test_a_half_made_file_without_the_other_parts_names_the_step_all_the_same(tree, tmp_path):
    alone = tree / "diffusion_models"
    with pytest.raises(CheckpointError, match=MISSING):
        run(ConvertRequest(alone, tmp_path / "out"))
    assert all("the step that puts it back" in problem for problem in inspect_path(alone).problems)


def test_a_fix_file_of_another_model_is_not_taken_and_named(tiny, tree, tmp_path):
    other = {KERNEL: np.ones((64, 16, 1, 2, 2), np.float32)}
    write_fix_file(tree / "diffusion_models", other)
    message = (
        MISSING
        + rf" {FIX_FILE} beside it is of another model \(\[64, 16, 1, 2, 2\], the bias here is \[128\]\)"
    )
    with pytest.raises(CheckpointError, match=message):
        run(ConvertRequest(tree, tmp_path / "out"))


def test_the_fix_file_given_alone_is_called_what_it_is(tiny, tmp_path):
    fix = write_fix_file(tmp_path, tiny.transformer)
    message = (
        r"fix_5d_tensors_wan\.safetensors: holds patch_embedding\.weight alone, which a GGUF converter left"
    )
    with pytest.raises(RequestError, match=message):
        run(ConvertRequest(tiny.path, tmp_path / "out", transformer=fix))
    with pytest.raises(CheckpointError, match=message):
        run(ConvertRequest(fix, tmp_path / "out"))
    assert message.split(": ")[1].replace("\\", "") in inspect_path(fix).problems[0]


def test_the_kernel_of_a_whole_gguf_file_is_its_own(tiny, tree, tmp_path, expected):
    """A file left beside it by an earlier conversion is of no account."""
    path = tree / "diffusion_models" / "wan-Q8_0.gguf"
    whole = {
        name: values[0] if name.endswith("modulation") else values
        for name, values in tiny.transformer.items()
    }
    write_gguf(path, {name: ("F32", pack(values, "F32")) for name, values in whole.items()})
    write_fix_file(path.parent, {KERNEL: np.ones_like(tiny.transformer[KERNEL])})
    assert not any("is taken from" in text for text in run(ConvertRequest(tree, tmp_path / "out")))
    assert file_bytes(tmp_path / "out") == expected


def experts(folder, arrays):
    """Half-made experts of Wan2.2 in one folder, and the numbers of the second."""
    other = random_arrays(transformer_tensors(SIZES.transformer), 77)
    write_half(folder / "wan2.2_high_noise.gguf", arrays)
    write_half(folder / "wan2.2_low_noise.gguf", other)
    return other


def test_each_expert_takes_the_kernel_that_is_named_after_it(tiny, tree, tmp_path):
    folder = tree / "diffusion_models"
    (folder / "wan-Q8_0.gguf").unlink()
    low = experts(folder, tiny.transformer)
    write_fix_file(folder, tiny.transformer, "fix_5d_tensors_wan_high.safetensors")
    write_fix_file(folder, low, "fix_5d_tensors_wan_low.safetensors")
    notices = run(ConvertRequest(tree, tmp_path / "out"))
    assert sum("is taken from" in text for text in notices) == 2
    for name, arrays in (("high_noise_model", tiny.transformer), ("low_noise_model", low)):
        made = mx.load(str(tmp_path / "out" / f"{name}.safetensors"))["patch_embedding_proj.weight"]
        wanted = round_to(arrays[KERNEL], "BF16").reshape(128, -1)
        assert np.array_equal(np.array(made.astype(mx.float32)), wanted)


def test_one_kernel_for_two_experts_is_refused(tiny, tree, tmp_path):
    folder = tree / "diffusion_models"
    (folder / "wan-Q8_0.gguf").unlink()
    experts(folder, tiny.transformer)
    write_fix_file(folder, tiny.transformer)
    message = rf"{FIX_FILE} beside it does not say of which expert it is\. Name it after its expert \(fix_5d_"
    with pytest.raises(MLXVideoError, match=message):
        run(ConvertRequest(tree, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_two_kernels_for_one_file_are_refused(tiny, tree, tmp_path):
    for name in (FIX_FILE, "kernel.safetensors"):
        write_fix_file(tree / "diffusion_models", tiny.transformer, name)
    with pytest.raises(
        MLXVideoError, match=f"{FIX_FILE} and kernel.safetensors beside it could be that file"
    ):
        run(ConvertRequest(tree, tmp_path / "out"))


def test_inspection_names_what_is_missing_and_counts_what_is_found(tiny, tree):
    path = tree / "diffusion_models" / "wan-Q8_0.gguf"
    (part,) = inspect_path(path).parts
    assert (part.component, part.tensors) == ("transformer", len(tiny.transformer) - 1)
    assert f"{KERNEL} is missing" in part.problem
    write_fix_file(path.parent, tiny.transformer)
    (part,) = inspect_path(path).parts
    assert (part.problem, part.tensors) == ("", len(tiny.transformer))
    assert part.files == ("wan-Q8_0.gguf", FIX_FILE)
    assert any("is taken from" in text for text in part.notices)
    found = inspect_path(tree)
    assert {part.component for part in found.parts} == {"transformer", "text_encoder", "vae"}
    assert found.problems == ()
    assert {TEXT_ENCODER, VAE} < {name for part in found.parts for name in part.files}
