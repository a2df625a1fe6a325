"""Folders as ModelScope, LightX2V and QuantStack publish or document them convert like the original ones."""

import json
import shlex
import shutil
from functools import partial

import numpy as np
import pytest

from mlx_video import convert_checkpoint
from mlx_video.convert.convert import convert
from mlx_video.convert_wan import build_parser
from mlx_video.errors import MLXVideoError
from mlx_video.events import Notice
from mlx_video.inspect.path import inspect_path
from mlx_video.request import ConvertRequest
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import write_gguf_transformer, write_plain, write_split
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import EXPERTS, write_tiny_variant

pytestmark = pytest.mark.slow

INDEX = "diffusion_pytorch_model.safetensors.index.json"
OTHER = {"encoder.layers.0.weight": np.zeros((2, 2), np.float32)}


def run(source, output, **options):
    events = list(convert(ConvertRequest(source, output, dtype="float32", **options)))
    return [event.text for event in events if isinstance(event, Notice)]


def refused(source, output, **options):
    with pytest.raises(MLXVideoError) as caught:
        run(source, output, **options)
    assert not output.exists()
    return str(caught.value)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


def assert_same(found, expected):
    assert contents(found) == contents(expected)
    assert contents(found)


def options_in(text):
    """Every line of options that a message proposes, as the command line reads it."""
    lines = [line for line in text.splitlines() if line.startswith("  --")]
    return [build_parser().parse_args(shlex.split(line)) for line in lines]


# Shards whose precision stands behind the number, as ModelScope has them of Wan2.2.


def with_ending(name):
    return name.replace(".safetensors", "-bf16.safetensors") if "-of-" in name else name


def rename_shards(folder, index="own"):
    """Put the precision behind the number; the index names the files, the plain ones, or is absent."""
    for file in folder.rglob("*-of-*.safetensors"):
        file.rename(file.with_name(with_ending(file.name)))
    for file in folder.rglob("*.index.json"):
        content = json.loads(file.read_text())
        if index == "none":
            file.unlink()
        elif index == "plain":  # it counts the plain files' wider numbers
            file.write_text(json.dumps(content | {"metadata": {"total_size": 7}}))
        else:
            names = {key: with_ending(name) for key, name in content["weight_map"].items()}
            file.write_text(json.dumps(content | {"weight_map": names}))
    return folder


