"""Checkpoints in files of any name: ComfyUI's folders, loose files, options, GGUF, LightX2V."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.conditioning.text import load_tokenizer
from mlx_video.config import config_from_json
from mlx_video.convert.convert import convert
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import Notice
from mlx_video.request import ConvertRequest
from mlx_video.weights.names.vae_names import vae_tensors
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import (
    CLIP,
    COMFY_PREFIX,
    SIZES,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
    Words,
    comfy_text_encoder,
    embedded_tokenizer,
    scaled_text_encoder,
    tokenizer_model,
    write_comfy_tree,
    write_gguf_transformer,
    write_plain,
    write_split,
    write_words,
)
from tests.fixtures.tiny_checkpoint import (
    TOKENIZER_FOLDER,
    random_arrays,
    write_tiny_checkpoint,
    write_transformer,
)
from tests.fixtures.tiny_variants import TINY_VARIANTS
from tests.fixtures.weight_files import round_to, store, write_torch_archive

pytestmark = pytest.mark.slow

OTHER = {"double_blocks.0.img_attn.qkv.weight": np.zeros((2, 2), np.float32)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What no test may change: an original folder, and the same numbers in a ComfyUI tree."""
    folder = tmp_path_factory.mktemp("shared")
    tiny = write_tiny_checkpoint(folder / "Wan2.1-T2V", SIZES)
    write_comfy_tree(folder / "models", tiny)
    run(tiny.path, folder / "converted")
    return tiny


@pytest.fixture(scope="module")
def expected(shared):
    """The shared original, converted."""
    return shared.path.parent / "converted"


@pytest.fixture
def tree(shared, tmp_path):
    """A ComfyUI tree to change."""
    return shutil.copytree(shared.path.parent / "models", tmp_path / "models")


def run(source, output, **options):
    events = list(convert(ConvertRequest(source, output, dtype="float32", **options)))
    return [event.text for event in events if isinstance(event, Notice)]


def refused(error, source, output, **options):
    with pytest.raises(error) as caught:
        run(source, output, **options)
    assert not output.exists()
    return str(caught.value)


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def parts(tree):
    return {"transformer": tree / TRANSFORMER, "text_encoder": tree / TEXT_ENCODER, "vae": tree / VAE}


def read_sampling(folder):
    return config_from_json(json.loads((folder / "config.json").read_text())).sampling


@pytest.mark.parametrize("place", [lambda name: name, lambda name: name.split("/")[1]], ids=["tree", "loose"])
def test_comfyui_files_convert_to_the_tensors_of_the_original_folder(shared, expected, tmp_path, place):
    source = write_comfy_tree(tmp_path / "models", shared, place)
    write_plain(source / "other_model.safetensors", OTHER)
    write_plain(source / "vae" / "ae.safetensors", OTHER)
    write_adapter(source / "style.safetensors", SIZES.transformer)
    notices = run(source, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(expected)
    assert (tmp_path / "out" / "tokenizer" / "spiece.model").read_bytes() == tokenizer_model()
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", expected)]
    assert configs[0] == configs[1]
    assert (
        f"Found by their tensors: transformer {place(TRANSFORMER)}, text_encoder {place(TEXT_ENCODER)}."
        in notices
    )


def test_an_image_to_video_model_takes_its_image_encoder_from_the_tree(tmp_path):
    sizes = SIZES.reading_images()
    tiny = write_tiny_checkpoint(tmp_path / "Wan2.1-I2V", sizes)
    tree = write_comfy_tree(tmp_path / "models", tiny)
    run(tiny.path, tmp_path / "expected")
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "expected")
    clip = (tree / CLIP).rename(tmp_path / "clip.safetensors")
    assert "give it as --clip FILE" in refused(CheckpointError, tree, tmp_path / "without")
    run(tree, tmp_path / "given", clip=clip)
    assert file_bytes(tmp_path / "given") == file_bytes(tmp_path / "expected")
    clip.rename(tree / CLIP)
    moved = (tree / TRANSFORMER).rename(tmp_path / "wan.safetensors")
    run(tree, tmp_path / "beside", transformer=moved)
    assert file_bytes(tmp_path / "beside") == file_bytes(tmp_path / "expected")


