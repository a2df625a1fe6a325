"""Of a repository on the Hub only what a model needs is chosen."""

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.hub.files import choose_files

TOKENIZER = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
T5 = "models_t5_umt5-xxl-enc-bf16.pth"
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
STEM = "diffusion_pytorch_model"
PRESENTATION = ("README.md", "LICENSE.txt", ".gitattributes", "assets/logo.png", "examples/i2v_input.JPG")


def shards(folder, count, stem=STEM, variant=""):
    return [f"{folder}{stem}{variant}-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]


def choose(names, jsons=None, use="convert", given=()):
    contents = jsons or {}
    return choose_files("owner/name", names, lambda name: contents.get(name, {}), use=use, given=given)


def original_names():
    return [
        f"{STEM}.safetensors",
        "config.json",
        T5,
        "Wan2.1_VAE.pth",
        *(f"google/umt5-xxl/{n}" for n in TOKENIZER),
    ]


def test_an_original_repository_gives_weights_config_and_tokenizer_but_no_pictures():
    names = original_names()
    extra = [*PRESENTATION, "xlm-roberta-large/tokenizer.json", "configuration.json", "lora.safetensors"]
    assert choose([*names, *extra]) == sorted(names)


def test_both_experts_are_chosen_with_the_shards_that_their_indexes_name():
    experts, indexes = [], {}
    for folder in ("high_noise_model/", "low_noise_model/"):
        index = f"{folder}{STEM}.safetensors.index.json"
        files = shards(folder, 6)
        indexes[index] = {"weight_map": {f"t{n}": name.split("/")[1] for n, name in enumerate(files)}}
        experts += [index, f"{folder}config.json", *files]
    shared = [T5, "Wan2.1_VAE.pth", *(f"google/umt5-xxl/{name}" for name in TOKENIZER)]
    stray = [f"high_noise_model/{STEM}-00001-of-00003.safetensors", "configuration.json", CLIP, *PRESENTATION]
    assert choose([*experts, *shared, *stray], indexes) == sorted([*experts, *shared])


@pytest.mark.parametrize(
    ("model_type", "is_chosen"), [("i2v", True), ("flf2v", True), ("t2v", False), ("ti2v", False)]
)
def test_the_image_encoder_is_for_models_that_read_images_through_it(model_type, is_chosen):
    chosen = choose([*original_names(), CLIP], {"config.json": {"model_type": model_type}})
    assert (CLIP in chosen) == is_chosen


def test_of_animate_nothing_is_chosen_that_only_prepares_its_inputs():
    names = [*original_names(), CLIP]
    flux = "process_checkpoint/FLUX.1-Kontext-dev"
    others = [
        "relighting_lora.ckpt", "process_checkpoint/det/yolov10m.onnx",
        "process_checkpoint/sam2/sam2_hiera_large.pt", f"{flux}/model_index.json",
        f"{flux}/transformer/{STEM}-00001-of-00003.safetensors", f"{flux}/vae/{STEM}.safetensors",
    ]  # fmt: skip
    config = {"_class_name": "WanAnimateModel", "in_dim": 36, "out_dim": 16}
    assert choose([*names, *others], {"config.json": config}) == sorted(names)


@pytest.mark.parametrize(("channels", "vae"), [(16, "Wan2.1_VAE.pth"), (48, "Wan2.2_VAE.pth")])
def test_of_two_vaes_the_one_with_the_transformers_channels_is_chosen(channels, vae):
    names = [*original_names(), "Wan2.2_VAE.pth"]
    chosen = choose(names, {"config.json": {"out_dim": channels}})
    assert [name for name in chosen if "VAE" in name] == [vae]


def diffusers_names():
    return [
        "model_index.json", "scheduler/scheduler_config.json", *(f"tokenizer/{name}" for name in TOKENIZER),
        "transformer/config.json", f"transformer/{STEM}.safetensors", "vae/config.json",
        f"vae/{STEM}.safetensors", "text_encoder/config.json", *shards("text_encoder/", 3, "model"),
    ]  # fmt: skip


def test_a_diffusers_repository_gives_no_copies_in_other_formats_or_precisions():
    copies = [
        f"transformer/{STEM}.fp16.safetensors", f"transformer/{STEM}.bin", "vae/model.msgpack",
        "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin", "text_encoder/model.onnx",
        "safety_checker/model.safetensors", "image_processor/preprocessor_config.json",
    ]  # fmt: skip
    assert choose([*diffusers_names(), *copies, *PRESENTATION]) == sorted(diffusers_names())


def test_a_variant_is_chosen_whole_where_there_is_no_plain_copy():
    names = [f"transformer/{STEM}.{v}.safetensors" for v in ("fp16", "bf16")]
    assert choose(["model_index.json", *names]) == ["model_index.json", names[1]]


def test_components_that_the_pipeline_lists_as_absent_are_not_chosen():
    names = [*diffusers_names(), "image_encoder/model.safetensors", "transformer_2/config.json"]
    index = {"image_encoder": [None, None], "transformer_2": [None, None], "vae": ["diffusers", "A"]}
    assert choose(names, {"model_index.json": index}) == sorted(diffusers_names())


@pytest.mark.parametrize(("given", "kept"), [("high_noise", "transformer_2"), ("low_noise", "transformer")])
def test_of_two_experts_in_diffusers_layout_the_one_is_chosen_that_the_user_lacks(given, kept):
    second = ["transformer_2/config.json", f"transformer_2/{STEM}.safetensors"]
    found = choose([*diffusers_names(), *second], given=[given])
    assert {name.split("/")[0] for name in found if name.startswith("transformer")} == {kept}


@pytest.mark.parametrize(
    ("given", "left_out"),
    [("text_encoder", T5), ("vae", "Wan2.1_VAE.pth"), ("tokenizer", "google/umt5-xxl/tokenizer.json")],
)
def test_components_that_the_user_has_elsewhere_are_left_out(given, left_out):
    assert left_out in choose(original_names())
    assert left_out not in choose(original_names(), given=[given])


def converted_names():
    return ["config.json", "model.safetensors", "t5_encoder.safetensors", "vae.safetensors", "tokenizer.json"]


def test_a_converted_folder_is_chosen_to_run_but_not_to_convert():
    names = [*converted_names(), "tokenizer/spiece.model"]
    assert choose([*names, *PRESENTATION, "demo.mp4"], use="run") == sorted(names)
    with pytest.raises(CheckpointError, match=r"owner/name: is already an MLX folder.*--quantize-only"):
        choose(names)


@pytest.mark.parametrize(
    ("given", "start"), [("text_encoder", "t5_encoder"), ("vae", "vae"), ("tokenizer", "tokenizer")]
)
def test_components_of_a_converted_folder_that_the_user_has_elsewhere_are_left_out(given, start):
    names = [*converted_names(), "vae_encoder.safetensors", "tokenizer/spiece.model"]
    kept = sorted(name for name in names if not name.startswith(start))
    assert len(kept) < len(names)
    assert choose(names, use="run", given=[given]) == kept


def test_of_a_converted_folder_no_more_than_a_run_opens_is_chosen():
    others = ["clip_vision_h.safetensors", "t5_encoder_q8.safetensors", "lora.safetensors", "stats.json"]
    assert choose([*converted_names(), *others], use="run") == sorted(converted_names())


@pytest.mark.parametrize("names", [original_names(), diffusers_names()])
def test_a_checkpoint_is_not_downloaded_to_run_it_unconverted(names):
    with pytest.raises(CheckpointError, match=r"is not converted\. Convert it first: .* owner/name"):
        choose(names, use="run")


def test_single_files_of_many_models_are_refused_by_number_and_name():
    names = [f"split_files/diffusion_models/wan{n}.safetensors" for n in range(5)]
    with pytest.raises(
        CheckpointError,
        match=r"5 single files \(.*wan0.* \.\.\.\).*--transformer owner/name/split_files/.*wan0",
    ):
        choose(names)


def test_a_repository_of_something_else_is_refused_before_anything_is_downloaded():
    with pytest.raises(
        CheckpointError, match=r"holds no Wan checkpoint .*model\.safetensors.*right repository"
    ):
        choose(["config.json", "model.safetensors"])


COMFY = [
    "split_files/clip_vision/clip_vision_h.safetensors",
    "split_files/diffusion_models/wan2.1_t2v.safetensors",
    "split_files/text_encoders/umt5_xxl.safetensors",
]


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (COMFY, "--transformer owner/name/split_files/diffusion_models/wan2.1_t2v.safetensors"),
        (["clip_vision/a.safetensors", "unet/b.safetensors"], "--transformer owner/name/unet/b.safetensors"),
        (["VAE/a.safetensors", "wan-Q8_0.gguf"], "--transformer owner/name/wan-Q8_0.gguf"),
        (["umt5-xxl-encoder-Q8_0.gguf"], "--text-encoder owner/name/umt5-xxl-encoder-Q8_0.gguf"),
        ([COMFY[0], COMFY[2]], "--text-encoder owner/name/split_files/text_encoders/umt5_xxl.safetensors"),
    ],
)
def test_the_example_for_single_files_is_one_that_the_option_takes(names, example):
    with pytest.raises(CheckpointError, match=rf"Name those of one model: {example}, and the others by"):
        choose(names)