MODELS = {
    "TI2V-5B": (write_tiny_variant, "wan2.2-ti2v-5b"),
    "T2V-A14B": (write_tiny_variant, "wan2.2-t2v-a14b"),
    "T2V-A14B-Diffusers": (partial(write_diffusers_variant, shards=2), "wan2.2-t2v-a14b"),
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Each model in its usual form, and converted."""
    path = tmp_path_factory.mktemp("usual")
    for name, (write, variant) in MODELS.items():
        write(path / name, variant)
        run(path / name, path / f"{name} converted")
    return path


@pytest.mark.parametrize("index", ["none", "own", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_a_precision_behind_the_shards_numbers_is_part_of_one_checkpoint(usual, tmp_path, name, index):
    source = rename_shards(shutil.copytree(usual / name, tmp_path / name), index)
    assert inspect_path(source).problems == ()
    notices = run(source, tmp_path / "out")
    assert_same(tmp_path / "out", usual / f"{name} converted")
    assert not any("files are taken" in text for text in notices)
    for absent in list(source.rglob("*-00002-of-*-bf16.safetensors")):
        moved = absent.rename(tmp_path / "moved")
        text = refused(source, tmp_path / "broken")
        assert str(absent.parent) in text
        assert absent.name in text
        assert "etch it again." in text
        assert any(absent.name in problem for problem in inspect_path(source).problems)
        moved.rename(absent)


def test_a_whole_copy_beside_a_broken_one_is_taken_and_that_is_said(usual, tmp_path):
    source = shutil.copytree(usual / "T2V-A14B", tmp_path / "both")
    for folder in EXPERTS:
        for file in (usual / "T2V-A14B" / folder).glob("*-of-*"):
            shutil.copy(file, source / folder / with_ending(file.name))
    notices = run(source, tmp_path / "out")
    assert_same(tmp_path / "out", usual / "T2V-A14B converted")
    for folder in EXPERTS:
        told = (
            "of the transformer, the plain files are taken, as the index names them, not the others (bf16)."
        )
        assert f"{source / folder}: {told}" in notices
    broken = source / EXPERTS[0] / "diffusion_pytorch_model-00002-of-00002.safetensors"
    broken.unlink()
    notices = run(source, tmp_path / "from bf16")
    assert_same(tmp_path / "from bf16", usual / "T2V-A14B converted")
    told = f"the bf16 files are taken, not the others (plain, which lacks {broken.name})."
    assert f"{broken.parent}: of the transformer, {told}" in notices


@pytest.mark.parametrize("place", ["diffusion_pytorch_model-00001-of-00002-bf16.safetensors", "."])
def test_one_such_shard_as_an_option_stands_for_all(usual, tmp_path, place):
    source = rename_shards(shutil.copytree(usual / "TI2V-5B", tmp_path / "5B"), "none")
    shards = tmp_path / "shards"
    shards.mkdir()
    for file in source.glob("*-bf16.safetensors"):
        file.rename(shards / file.name)
    shutil.copy(usual / "TI2V-5B" / "config.json", shards)
    # Plain shards of the same number beside them are of another copy.
    shutil.copy(usual / "TI2V-5B" / "diffusion_pytorch_model-00001-of-00002.safetensors", shards)
    notices = run(source, tmp_path / "out", transformer=shards / place)
    told = "of the component, the bf16 files are taken, not the others (plain, which lacks "
    assert any(told in text for text in notices) == (place == ".")
    made, expected = contents(tmp_path / "out"), contents(usual / "TI2V-5B converted")
    assert made["model.safetensors"] == expected["model.safetensors"]
    (shards / "diffusion_pytorch_model-00002-of-00002-bf16.safetensors").unlink()
    assert "2 of 2 is absent" in refused(source, tmp_path / "broken", transformer=shards / place)


# LightX2V's folders.

TINY = TinySizes()  # two heads, as config.json alone tells


@pytest.fixture(scope="module")
def wan21(tmp_path_factory):
    """A checkpoint in the original layout, and converted."""
    tiny = write_tiny_checkpoint(tmp_path_factory.mktemp("wan21") / "Wan2.1-T2V", TINY)
    run(tiny.path, tiny.path.parent / "converted")
    return tiny


@pytest.fixture
def folder(wan21, tmp_path):
    """All parts of the checkpoint but its transformer."""
    path = shutil.copytree(wan21.path, tmp_path / "wan2.1_t2v_14b")
    (path / wan21.transformer_file.name).unlink()
    return path


LIGHTX2V = "wan2.1_t2v_14b_lightx2v_4step.safetensors"


def test_one_transformer_of_any_name_beside_the_other_parts_is_found(wan21, folder, tmp_path):
    plain = folder / "Wan14BT2VFusioniX_fp16_.safetensors"
    shutil.copy(wan21.transformer_file, plain)
    write_plain(folder / "taew2_1.pth", OTHER)
    write_adapter(folder / "style.safetensors", TINY.transformer)
    assert inspect_path(folder).problems == ()
    notices = run(folder, tmp_path / "out")
    assert_same(tmp_path / "out", wan21.path.parent / "converted")
    assert any(f"transformer {plain.name}, text_encoder models_t5_umt5" in text for text in notices)
    plain.rename(folder / LIGHTX2V)
    notices = run(folder, tmp_path / "distilled")
    assert any("4 steps" in text for text in notices)


def test_quantized_encoders_and_gguf_beside_a_config_are_found(wan21, folder, tmp_path):
    write_gguf_transformer(folder / "wan2.1-t2v-14b-F16.gguf", wan21.transformer)
    (folder / wan21.text_encoder_file.name).rename(folder / "models_t5_umt5-xxl-enc-fp8.pth")
    run(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_heads"] == TINY.transformer.num_heads


def test_an_image_to_video_folder_takes_clip_of_any_name(tmp_path):
    tiny = write_tiny_checkpoint(tmp_path / "wan2.1_i2v_720p", TINY.reading_images())
    run(tiny.path, tmp_path / "expected")
    tiny.transformer_file.rename(tiny.path / "wan2.1_i2v_720p.safetensors")
    next(tiny.path.glob("models_clip*")).rename(tiny.path / "clip-fp8.pth")
    run(tiny.path, tmp_path / "out")
    assert_same(tmp_path / "out", tmp_path / "expected")


def test_of_several_precisions_in_one_folder_the_user_chooses_by_a_filled_in_option(wan21, folder, tmp_path):
    names = [
        LIGHTX2V,
        LIGHTX2V.replace("14b_", "14b_int8_"),
        LIGHTX2V.replace("14b_", "14b_scaled_fp8_e4m3_"),
    ]
    for name in names:
        shutil.copy(wan21.transformer_file, folder / name)
    text = refused(folder, tmp_path / "out")
    assert [args.transformer for args in options_in(text)] == sorted(folder / name for name in names)
    (problem,) = inspect_path(folder).problems
    assert problem == text
    run(folder, tmp_path / "out", transformer=options_in(text)[0].transformer)


def test_a_config_of_another_model_beside_a_transformer_is_refused(wan21, folder, tmp_path):
    shutil.copy(wan21.transformer_file, folder / "wan.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dim": 5120, "num_heads": 40}))
    assert "5120" in refused(folder, tmp_path / "out")


def test_a_folder_without_any_transformer_still_says_what_is_expected(folder, tmp_path):
    assert "transformer (--transformer FILE)" in refused(folder, tmp_path / "out")
    for file in folder.glob("*.pth"):
        file.unlink()
    assert "no transformer found, expected diffusion_pytorch_model.safetensors" in refused(
        folder, tmp_path / "out"
    )


@pytest.fixture
def experts(wan21, folder, tmp_path):
    """Both experts in folders of their own, one file each; and what is expected of them."""
    usual = shutil.copytree(folder, tmp_path / "usual")
    for index, name in enumerate(EXPERTS):
        arrays = {key: values + index for key, values in wan21.transformer.items()}
        stage = name.removesuffix("_model")
        write_plain(folder / name / f"wan2.2_t2v_A14b_{stage}_lightx2v_4step.safetensors", arrays)
        write_plain(usual / name / "diffusion_pytorch_model.safetensors", arrays)
        shutil.copy(wan21.path / "config.json", usual / name)
    run(usual, tmp_path / "expected")
    return folder


@pytest.mark.parametrize("rename", [None, "model.safetensors", "dit.gguf"])
def test_folders_of_two_experts_with_one_file_each_are_found(wan21, experts, tmp_path, rename):
    """With config.json above the folders, beside the files, or nowhere."""
    for index, name in enumerate(EXPERTS):
        (file,) = (experts / name).iterdir()
        if rename == "dit.gguf":
            file.unlink()
            write_gguf_transformer(
                experts / name / rename, {k: v + index for k, v in wan21.transformer.items()}
            )
        elif rename:
            file.rename(file.with_name(rename))
            shutil.copy(experts / "config.json", experts / name)
    if rename == "model.safetensors":
        (experts / "config.json").unlink()
    assert inspect_path(experts).problems == ()
    notices = run(experts, tmp_path / "out")
    low, high = ((experts / name) for name in EXPERTS)
    if rename:
        assert "Experts: low_noise from low_noise_model/, high_noise from high_noise_model/." in notices
    else:
        told = f"low_noise from {next(low.iterdir()).name}, high_noise from {next(high.iterdir()).name}."
        assert f"Experts: {told}" in notices
    if rename != "dit.gguf":
        made, expected = contents(tmp_path / "out"), contents(tmp_path / "expected")
        for name in ("low_noise_model.safetensors", "high_noise_model.safetensors"):
            assert made[name] == expected[name]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_heads"] == 2


def test_split_experts_are_named_by_their_folders(wan21, experts, tmp_path):
    for index, name in enumerate(EXPERTS):
        next((experts / name).iterdir()).unlink()
        write_split(experts / name, {key: values + index for key, values in wan21.transformer.items()})
        shutil.copy(experts / "config.json", experts / name)
    notices = run(experts, tmp_path / "out")
    assert "Experts: low_noise from low_noise_model/, high_noise from high_noise_model/." in notices


def test_of_several_precisions_of_two_experts_pairs_are_proposed(experts, tmp_path):
    for name in EXPERTS:
        (file,) = (experts / name).iterdir()
        shutil.copy(file, file.with_name(file.name.replace("_noise_", "_noise_int8_")))
    text = refused(experts, tmp_path / "out")
    pairs = options_in(text)
    assert len(pairs) == 2
    for args in pairs:
        assert args.high_noise.name == args.low_noise.name.replace("low_noise", "high_noise")
    run(experts, tmp_path / "out", high_noise=pairs[0].high_noise, low_noise=pairs[0].low_noise)
    text = refused(experts, tmp_path / "half", high_noise=pairs[0].high_noise)
    assert [args.low_noise for args in options_in(text)] == sorted((experts / EXPERTS[0]).iterdir())
    assert [args.high_noise for args in options_in(text)] == [None, None]


def test_one_expert_may_be_absent_where_an_option_gives_it(experts, tmp_path):
    moved = next((experts / EXPERTS[0]).iterdir()).rename(tmp_path / "moved.safetensors")
    text = refused(experts, tmp_path / "out")
    assert "low-noise transformer (--low-noise FILE)" in text
    run(experts, tmp_path / "out", low_noise=moved)
    for name in ("low_noise_model.safetensors", "high_noise_model.safetensors"):
        assert contents(tmp_path / "out")[name] == contents(tmp_path / "expected")[name]


@pytest.fixture
def distilled(wan21, tmp_path):
    """The root of a StepDistill repository."""
    root = tmp_path / "Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v"
    whole = shutil.copytree(wan21.path, root / "distill_models")
    (whole / wan21.transformer_file.name).rename(whole / "distill_model.safetensors")
    (whole / "google").rename(root / "google")
    write_split(root / "distill_fp8", wan21.transformer)
    shutil.copy(wan21.path / "config.json", root / "distill_fp8")
    (root / "loras").mkdir()
    write_adapter(root / "loras" / "rank64.safetensors", TINY.transformer)
    return root


@pytest.mark.parametrize("has_config", [True, False])
@pytest.mark.parametrize("has_parts", [True, False])
def test_the_root_of_a_repository_of_several_copies_says_how_to_name_one(
    wan21, distilled, tmp_path, has_config, has_parts
):
    if has_config:
        shutil.copy(wan21.path / "config.json", distilled)
    if has_parts:
        for file in (wan21.text_encoder_file, wan21.vae_file):
            shutil.copy(file, distilled)
    text = refused(distilled, tmp_path / "out")
    assert "no transformer lies here, but in its folders." in text
    split, whole = options_in(text)
    assert (split.checkpoint_dir, split.transformer) == (distilled, distilled / "distill_fp8")
    assert (whole.checkpoint_dir, whole.transformer) == (distilled / "distill_models", None)
    assert whole.tokenizer == distilled / "google" / "umt5-xxl"
    assert text in "\n".join((*inspect_path(distilled).missing, *inspect_path(distilled).problems))
    run(whole.checkpoint_dir, tmp_path / "out", tokenizer=whole.tokenizer)
    if has_parts:
        run(split.checkpoint_dir, tmp_path / "from split", transformer=split.transformer)
        name = "model.safetensors"
        assert contents(tmp_path / "from split")[name] == contents(tmp_path / "out")[name]


# QuantStack's folders.


@pytest.fixture
def quantstack(wan21, tmp_path):
    root = tmp_path / "Wan2.2-T2V-A14B-GGUF"
    for index, stage in enumerate(("LowNoise", "HighNoise")):
        arrays = {key: values + index for key, values in wan21.transformer.items()}
        write_gguf_transformer(root / stage / f"Wan2.2-T2V-A14B-{stage}-Q8_0.gguf", arrays)
    write_plain(root / "VAE" / "Wan2.1_VAE.safetensors", wan21.vae)
    (root / "README.md").write_text("A model card.\n")
    return root


def test_a_folder_of_gguf_experts_and_a_vae_is_read(wan21, quantstack, tmp_path):
    text = refused(quantstack, tmp_path / "out")
    assert text.endswith("not found: text encoder (--text-encoder FILE). Add the options, or the files.")
    options = {
        "text_encoder": wan21.text_encoder_file,
        "tokenizer": wan21.path / "google" / "umt5-xxl",
    }
    notices = run(quantstack, tmp_path / "out", **options)
    assert any(
        text.startswith("Experts: low_noise from Wan2.2-T2V-A14B-LowNoise-Q8_0.gguf") for text in notices
    )
    made = convert_checkpoint(quantstack, tmp_path / "python", dtype="float32", **options)
    assert_same(made, tmp_path / "out")


def test_of_several_quantizations_the_user_is_asked_which_with_both_options(wan21, quantstack, tmp_path):
    for stage in ("LowNoise", "HighNoise"):
        (file,) = (quantstack / stage).iterdir()
        for kind in ("Q4_K_M", "Q5_K_S"):
            shutil.copy(file, file.with_name(file.name.replace("Q8_0", kind)))
    text = refused(quantstack, tmp_path / "out", text_encoder=wan21.text_encoder_file)
    pairs = options_in(text)
    assert [args.high_noise.stem.rpartition("-")[2] for args in pairs] == ["Q4_K_M", "Q5_K_S", "Q8_0"]
    assert all(args.low_noise.stem[-4:] == args.high_noise.stem[-4:] for args in pairs)
    assert text in inspect_path(quantstack).problems
    run(
        quantstack, tmp_path / "out", high_noise=pairs[2].high_noise, low_noise=pairs[2].low_noise,
        text_encoder=wan21.text_encoder_file, tokenizer=wan21.path / "google" / "umt5-xxl",
    )  # fmt: skip


def test_a_long_list_of_quantizations_is_cut(wan21, quantstack, tmp_path):
    for stage in ("LowNoise", "HighNoise"):
        (file,) = (quantstack / stage).iterdir()
        for number in range(12):
            shutil.copy(file, file.with_name(file.name.replace("Q8_0", f"Q{number}_K")))
    text = refused(quantstack, tmp_path / "out", text_encoder=wan21.text_encoder_file)
    assert len(options_in(text)) == 8
    assert text.endswith("(5 more)")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "names",
    [
        ("wan22RemixT2VI2V_i2vHighV30", "wan22RemixT2VI2V_i2vLowV30"),
        ("wan22RemixI2VGGUFV30_highQ6K", "wan22RemixI2VGGUFV30_lowQ6K"),
        ("smoothMixWan22I2VT2V_i2vHigh", "smoothMixWan22I2VT2V_i2vLow"),
        ("wan22_high_noise_v2", "wan22-LN-v3"),
        ("wan22-HN-v2", "wan22_lownoise_v2"),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_two_files_whose_names_hint_at_a_pair_are_proposed_as_one(wan21, folder, tmp_path, names, ending):
    for index, name in enumerate(names):
        arrays = {key: values + index for key, values in wan21.transformer.items()}
        write = write_gguf_transformer if ending == ".gguf" else write_plain
        write(folder / f"{name}{ending}", arrays)
    write_adapter(folder / "style_HIGH.safetensors", TINY.transformer)
    text = refused(folder, tmp_path / "out")
    (pair,) = options_in(text)
    assert [path.stem for path in (pair.high_noise, pair.low_noise)] == list(names)
    assert inspect_path(folder).problems == (text,)
    run(folder, tmp_path / "out", high_noise=pair.high_noise, low_noise=pair.low_noise)