def test_options_alone_make_a_whole_checkpoint_that_generates_the_same_latents(
    shared, expected, tree, tmp_path
):
    options = {name: str(path) for name, path in parts(tree).items()}
    tokenizer = shared.path / TOKENIZER_FOLDER
    made = convert_checkpoint(None, tmp_path / "out", dtype="float32", tokenizer=str(tokenizer), **options)
    assert file_bytes(made) == file_bytes(expected)
    found = [
        WanPipeline.from_pretrained(folder)(
            "A red circle", width=32, height=32, num_frames=5, steps=2, seed=3
        )
        for folder in (made, expected)
    ]
    assert mx.array_equal(found[0].latents, found[1].latents)
    assert np.array(found[0].latents).std() > 0.1, "silent latents would prove little"


def test_one_option_replaces_one_component_of_a_folder(shared, tree, tmp_path):
    other = write_tiny_checkpoint(tmp_path / "Other", SIZES, seed=7)
    run(other.path, tmp_path / "other")
    for name, file, changed in (
        ("transformer", other.transformer_file, "model.safetensors"),
        ("text_encoder", other.text_encoder_file, "t5_encoder.safetensors"),
        ("vae", other.vae_file, "vae.safetensors"),
    ):
        for source in (shared.path, tree):
            out = tmp_path / f"{name}_{source.name}"
            run(source, out, **{name: file, "tokenizer": other.path / TOKENIZER_FOLDER})
            same = {
                key for key, data in file_bytes(tmp_path / "other").items() if file_bytes(out)[key] == data
            }
            assert same == {changed}


def test_a_folder_may_lack_what_the_options_give(shared, expected, tree, tmp_path):
    lacking = shutil.copytree(shared.path, tmp_path / "lacking")
    (lacking / shared.vae_file.name).unlink()
    (lacking / shared.text_encoder_file.name).unlink()
    shutil.rmtree(lacking / "google")
    run(lacking, tmp_path / "out", text_encoder=tree / TEXT_ENCODER, vae=tree / VAE)
    assert file_bytes(tmp_path / "out") == file_bytes(expected)
    assert (tmp_path / "out" / "tokenizer" / "spiece.model").is_file()


def test_a_single_file_is_a_checkpoint_beside_the_others(expected, tree, tmp_path):
    options = parts(tree)
    run(options.pop("transformer"), tmp_path / "out", **options)
    assert file_bytes(tmp_path / "out") == file_bytes(expected)


def test_folders_on_another_disk_are_found_through_links(expected, tree, tmp_path):
    disk = tmp_path / "disk"
    (tree / "diffusion_models").rename(disk)
    (tree / "diffusion_models").mkdir()
    (tree / "diffusion_models" / "wan").symlink_to(disk)
    (tree / "unet").symlink_to(tree / "diffusion_models")  # two names of one folder are no two models
    (disk / "back").symlink_to(tree)
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(expected)


def test_experts_of_different_sizes_are_refused_with_what_differs(shared, tree, tmp_path):
    sizes = replace(SIZES, transformer=replace(SIZES.transformer, num_layers=1, ffn_dim=64))
    other = write_tiny_checkpoint(tmp_path / "Other", sizes)
    experts = {"low_noise": tree / TRANSFORMER, "high_noise": other.transformer_file}
    text = refused(CheckpointError, tree, tmp_path / "out", **experts)
    layers, ffn = SIZES.transformer.num_layers, SIZES.transformer.ffn_dim
    sizes = f"ffn_dim {ffn} and 64, num_layers {layers} and 1"
    assert f"low_noise and high_noise are different transformers ({sizes})." in text


def test_a_gguf_transformer_is_one_of_the_files(shared, tree, tmp_path):
    (tree / TRANSFORMER).unlink()
    write_gguf_transformer(tree / "unet" / "wan.gguf", shared.transformer)
    run(tree, tmp_path / "out")
    same = shutil.copytree(shared.path, tmp_path / "same")
    rounded = {
        name: round_to(values, "F16") if values.ndim == 2 and name.startswith("blocks.") else values
        for name, values in shared.transformer.items()
    }
    write_transformer(same, rounded)
    run(same, tmp_path / "expected")
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "expected")