def test_folders_of_comfyui_without_weights_are_no_models():
    names = ["text_encoders/put_text_encoders_here", "unet/put_here.txt"]
    with pytest.raises(CheckpointError, match=r"owner/name: holds no Wan checkpoint .*\(0 weight files\)"):
        choose(names)


def fastvideo_names():
    return [
        "mlx_dit.json", "mlx_dit.safetensors", "vae/config.json", f"vae/{STEM}.safetensors",
        "text_encoder/config.json", *shards("text_encoder/", 3, "model"),
        *(f"tokenizer/{name}" for name in TOKENIZER),
    ]  # fmt: skip


def test_of_a_fastvideo_repository_that_is_chosen_which_a_run_reads():
    averaged = ["ema/mlx_dit.json", "ema/mlx_dit.safetensors"]
    extra = [*PRESENTATION, *averaged, "model_index.json", "scheduler/scheduler_config.json"]
    names = fastvideo_names()
    assert choose([*names, *extra], use="run") == sorted(names)
    without = [name for name in names if not name.startswith(("vae/", "text_encoder/"))]
    assert choose([*names, *extra], use="run", given=("vae", "text_encoder")) == sorted(without)


def test_averaged_weights_alone_are_chosen_from_their_folder():
    names = [f"ema/{name}" if name.startswith("mlx_dit") else name for name in fastvideo_names()]
    assert choose([*names, *PRESENTATION], use="run") == sorted(names)


