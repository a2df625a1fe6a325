"""An option is declared once: commands, Python, checks, records and tables say what the declaration says."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from mlx_video import RequestError, WanPipeline, convert_checkpoint
from mlx_video.cli import check_device, convert, generate
from mlx_video.cli.arguments import build_parser, request_from
from mlx_video.config import ModelConfig, SamplingDefaults, TransformerConfig
from mlx_video.request import (
    COMPONENT_FIELDS,
    IMAGE_INPUTS,
    INPUTS,
    LORA_FIELDS,
    PICTURE_INPUTS,
    VIDEO_INPUTS,
    ConvertRequest,
    GenerateRequest,
    LoraChoice,
    ModelRequest,
    Option,
    flag_of,
    make_request,
    option,
    options_of,
)
from mlx_video.request import kinds as k
from mlx_video.request.choices import (
    GuidanceSkipMode,
    NoiseLevelsName,
    RecipeName,
    SchedulerName,
    StepCacheName,
)
from mlx_video.request.describe import documented, name_fields, python_help, takes_options
from mlx_video.request.many import ManyOptions
from mlx_video.request.option import between
from mlx_video.request.table import option_table
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.record import describe_run
from mlx_video.runs.settings import plan_run
from mlx_video.runs.state.identity import identify_run
from mlx_video.sampling.guidance_forms.limited_steps import SKIP_MODES
from mlx_video.sampling.noise_levels.table import SPACINGS
from mlx_video.sampling.recipes.table import RECIPES
from mlx_video.sampling.solvers.table import SOLVERS
from mlx_video.sampling.step_caches.table import STEP_CACHES
from mlx_video.variants.registry import find_variant
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

COMMANDS = {"generate": generate, "convert": convert, "check_device": check_device}
REQUESTS = (GenerateRequest, ConvertRequest, ModelRequest, ManyOptions)
FUNCTIONS = [
    (WanPipeline.__call__, GenerateRequest),
    (WanPipeline.plan, GenerateRequest),
    (WanPipeline.stream, GenerateRequest),
    (WanPipeline.from_pretrained, ModelRequest),
    (convert_checkpoint, ConvertRequest),
]
# Words behind a flag, what a caller in Python writes for the same, and what a request holds.
VALUES: dict[k.Kind, tuple[list[str], Any, Any]] = {
    k.TEXT: (["dogs"], "dogs", "dogs"),
    k.WHOLE: (["1"], 1, 1),
    k.NUMBER: (["0.25"], 0.25, 0.25),
    k.SCALES: (["2,3"], (2.0, 3.0), (2.0, 3.0)),
    k.NUMBERS: (["1,0.5"], [1.0, 0.5], (1.0, 0.5)),
    k.WHOLE_NUMBERS: (["1,0"], [1, 0], (1, 0)),
    k.FILE: (["a.png"], "a.png", Path("a.png")),
    k.RESULT: (["a.png"], "a.png", Path("a.png")),
    k.UPLOADED: (["a.png"], "a.png", Path("a.png")),
    k.PATH_OR_REPOSITORY: (["./owner/name"], "./owner/name", Path.cwd() / "owner" / "name"),
    k.IMAGE: (["a.png"], "a.png", Path("a.png")),
    k.VIDEO: (["a.mp4"], "a.mp4", Path("a.mp4")),
    k.PICTURES: (["a.png"], ["a.png"], (Path("a.png"),)),
    k.LAYER_SCALES: (["1,0.5"], [1.0, 0.5], (1.0, 0.5)),
    k.PREVIEW: (["a.png"], "a.png", Path("a.png")),
    k.ADAPTERS: (["a", "0.5"], [("a", 0.5)], (LoraChoice(Path("a"), 0.5),)),
}
# The same for options that take nothing below 1.
LARGE_VALUES = {"teacache_speedup": (["2.5"], 2.5, 2.5)}
# What an option needs beside it.
COMPANIONS = {
    "cfg_skip": {"cfg_ratio": 0.5},
    "cfg_ratio": {"cfg_skip": "late"},
    "target_index": {"control_image": ["a.png"], "control_index": [0]},
    "control_image": {"target_index": 1, "control_index": [0]},
    "control_index": {"target_index": 1, "control_image": ["a.png"]},
    "inpaint_video": {"inpaint_video_mask": "mask.mp4"},
    "inpaint_video_mask": {"inpaint_video": "video.mp4"},
    "animate_inpaint_video": {"animate_mask_video": "mask.mp4"},
    "animate_mask_video": {"animate_inpaint_video": "video.mp4"},
}
CAMERA = [
    "camera_control_direction", "camera_trajectory", "camera_control_speed", "camera_control_origin",
]  # fmt: skip
DECLARED = [
    pytest.param(command, declared, id=f"{name}-{declared.name}")
    for name, command in COMMANDS.items()
    for one in command.OPTIONS
    for declared in options_of(one).values()
]


def sample_of(declared: Option) -> tuple[list[str], Any, Any]:
    """A value that is not the default: on the command line, in Python, in a request."""
    if declared.is_switch:
        return [], not declared.default, not declared.default
    if declared.choices:
        value = next(choice for choice in declared.choices if choice != declared.default)
        return [str(value)], value, value
    words, given, value = LARGE_VALUES.get(declared.name) or VALUES[declared.kind]
    if declared.kind is k.WHOLE and value == declared.default:
        return [str(value + 1)], value + 1, value + 1
    return words, given, value


@pytest.mark.parametrize(("command", "declared"), DECLARED)
def test_a_command_takes_each_option_as_declared(command: Any, declared: Option):
    parser = command.build_parser()
    action = parser._option_string_actions[declared.flag]
    assert action.help == f"{declared.flag_help} (default: {declared.flag_default})".replace("`", "")
    if declared.name == "version":
        return
    assert getattr(parser.parse_args([]), declared.name) == declared.command_value
    assert tuple(action.choices or ()) == declared.choices
    words, _, value = sample_of(declared)
    parsed = getattr(parser.parse_args([declared.flag, *words]), declared.name)
    assert (declared.settle(parsed), type(parsed)) == (value, type(value))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_takes_nothing_that_is_not_declared(command: Any):
    declared = [each for one in command.OPTIONS for each in options_of(one).values()]
    flags = {each.flag for each in declared} | {each.off_flag for each in declared if each.off_help}
    taken = {flag for action in command.build_parser()._actions for flag in action.option_strings}
    assert taken == flags | {"-h", "--help"}


@pytest.mark.parametrize("request_type", REQUESTS)
def test_every_field_of_a_request_is_an_option(request_type: type):
    assert [field.name for field in fields(request_type)] == list(options_of(request_type))
    assert all(each.help for each in options_of(request_type).values())
    assert all(python_help(each) in unwrapped(request_type) for each in options_of(request_type).values())


def unwrapped(documented_object: object) -> str:
    return " ".join((documented_object.__doc__ or "").split())


@pytest.mark.parametrize(("function", "request_type"), FUNCTIONS)
def test_a_signature_shows_each_option_with_type_and_default(function: Callable, request_type: type):
    parameters = inspect.signature(function).parameters
    assert set(options_of(request_type)) <= set(parameters)
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for name, declared in options_of(request_type).items():
        assert parameters[name].annotation is not inspect.Parameter.empty
        if not declared.is_required:
            assert str(parameters[name].default) == str(declared.default), name
        assert f"{name}: {python_help(declared)}" in unwrapped(function)


def test_types_in_a_signature_are_those_that_callers_may_write():
    parameters = inspect.signature(WanPipeline.__call__).parameters
    assert parameters["width"].annotation == int | None
    assert parameters["compile"].annotation is bool
    assert parameters["output_path"].annotation == str | Path | None
    assert parameters["scheduler"].annotation == SchedulerName | None
    assert parameters["image"].annotation == "str | Path | PIL.Image.Image | numpy.ndarray | None"


def test_a_pipeline_itself_shows_its_options():
    assert {"prompt", "steps", "loras"} <= set(inspect.signature(WanPipeline(None, None)).parameters)


def test_decoding_shows_what_counts_for_it_alone():
    taken = set(inspect.signature(WanPipeline.decode).parameters) - {"self", "file", "on_event"}
    assert {"output_path", "save_frames", "trim_first_frames", "memory_limit", "tiling"} <= taken
    assert not {"steps", "seed", "resume", "save_latents", "decode_only"} & taken


@pytest.mark.parametrize("request_type", REQUESTS)
def test_each_option_is_read_from_python_as_from_the_command_line(request_type: type):
    for declared in options_of(request_type).values():
        _, written, value = sample_of(declared)
        assert declared.settle(declared.read(written)) == value, declared.name
        declared.refuse_wrong(declared.read(written))


@pytest.mark.parametrize("request_type", REQUESTS)
def test_each_option_refuses_what_is_something_else(request_type: type):
    required = {"checkpoint_dir": Path("in")} if request_type is ConvertRequest else {}
    required |= {"prompt": "a cat"} if request_type is GenerateRequest else {}
    for name in options_of(request_type):
        with pytest.raises(RequestError) as caught:
            request_type(**required | {name: object()})
        assert caught.value.field == name


@pytest.mark.parametrize("value", [True, False, 1, 0, np.True_])
def test_a_switch_is_a_truth_value(value: object):
    assert GenerateRequest("a cat", compile=value).compile == bool(value)


@pytest.mark.parametrize("value", ["no", 2, None, np.ones(2)])
def test_anything_else_is_no_switch(value: object):
    with pytest.raises(RequestError, match="must be True or False"):
        GenerateRequest("a cat", compile=value)


def test_inputs_adapters_and_components_follow_from_the_declarations():
    kinds = {"prompt": "text", "image": "image", "end_image": "image", "input_video": "video"}
    kinds |= {"control_video": "video", "reference_image": "image"}
    kinds |= {"inpaint_video": "video", "inpaint_video_mask": "mask"}
    kinds |= {"vace_video": "video", "vace_video_mask": "mask", "vace_reference_image": "pictures"}
    kinds |= dict.fromkeys(CAMERA, "camera")
    kinds |= dict.fromkeys(("motion_bucket_id", "target_index", "control_index"), "number")
    kinds |= {"control_image": "pictures"}
    kinds |= dict.fromkeys(("animate_pose_video", "animate_face_video", "animate_inpaint_video"), "video")
    kinds |= {"animate_mask_video": "mask"}
    kinds |= {"input_audio": "audio", "audio_embeds": "audio"}
    kinds |= {"s2v_pose_video": "footage", "motion_video": "footage"}
    kinds |= {"vap_video": "whole video", "vap_prompt": "text", "negative_vap_prompt": "text"}
    kinds |= {"longcat_video": "tail", "longcat_refine": "all frames"}
    kinds |= {"bernini_video": "footage", "bernini_reference_image": "pictures"}
    assert dict(INPUTS) == kinds
    assert IMAGE_INPUTS == ("image", "end_image", "reference_image")
    assert PICTURE_INPUTS == ("vace_reference_image", "control_image", "bernini_reference_image")
    assert set(VIDEO_INPUTS) == {
        name
        for name, kind in kinds.items()
        if kind in ("video", "whole video", "all frames", "footage", "tail", "mask")
    }
    assert LORA_FIELDS == ("loras", "loras_high", "loras_low")
    assert set(COMPONENT_FIELDS) == {
        "transformer", "high_noise", "low_noise", "text_encoder", "vae", "clip", "motion_controller",
        "audio_encoder", "tiny_vae", "tokenizer",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("num_frames", "--num-frames"),
        ("loras_high", "--lora-high"),
        ("folder", "--model-dir"),
        ("prompt_cache", "--no-prompt-cache"),
        ("inspect", "--inspect"),
    ],
)
def test_a_message_names_an_option_by_its_flag(name: str, flag: str):
    assert flag_of(name) == flag


CONFIG = ModelConfig(
    "wan2.1-t2v",
    "2.1",
    TransformerConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=2),
    sampling=SamplingDefaults(steps=7, num_frames=9, width=48, height=32),
)


def settings_of(request: GenerateRequest) -> dict[str, str]:
    plan = plan_run(GenerateRequest(request.prompt), CONFIG, find_variant(CONFIG))
    return describe_run(request, replace(plan, boundary=0.9), "a model")


def test_a_run_records_what_decides_latents_or_video_and_nothing_else():
    options = options_of(GenerateRequest)
    for name, declared in options.items():
        given = {"output_path": "a.mp4", "image": "a.png", name: sample_of(declared)[1]}
        needed = {other: sample_of(options[other])[1] for other in declared.only_with[:1]}
        needed |= COMPANIONS.get(name, {})
        request = make_request(GenerateRequest, {"prompt": "a cat"} | needed | given)
        assert (name in settings_of(request)) is (declared.affects != "run"), name


def test_what_has_no_effect_is_not_recorded():
    settings = settings_of(GenerateRequest("a cat", lora_mode="side"))
    assert not {"lora_mode", "loras", "image"} & set(settings)


@documented
@dataclass(frozen=True, slots=True)
class GrainRequest(GenerateRequest):
    """A video with one option more than there is, declared here alone."""

    grain: float = option(
        0.0, help="strength of `film` grain, beside --steps", group="sampling", check=between(0, 1)
    )
    grain_file: k.ReadPath | None = option(None, help="its picture", affects="run", input="video")


@takes_options(GrainRequest)
def make_grainy(prompt: str, **options: Any) -> GrainRequest:
    """Make a request.

    Args:
        **options: listed here in its place.
    """
    return make_request(GrainRequest, {"prompt": prompt, **options})


def parse_grainy(*words: str) -> GrainRequest:
    parser = build_parser("grainy", None, (GrainRequest,))
    return request_from(GrainRequest, parser.parse_args(["--prompt", "a cat", *words]))


def test_a_new_option_reaches_the_command_line(capsys: pytest.CaptureFixture[str]):
    assert parse_grainy().grain == 0.0
    assert parse_grainy("--grain", "0.5", "--grain-file", "a.png").grain == 0.5
    with pytest.raises(SystemExit):
        parse_grainy("--grain", "much")
    assert "argument --grain: 'much' is no number, such as 0.5" in capsys.readouterr().err
    help_text = " ".join(build_parser("grainy", None, (GrainRequest,)).format_help().split())
    assert "--grain GRAIN strength of film grain, beside --steps (default: 0.0)" in help_text


def test_a_new_option_reaches_python():
    parameter = inspect.signature(make_grainy).parameters["grain"]
    assert (parameter.default, parameter.annotation) == (0.0, float)
    assert "    grain: strength of `film` grain, beside `steps`; default 0.0.\n" in make_grainy.__doc__
    assert "grain: strength of `film` grain, beside `steps`; default 0.0." in GrainRequest.__doc__
    assert make_grainy("a cat", grain=0.25, grain_file="~/a.png").grain_file == Path.home() / "a.png"


@pytest.mark.parametrize(
    ("value", "text"), [(2, "2: must be between 0 and 1"), ("1", "'1': must be a number")]
)
def test_a_new_option_is_checked(value: object, text: str):
    with pytest.raises(RequestError, match=text) as caught:
        make_grainy("a cat", grain=value)
    assert caught.value.field == "grain"


def test_a_new_option_stands_in_the_tables():
    row = "| `--grain` | 0.0 | strength of `film` grain, beside `--steps` |\n"
    assert row in option_table(GrainRequest)
    assert row in option_table(GrainRequest, group="sampling")
    assert row not in option_table(GrainRequest, group="memory")


def test_a_new_option_is_recorded_and_decides_whose_state_a_run_goes_on_from(tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "original").path
    pipeline = WanPipeline.from_pretrained(convert_checkpoint(checkpoint, tmp_path / "m", dtype="float32"))
    options = {"width": 16, "height": 16, "num_frames": 5, "steps": 1, "seed": 1, "device_check": False}

    def identity(**more: Any) -> tuple[dict[str, str], dict[str, str]]:
        request = make_grainy("a cat", **options, **more)
        run = prepare_run(request, pipeline.folder, pipeline.config)
        return run.settings(), identify_run(run)

    (plain, plain_identity), (grainy, grainy_identity) = identity(), identity(grain=0.5)
    assert (plain["grain"], grainy["grain"]) == ("0.0", "0.5")
    assert (plain_identity["--grain"], grainy_identity["--grain"]) == ("0.0", "0.5")
    assert plain_identity == grainy_identity | {"--grain": "0.0"}
    picture = tmp_path / "grain.png"
    assert identity(grain_file=picture) == (plain, plain_identity)
    picture.write_bytes(b"x")
    with pytest.raises(RequestError, match="the run reads this file \\(--grain-file"):
        identity(grain_file=picture, output_path=picture)


def test_namespaces_hold_no_more_than_options():
    args = generate.build_parser().parse_args([])
    known = {name for one in generate.OPTIONS for name in options_of(one)} - {"version"}
    assert isinstance(args, argparse.Namespace)
    assert set(vars(args)) == known | {"given"}


@pytest.mark.parametrize(
    ("choices", "table"),
    [
        (SchedulerName, SOLVERS),
        (RecipeName, RECIPES),
        (NoiseLevelsName, SPACINGS),
        (GuidanceSkipMode, SKIP_MODES),
        (StepCacheName, ("off", *STEP_CACHES)),
    ],
)
def test_choices_are_what_the_tables_of_sampling_hold(choices: Any, table: Any):
    assert get_args(choices) == tuple(table)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cfg_skip": "late"}, "cfg_skip: needs --cfg-ratio beside it"),
        ({"cfg_ratio": 0.5}, "cfg_ratio: needs --cfg-skip beside it"),
        ({"cfg_start": 0.5, "cfg_end": 0.5}, "cfg_start: 0.5: lies behind the end, 0.5"),
        ({"sigmas": "1,0.5"}, "sigmas: '1,0.5': must be numbers, several with commas between them"),
    ],
)
def test_options_of_sampling_that_do_not_go_together_are_refused(given: dict[str, Any], text: str):
    with pytest.raises(RequestError, match=text):
        make_request(GenerateRequest, {"prompt": "a cat"} | given)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("off", None),
        (False, None),
        (True, True),
        ("terminal", "terminal"),
        ("~/a.png", Path.home() / "a.png"),
    ],
)
def test_previews_are_asked_for_by_a_file_a_word_or_a_truth_value(written: object, value: object):
    assert make_request(GenerateRequest, {"prompt": "a cat", "preview": written}).preview == value
    if isinstance(written, str):
        parsed = COMMANDS["generate"].build_parser().parse_args(["--preview", written])
        assert parsed.preview == value


def test_what_stands_on_the_command_line_is_told_from_defaults():
    parse = generate.build_parser().parse_args
    assert parse([]).given == frozenset()
    args = parse(
        ["--scheduler", "unipc", "--lora", "a", "--lora", "b", "0.5", "--no-prompt-cache", "--prompt", ""]
    )
    assert args.given == {"scheduler", "loras", "prompt_cache", "prompt"}
    assert [choice.strength for choice in args.loras] == [1.0, 0.5]
    assert (args.prompt_cache, args.compile, args.steps) == (False, True, None)


@pytest.mark.parametrize(("function", "request_type"), FUNCTIONS)
def test_help_says_what_counts_where_an_option_is_left_out(function: Callable, request_type: type):
    shown = unwrapped(function)
    for name, declared in options_of(request_type).items():
        if declared.default is None:
            assert python_help(declared).endswith(
                ("default None.", f"None for {name_fields(declared.default_text)}.")
            )
        elif not declared.is_required and declared.default != ():
            default = declared.default
            words = repr(str(default) if isinstance(default, Path) else default)
            assert python_help(declared).endswith(f"; default {words}.")
            assert f"default {words}." in shown, name