def test_a_folder_of_shards_may_stand_for_a_file(shared, expected, tree, tmp_path):
    write_transformer(tmp_path, shared.transformer, shards=3)
    shards = tmp_path / "shards"
    shards.mkdir()
    for path in tmp_path.glob("diffusion_pytorch_model*"):
        path.rename(shards / path.name)
    run(tree, tmp_path / "out", transformer=shards)
    assert file_bytes(tmp_path / "out") == file_bytes(expected)


def test_a_scaled_text_encoder_brings_its_tokenizer(shared, tree, tmp_path):
    stored, numbers = scaled_text_encoder(shared.text_encoder)
    write_words(tree / TEXT_ENCODER, stored | embedded_tokenizer())
    run(tree, tmp_path / "out")
    same = shutil.copytree(shared.path, tmp_path / "same")
    write_torch_archive(
        same / shared.text_encoder_file.name, [store(name, values) for name, values in numbers.items()]
    )
    run(same, tmp_path / "expected")
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "expected")
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer", SIZES.text_encoder.vocab_size)
    assert tokenizer.encode("A red circle", 512)[-1] == 1


def test_lightx2vs_split_files_convert_like_one(shared, expected, tree, tmp_path):
    (tree / TRANSFORMER).unlink()
    write_split(tree, shared.transformer)
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(expected)
    (tree / "block_0.safetensors").unlink()
    assert "block_0.safetensors is absent (1 of 2 blocks found). Fetch it again." in refused(
        CheckpointError, tree, tmp_path / "broken"
    )


def test_both_experts_of_an_original_folder_may_be_split(shared, tmp_path):
    usual, split = tmp_path / "usual", tmp_path / "split"
    for index, name in enumerate(("low_noise_model", "high_noise_model")):
        arrays = {key: values + index for key, values in shared.transformer.items()}
        (usual / name).mkdir(parents=True)
        write_transformer(usual / name, arrays)
        write_split(split / name, arrays)
        for folder in (usual, split):
            shutil.copy(shared.path / "config.json", folder / name)
    for folder in (usual, split):
        for file in (shared.text_encoder_file, shared.vae_file):
            shutil.copy(file, folder)
        shutil.copytree(shared.path / TOKENIZER_FOLDER, folder / TOKENIZER_FOLDER)
        run(folder, tmp_path / f"from_{folder.name}")
    assert file_bytes(tmp_path / "from_split") == file_bytes(tmp_path / "from_usual")


def test_a_distilled_name_sets_four_steps_without_guidance(tree, tmp_path):
    (tree / TRANSFORMER).rename(tree / "diffusion_models" / "wan2.1_t2v_14b_lightx2v_4step.safetensors")
    notices = run(tree, tmp_path / "out")
    assert any(
        "recipe lightx2v becomes its default, with 4 steps, guide scale 1 and shift 5" in text
        for text in notices
    )
    sampling = read_sampling(tmp_path / "out")
    assert (sampling.steps, sampling.guide_scale, sampling.shift) == (4, (1.0, 1.0), 5.0)
    assert sampling.recipe == "lightx2v"


def experts_of(tree, shared, names):
    """Two experts of different numbers under the given names; the first is the one of the tree."""
    first, second = (tree / "diffusion_models" / f"{name}.safetensors" for name in names)
    (tree / TRANSFORMER).rename(first)
    write_plain(second, {name: values + 1 for name, values in shared.transformer.items()})
    return first, second


@pytest.mark.parametrize(
    "names",
    [
        ("wan2.2_t2v_high_noise_14B_fp16", "wan2.2_t2v_low_noise_14B_fp16"),
        ("Wan2_2-T2V-A14B-HIGH_fp8", "Wan2_2-T2V-A14B-LOW_fp8"),
        ("t2v_HighNoise", "t2v_LowNoise"),
    ],
)
def test_two_experts_are_told_apart_by_their_names(shared, expected, tree, tmp_path, names):
    experts_of(tree, shared, names)
    notices = run(tree, tmp_path / "out")
    made, usual = file_bytes(tmp_path / "out"), file_bytes(expected)
    assert made["high_noise_model.safetensors"] == usual["model.safetensors"]
    assert made["low_noise_model.safetensors"] != usual["model.safetensors"]
    assert (
        f"Experts: low_noise from {names[1]}.safetensors, high_noise from {names[0]}.safetensors." in notices
    )