def test_a_fastvideo_repository_is_not_converted_but_run():
    with pytest.raises(CheckpointError, match=r"run as it is: .*generate_wan --model-dir owner/name"):
        choose(fastvideo_names())


KIJAI = [
    "Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors",
    "Wan2_1-T2V-14B_fp8_e4m3fn.safetensors",
    "Wan2_1-T2V-1_3B_bf16.safetensors",
    "Wan2_1-VACE_module_14B_bf16.safetensors",
    "Wan2_1-WanVideo_Uni3C_controlnet_fp16.safetensors",
    "Wan2_1_VAE_bf16.safetensors",
    "Wan21_CausVid_14B_T2V_lora_rank32.safetensors",
    "Lightx2v/lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors",
    "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors",
    "taew2_1.safetensors",
    "umt5-xxl-enc-bf16.safetensors",
]
KIJAI_PARTS = [
    f"  and --text-encoder owner/name/{KIJAI[10]}",
    f"  and --vae owner/name/{KIJAI[5]}",
    f"  and --clip owner/name/{KIJAI[8]}",
]
LIGHTX2V = [f"wan2.2_i2v_A14b_{e}_noise_int8_lightx2v_4step.safetensors" for e in ("high", "low")]
STEP_DISTILL = ["config.json", "distill_models/distill_model.safetensors", "loras/Wan21_I2V_lora.safetensors"]