def test_experts_may_be_given_and_replaced_by_options(shared, tree, tmp_path):
    first, second = experts_of(tree, shared, ("a", "b"))
    others = {"text_encoder": tree / TEXT_ENCODER, "vae": tree / VAE}
    run(None, tmp_path / "given", high_noise=first, low_noise=second, **others)
    (first.parent / "x_high_noise.safetensors").write_bytes(first.read_bytes())
    second.rename(first.parent / "x_low_noise.safetensors")
    first.unlink()
    run(tree, tmp_path / "found")
    assert file_bytes(tmp_path / "given") == file_bytes(tmp_path / "found")
    third = write_plain(tmp_path / "new.safetensors", {n: v + 2 for n, v in shared.transformer.items()})
    run(tree, tmp_path / "replaced", low_noise=third)
    changed = {
        name
        for name, data in file_bytes(tmp_path / "replaced").items()
        if data != file_bytes(tmp_path / "found")[name]
    }
    assert changed == {"low_noise_model.safetensors"}


def test_a_lone_transformer_is_the_other_expert_only_where_its_name_says_so(shared, tree, tmp_path):
    high = write_plain(tmp_path / "a.safetensors", {n: v + 1 for n, v in shared.transformer.items()})
    message = refused(RequestError, tree, tmp_path / "out", high_noise=high)
    assert message.startswith("low_noise: is not given, and the name of diffusion_models/wan2.1_t2v")
    (tree / TRANSFORMER).rename(tree / "diffusion_models" / "wan_low_noise.safetensors")
    run(tree, tmp_path / "out", high_noise=high)
    assert (tmp_path / "out" / "low_noise_model.safetensors").is_file()


def test_experts_whose_names_say_the_opposite_are_reported(shared, tree, tmp_path):
    high, low = experts_of(tree, shared, ("t2v_low_noise", "t2v_high_noise"))
    others = {"text_encoder": tree / TEXT_ENCODER, "vae": tree / VAE}
    notices = run(None, tmp_path / "out", high_noise=high, low_noise=low, **others)
    assert (
        "Experts: low_noise from t2v_high_noise.safetensors, high_noise from t2v_low_noise.safetensors."
        in notices
    )
    for file in (high, low):
        assert any(text.startswith(f"{file.name}: the name says the other expert") for text in notices)
    notices = run(None, tmp_path / "right", high_noise=low, low_noise=high, **others)
    assert not any("other expert" in text for text in notices)


def test_an_image_encoder_is_refused_for_a_model_that_reads_no_image(tree, tmp_path):
    source = write_tiny_checkpoint(tmp_path / "Wan2.1-I2V", SIZES.reading_images())
    clip = source.path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    message = refused(RequestError, tree, tmp_path / "out", clip=clip)
    assert message == "clip: this transformer reads no image through CLIP. Leave the option out."


def test_an_all_in_one_file_is_a_whole_checkpoint(shared, expected, tmp_path):
    texts = comfy_text_encoder(shared.text_encoder, "BF16")
    together = {
        **{COMFY_PREFIX + name: Words("F32", values) for name, values in shared.transformer.items()},
        **{f"vae.{name}": Words("F32", values) for name, values in shared.vae.items()},
        **{f"text_encoders.umt5xxl.transformer.{name}": words for name, words in texts.items()},
        **{f"text_encoders.{name}": words for name, words in embedded_tokenizer().items()},
    }
    file = write_words(tmp_path / "all.safetensors", together)
    run(file, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(expected)
    write_words(file, together | {"strange.weight": Words("F32", np.zeros(1, np.float32))})
    assert "1 tensors that belong to none, first strange.weight. Use separate files" in refused(
        CheckpointError, file, tmp_path / "strange"
    )


# What is refused, and how.


def test_everything_that_lacks_is_named_with_its_option(tree, tmp_path):
    text = refused(CheckpointError, tree / TRANSFORMER, tmp_path / "out")
    assert "holds transformer; not found: text encoder (--text-encoder FILE); VAE (--vae FILE)." in text
    (tree / TRANSFORMER).unlink()
    (tree / VAE).write_bytes((tree / VAE).read_bytes()[:-10])
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert "not found: transformer (--transformer FILE); VAE (--vae FILE)" in text
    assert "Not readable:" in text
    assert "Download it again." in text


def test_an_empty_tree_says_what_it_lacks(tmp_path):
    (tmp_path / "models" / "text_encoders").mkdir(parents=True)
    text = refused(CheckpointError, tmp_path / "models", tmp_path / "out")
    assert "models: not found: transformer (--transformer FILE); text encoder (--text-encoder FILE)" in text


def test_the_folder_of_comfyui_itself_points_to_its_models(tree, tmp_path):
    text = refused(CheckpointError, tree.parent, tmp_path / "models" / "out")
    assert f"Did you mean {tree}?" in text


def test_one_expert_alone_asks_for_the_other(tree, tmp_path):
    (tree / TRANSFORMER).rename(tree / "diffusion_models" / "wan2.2_t2v_high_noise_14B.safetensors")
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert "not found: low-noise transformer (--low-noise FILE)" in text


def test_two_transformers_that_are_no_pair_are_listed_with_the_options(shared, tree, tmp_path):
    shutil.copy(tree / TRANSFORMER, tree / "diffusion_models" / "wan_fp8.safetensors")
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert f"holds several transformers: {TRANSFORMER}, diffusion_models/wan_fp8.safetensors. " in text
    assert "--transformer FILE" in text
    assert "--high-noise FILE and --low-noise FILE" in text
    run(tree, tmp_path / "out", transformer=tree / TRANSFORMER)


@pytest.mark.parametrize(
    ("place", "flag", "what"),
    [(TEXT_ENCODER, "--text-encoder", "text encoders"), (VAE, "--vae", "VAEs for this model")],
)
def test_several_precisions_of_a_component_ask_for_a_choice(tree, tmp_path, place, flag, what):
    shutil.copy(tree / place, (tree / place).with_name("other.safetensors"))
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert f"holds several {what}: " in text
    assert "other.safetensors" in text
    assert f"Choose one with {flag} FILE." in text
    run(tree, tmp_path / "out", **{flag[2:].replace("-", "_"): tree / place})


def test_encoders_of_other_models_in_the_tree_are_passed_over(shared, expected, tree, tmp_path):
    texts = comfy_text_encoder(shared.text_encoder)
    flux = texts | {"shared.weight": Words("F16", np.zeros((32128, 2), np.float16))}
    write_words(tree / "text_encoders" / "t5xxl_fp16.safetensors", flux)
    narrow = texts | {"shared.weight": Words("F16", np.zeros((160, 8), np.float16))}
    write_words(tree / "text_encoders" / "umt5_base.safetensors", narrow)
    run(tree, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(expected)
    write_words(tree / TEXT_ENCODER, flux | embedded_tokenizer())
    (tree / "text_encoders" / "t5xxl_fp16.safetensors").unlink()
    (tree / "text_encoders" / "umt5_base.safetensors").unlink()
    assert "32128 vocabulary rows (T5 v1.1); Wan needs UMT5-XXL" in refused(
        CheckpointError, tree, tmp_path / "t5"
    )


@pytest.mark.parametrize(
    ("is_file", "message"), [(False, "no such folder"), (True, "its folder is expected")]
)
def test_a_tokenizer_that_is_no_folder_is_refused(shared, tree, tmp_path, is_file: bool, message: str):
    write_words(tree / TEXT_ENCODER, comfy_text_encoder(shared.text_encoder))
    place = tmp_path / "umt5-xxl"
    if is_file:
        place.write_bytes(b"")
    assert message in refused(RequestError, tree, tmp_path / "out", tokenizer=place)


def test_a_text_encoder_without_tokenizer_asks_for_one_if_none_can_be_downloaded(shared, tree, tmp_path):
    write_words(tree / TEXT_ENCODER, comfy_text_encoder(shared.text_encoder))
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert "has no tokenizer, neither in a folder nor in its text encoder. Give the folder google/" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(0, np.uint8), "is empty or of another type"),
        (np.full(40, 7, np.uint8), "cannot be read"),
        (np.zeros(4, np.float32), "is empty or of another type"),
    ],
)
def test_a_damaged_embedded_tokenizer_is_refused(shared, tree, tmp_path, data, message):
    texts = comfy_text_encoder(shared.text_encoder)
    dtype = "U8" if data.dtype == np.uint8 else "F32"
    write_words(tree / TEXT_ENCODER, texts | {"spiece_model": Words(dtype, data)})
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert "spiece_model" in text
    assert message in text
    assert text.endswith("Give google/umt5-xxl of a Wan-AI repository as --tokenizer.")


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(shared, tree, tmp_path):
    texts = comfy_text_encoder(shared.text_encoder)
    texts["shared.weight"] = replace(texts["shared.weight"], values=texts["shared.weight"].values[:40])
    write_words(tree / TEXT_ENCODER, texts | embedded_tokenizer())
    text = refused(CheckpointError, tree, tmp_path / "out")
    assert "They belong to different models" in text