@pytest.mark.parametrize("use", ["convert", "run"])
@pytest.mark.parametrize(
    ("names", "first", "others"),
    [
        (KIJAI, f"--transformer owner/name/{KIJAI[0]}", KIJAI_PARTS),
        (LIGHTX2V, f"--high-noise owner/name/{LIGHTX2V[0]} --low-noise owner/name/{LIGHTX2V[1]}", []),
        (STEP_DISTILL, f"--transformer owner/name/{STEP_DISTILL[1]}", []),
        (
            ["T2V/Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", "README.md"],
            "--transformer owner/name/T2V/Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors",
            [],
        ),
    ],
)
def test_a_repository_of_single_files_says_which_would_fit(names, first, others, use):
    with pytest.raises(CheckpointError) as caught:
        choose(names, use=use)
    text, *lines = str(caught.value).splitlines()
    assert f"Name those of one model: {first}, and the others by" in text
    assert [line for line in lines if line.startswith("  and")] == others


def test_a_repository_of_adapters_is_told_from_one_of_models():
    with pytest.raises(CheckpointError, match=r"They are adapters; .*--lora owner/name/a_lora\.safetensors$"):
        choose(["a_lora.safetensors", "b_lora.safetensors", "README.md"])


# Copies whose precision stands behind the number, as ModelScope has them of Wan2.2.

PLAIN_SHARDS = shards("", 3)
BF16_SHARDS = [name.replace(".safetensors", "-bf16.safetensors") for name in PLAIN_SHARDS]
INDEX = f"{STEM}.safetensors.index.json"


def test_files_of_other_names_in_an_index_are_not_chosen():
    names = [INDEX, "config.json", "a.safetensors"]
    assert choose(names, {INDEX: {"weight_map": {"t": "a.safetensors"}}}) == ["config.json", INDEX]


@pytest.mark.parametrize("folder", ["", "high_noise_model/", "transformer/"])
@pytest.mark.parametrize(
    ("present", "named", "chosen"),
    [
        (BF16_SHARDS, None, BF16_SHARDS),
        (BF16_SHARDS, BF16_SHARDS, BF16_SHARDS),
        (BF16_SHARDS, PLAIN_SHARDS, BF16_SHARDS),
        ([*BF16_SHARDS, *PLAIN_SHARDS], None, PLAIN_SHARDS),
        ([*BF16_SHARDS, *PLAIN_SHARDS], BF16_SHARDS, BF16_SHARDS),
        ([*BF16_SHARDS, *PLAIN_SHARDS[1:]], PLAIN_SHARDS, BF16_SHARDS),
        ([*BF16_SHARDS[1:], *PLAIN_SHARDS], BF16_SHARDS, PLAIN_SHARDS),
        ([*BF16_SHARDS[1:], *PLAIN_SHARDS[1:]], BF16_SHARDS, BF16_SHARDS[1:]),
    ],
)
def test_of_two_copies_the_one_is_chosen_that_a_folder_would_give(folder, present, named, chosen):
    names = [f"{folder}{name}" for name in present]
    index = {f"{folder}{INDEX}": {"weight_map": {f"t{n}": name for n, name in enumerate(named or [])}}}
    kept = list(index) if named else []
    found = choose([*names, *kept, "model_index.json"] if "transformer" in folder else [*names, *kept], index)
    expected = [*kept, *(f"{folder}{name}" for name in chosen)]
    assert [name for name in found if name != "model_index.json"] == sorted(expected)


# Repositories of single files: advice with the options filled in.


def refused(names, repository="owner/name", **options):
    with pytest.raises(CheckpointError) as caught:
        choose_files(repository, names, lambda name: {}, use="convert", **options)
    return str(caught.value)


def test_experts_in_folders_of_their_own_are_chosen_by_any_name():
    names = [
        "low_noise_model/wan2.2_i2v_A14b_low_noise_lightx2v_4step.safetensors",
        "high_noise_model/b.gguf",
    ]
    assert choose([*names, "config.json", T5, "README.md"]) == sorted([*names, T5])
    split = [f"low_noise_model/{name}" for name in ("block_0.safetensors", "non_block.safetensors")]
    assert choose([*split, "low_noise_model/config.json", names[1]]) == sorted(
        [*split, "low_noise_model/config.json", names[1]]
    )