@pytest.mark.parametrize(
    ("option", "file", "message"),
    [
        ("vae", TEXT_ENCODER, "holds another part (text encoder). Give it as --text-encoder."),
        ("text_encoder", VAE, "holds another part (VAE 2.1). Give it as --vae."),
        ("clip", TRANSFORMER, "holds another part (transformer). Give it as --transformer."),
        ("transformer", "style.safetensors", "holds another part (adapter). Give it as --lora."),
        ("high_noise", "other.safetensors", "holds no part of a Wan model (first tensor double_blocks.0"),
        ("vae", "absent.safetensors", "no such file. Check the path, or download the file."),
        ("tokenizer", "vae", "holds neither tokenizer.json nor spiece.model."),
    ],
)
def test_a_file_that_is_not_what_its_option_says_is_refused(tree, tmp_path, option, file, message):
    write_plain(tree / "other.safetensors", OTHER)
    write_adapter(tree / "style.safetensors", SIZES.transformer)
    text = refused(RequestError, tree, tmp_path / "out", **{option: tree / file})
    assert text.startswith(f"{option}: ")
    assert message in text


def test_a_converted_file_is_not_converted_again(expected, tree, tmp_path):
    text = refused(RequestError, tree, tmp_path / "out", transformer=expected / "model.safetensors")
    assert "is converted already. Give the file that it was made from." in text


def test_a_lone_adapter_and_a_lone_stranger_are_refused(tree, tmp_path):
    adapter = tmp_path / "style.safetensors"
    write_adapter(adapter, SIZES.transformer)
    assert "is an adapter, not a model" in refused(CheckpointError, adapter, tmp_path / "out")
    stranger = write_plain(tmp_path / "other.safetensors", OTHER)
    assert "holds no part of a Wan model" in refused(CheckpointError, stranger, tmp_path / "out")


def test_one_expert_cannot_replace_a_single_transformer(shared, tree, tmp_path):
    text = refused(RequestError, shared.path, tmp_path / "out", high_noise=tree / TRANSFORMER)
    assert "has one transformer, not two. Add --low-noise, or give the file as --transformer." in text


def test_a_vae_of_the_other_generation_is_refused(shared, tree, tmp_path):
    arrays = random_arrays(vae_tensors(TINY_VARIANTS["wan2.2-ti2v-5b"].sizes.vae), 2)
    other = write_plain(tmp_path / "wan2.2_vae.safetensors", arrays)
    text = refused(CheckpointError, shared.path, tmp_path / "out", vae=other)
    assert "wan2.2_vae.safetensors has 48 latent channels, the transformer makes 16." in text


@pytest.mark.parametrize("stage", ["high", "low"])
def test_one_expert_given_as_the_only_transformer_is_told_to_be_one(shared, tree, tmp_path, stage):
    for place in (f"Wan2.2_T2V_{stage.title()}Noise.safetensors", f"{stage}_noise_model/wan.safetensors"):
        file = tmp_path / "given" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / TRANSFORMER, file)
        named = file.name if file.parent.name == "given" else f"{file.parent.name}/"
        told = f"{named}: the name says that it is the {stage}-noise expert, one of two."
        notices = run(tree, tmp_path / "out", transformer=file)
        assert any(text.startswith(told) for text in notices)
    assert not any("one of two" in text for text in run(tree, tmp_path / "out"))


def test_with_one_expert_given_the_other_is_asked_for_alone(shared, tree, tmp_path):
    for name in ("a_low_noise", "b_low_noise"):
        shutil.copy(tree / TRANSFORMER, tree / "diffusion_models" / f"{name}.safetensors")
    text = refused(CheckpointError, tree, tmp_path / "out", high_noise=tree / TRANSFORMER)
    assert "Choose with --low-noise FILE, such as:\n  --low-noise " in text