def test_of_several_precisions_of_two_experts_pairs_are_proposed():
    names = [
        f"{stage}_noise_model/wan2.2_i2v_A14b_{stage}_noise{kind}_lightx2v_4step.safetensors"
        for stage in ("high", "low")
        for kind in ("", "_int8")
    ]
    text = refused(names)
    assert text.startswith("owner/name: its folders hold several transformers. Choose by such options:")
    assert f"  --high-noise owner/name/{names[0]} --low-noise owner/name/{names[2]}" in text.splitlines()
    assert f"  --high-noise owner/name/{names[1]} --low-noise owner/name/{names[3]}" in text.splitlines()
    # With both given elsewhere nothing of them is wanted.
    assert choose([*names, T5], given=["high_noise", "low_noise"]) == [T5]


@pytest.mark.parametrize(
    ("repository", "names", "options"),
    [
        (
            "QuantStack/Wan2.2-I2V-A14B-GGUF",
            [
                *(
                    f"{n}Noise/Wan2.2-I2V-A14B-{n}Noise-{q}.gguf"
                    for n in ("High", "Low")
                    for q in ("Q2_K", "Q8_0")
                ),
                "VAE/Wan2.1_VAE.safetensors",
            ],
            [
                "--high-noise {}/HighNoise/Wan2.2-I2V-A14B-HighNoise-Q2_K.gguf "
                "--low-noise {}/LowNoise/Wan2.2-I2V-A14B-LowNoise-Q2_K.gguf",
                "--high-noise {}/HighNoise/Wan2.2-I2V-A14B-HighNoise-Q8_0.gguf "
                "--low-noise {}/LowNoise/Wan2.2-I2V-A14B-LowNoise-Q8_0.gguf",
            ],
        ),
        (
            "lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v",
            [
                "config.json",
                *(f"distill_fp8/block_{n}.safetensors" for n in range(40)),
                "distill_fp8/clip-fp8.pth",
                "distill_fp8/non_block.safetensors",
                "distill_models/distill_model.safetensors",
                "distill_models/models_t5_umt5-xxl-enc-bf16.pth",
                "loras/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors",
            ],
            ["--transformer {}/distill_fp8", "--transformer {}/distill_models/distill_model.safetensors"],
        ),
        (
            "lightx2v/Wan2.2-Distill-Models",
            [
                "wan2.2_i2v_A14b_high_noise_int8_lightx2v_4step.safetensors",
                "wan2.2_i2v_A14b_low_noise_int8_lightx2v_4step.safetensors",
            ],
            [
                "--high-noise {}/wan2.2_i2v_A14b_high_noise_int8_lightx2v_4step.safetensors "
                "--low-noise {}/wan2.2_i2v_A14b_low_noise_int8_lightx2v_4step.safetensors"
            ],
        ),
        (
            "Kijai/WanVideo_comfy",
            [
                "Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors",
                "Wan2_1-T2V-1_3B_bf16.safetensors",
                "Wan2_1_VAE_bf16.safetensors",
                "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors",
                "umt5-xxl-enc-bf16.safetensors",
            ],
            [
                "--transformer {}/Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors",
                "--transformer {}/Wan2_1-T2V-1_3B_bf16.safetensors",
            ],
        ),
    ],
)
def test_repositories_of_single_files_are_answered_with_files_that_fit(repository, names, options):
    text = refused(names, repository)
    first, *others = (option.replace("{}", repository) for option in options)
    assert f"Name those of one model: {first}, and the others by --transformer" in text
    lines = [line for line in text.splitlines() if line.startswith("  or ")]
    assert lines == [f"  or {other}" for other in others]


def test_a_file_whose_name_has_a_space_is_quoted_for_the_shell():
    text = refused(["diffusion_models/wan i2v.safetensors"])
    assert "--transformer 'owner/name/diffusion_models/wan i2v.safetensors'" in text
