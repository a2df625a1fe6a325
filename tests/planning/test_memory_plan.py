"""What is chosen for each published model on machines of every size, and how a run keeps to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.api import WanPipeline, convert_checkpoint
from mlx_video.conditioning.text import load_tokenizer, number_prompt
from mlx_video.config import QuantizationConfig, TransformerConfig
from mlx_video.errors import MemoryBudgetError, RequestError
from mlx_video.events import FramesDecoded, MemoryPlanned, Notice, StageFinished, StepFinished
from mlx_video.generate_wan import main
from mlx_video.geometry import measure
from mlx_video.loading.components import open_model
from mlx_video.models.dispatch import CPU_LIMITS, current_limits
from mlx_video.models.elementwise import is_compile_enabled
from mlx_video.models.transformer_memory import ForwardSize, forward_peak
from mlx_video.planning.best_plan import plan_memory
from mlx_video.planning.budget import GB, Machine, find_budget
from mlx_video.planning.fitting import fit_memory
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.planning.memory_task import Host, MemoryTask
from mlx_video.planning.step_plans import forward_size, weigh_transformers
from mlx_video.request import GenerateRequest
from mlx_video.runs import memory as run_memory
from mlx_video.runs.generate import generate, prepare_run, settle_run
from tests.fixtures.published_models import cpu, mac, published_model, task
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow


def test_bits_are_those_of_the_config_where_shapes_do_not_tell():
    run = task("wan2.1-t2v-1.3b", bits=4)
    (weights,) = weigh_transformers(run).values()
    assert weights.bits == 4
    # 8 bits in groups of 32 are packed into as many words for a group's scale as 4 bits in groups of 64.
    config = replace(run.sizes.config, quantization=QuantizationConfig(bits=8, group_size=32))
    (weights,) = weigh_transformers(replace(run, sizes=replace(run.sizes, config=config))).values()
    assert weights.bits == 8


MACS = (8, 16, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
TINY = {"width": 32, "height": 32, "num_frames": 5, "steps": 2, "seed": 1, "prompt_cache": False}


def stage(plan: MemoryPlan, name: str):
    return next(stage for stage in plan.stages if stage.name == name)


@pytest.mark.parametrize(
    ("name", "bits", "memory_gb"),
    [
        ("wan2.1-t2v-1.3b", None, 8),
        ("wan2.1-t2v-14b", None, 64),
        ("wan2.1-t2v-14b", 8, 36),
        ("wan2.1-t2v-14b", 4, 24),
        ("wan2.2-t2v-a14b", None, 64),
        ("wan2.2-ti2v-5b", None, 24),
    ],
)
def test_a_model_that_fits_stays_in_memory(name: str, bits: int | None, memory_gb: int):
    size = (832, 448) if "ti2v" in name else (832, 480)
    plan = fit_memory(task(name, *size, bits=bits), mac(memory_gb))
    assert plan.choices.resident_blocks is None
    assert stage(plan, "denoise").read_bytes == 0


@pytest.mark.parametrize("name", ["wan2.1-t2v-14b", "wan2.1-i2v-14b", "wan2.2-t2v-a14b"])
def test_14b_in_bf16_streams_on_16_gb(name: str):
    plan = fit_memory(task(name), mac(16))
    streamed = stage(plan, "denoise")
    assert plan.choices.resident_blocks is not None
    # The whole transformer is 28.6 GB or 32.8 GB, of which 2 to 12 GB stay here.
    assert 16e9 < streamed.read_bytes < 31e9
    assert streamed.predicted_bytes <= plan.host.budget.nbytes


@pytest.mark.parametrize("name", ["wan2.1-vace-14b", "wan2.2-vace-fun-a14b"])
@pytest.mark.parametrize("machine", [cpu(64).machine, mac(64).machine], ids=["CPU", "GPU"])
def test_vace_14b_is_streamed_within_16_gb(name: str, machine: Machine):
    host = Host(machine, find_budget(machine, 16.0), CPU_LIMITS)
    plan = fit_memory(task(name, num_images=1, num_videos=2), host)
    streamed = stage(plan, "denoise")
    assert not plan.misfits
    assert all(nbytes <= 16e9 for nbytes in plan.predicted.values())
    # 40 blocks and 8 of VACE are 34 GB, of which some stay.
    assert plan.choices.resident_blocks is not None
    assert 16e9 < streamed.read_bytes < 34.6e9
    assert f"{plan.choices.resident_blocks} of 48 blocks" in streamed.holds


def test_streaming_leaves_no_vace_block_in_memory():
    model = task("wan2.1-vace-14b", stream="on")
    (infos,) = model.sizes.transformers.values()
    in_blocks = sum(info.nbytes for info in infos if info.name.startswith(("blocks.", "vace_blocks.")))
    assert stage(plan_memory(model, mac(64)), "denoise").read_bytes == in_blocks


def test_the_rest_of_the_memory_holds_as_many_blocks_as_fit():
    on_24, on_32 = (fit_memory(task("wan2.1-t2v-14b"), mac(gb)).choices.resident_blocks for gb in (24, 32))
    assert 0 < (on_24 or 0) < (on_32 or 0) < 40


def test_720p_decodes_in_tiles_within_4_gb():
    plan = plan_memory(task("wan2.1-t2v-1.3b", 1280, 720), cpu(4.0))
    decode = stage(plan, "decode")
    assert plan.choices.decode_tile is not None
    assert decode.predicted_bytes <= 4e9
    # Four frames for each latent one, float32, and 384 features for each latent cell.
    assert plan.scratch_bytes == 4 * (84 * 1280 * 720 * 3 + 21 * 160 * 90 * 384)
    assert "temporary file of tiles: 1.39 GB" in str(plan)
    whole = plan_memory(task("wan2.1-t2v-1.3b", 1280, 720), mac(64))
    assert whole.choices.decode_tile is None
    assert whole.scratch_bytes == 0


def slowness(plan: MemoryPlan) -> tuple[bool, int, float]:
    """Whether it does not fit, what a step reads, and how small the tiles are."""
    tile = plan.choices.decode_tile
    return bool(plan.misfits), stage(plan, "denoise").read_bytes, -tile if tile else float("-inf")


@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS)
def test_a_bigger_machine_never_gets_a_slower_plan(name: str):
    size = (832, 448, 81) if "ti2v" in name else (832, 480, 81)
    plans = [plan_memory(task(name, *size), mac(memory_gb)) for memory_gb in MACS]
    for smaller, bigger in pairwise(plans):
        assert all(a <= b for a, b in zip(slowness(bigger), slowness(smaller), strict=True))
    assert slowness(plans[-1]) == (False, 0, float("-inf"))


@pytest.mark.parametrize("memory_gb", MACS)
@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS)
def test_a_fitting_plan_keeps_to_its_budget(name: str, memory_gb: int):
    size = (832, 448, 81) if "ti2v" in name else (832, 480, 81)
    plan = plan_memory(task(name, *size), mac(memory_gb))
    assert bool(plan.misfits) or max(plan.predicted.values()) <= plan.host.budget.nbytes


def test_context_windows_keep_a_long_video_as_small_as_its_window():
    def plan(num_frames: int, **windows: int) -> MemoryPlan:
        return plan_memory(task("wan2.2-t2v-a14b", 832, 480, num_frames, bits=4, **windows), mac(32))

    short = plan(81)
    frame_bytes = 16 * 60 * 104 * 4
    for num_frames, frames, count in ((161, 41, 3), (321, 81, 5)):
        long = plan(num_frames, window_frames=21, num_windows=count)
        assert not long.misfits
        assert long.choices.resident_blocks == short.choices.resident_blocks
        # Latents alone grow: nine arrays in every step, four more for the sums of windows under two prompts.
        grown = long.predicted["denoise"] - short.predicted["denoise"]
        assert grown == (13 * frames - 9 * 21) * frame_bytes
    assert plan(321).predicted["denoise"] - short.predicted["denoise"] > 2e9


def test_windows_go_through_streamed_blocks_together_as_far_as_memory_allows():
    short = task("wan2.1-t2v-14b", 832, 480, 81, stream="on")
    once = stage(plan_memory(short, mac(32)), "denoise").read_bytes
    long = task("wan2.1-t2v-14b", 832, 480, 321, stream="on", window_frames=21, num_windows=5)
    stream = 32760 * 5120 * 4
    plans = {size: plan_memory(long, mac(size)) for size in (32, 12)}
    assert [plan.choices.windows_at_once for plan in plans.values()] == [5, 1]
    found = {size: stage(plan, "denoise") for size, plan in plans.items()}
    assert [one.read_bytes for one in found.values()] == [once, 5 * once]
    assert found[32].holds == "transformer, 0 of 40 blocks, the others streamed for 5 windows at a time"
    # Two passes of each of the other four windows wait with their tokens.
    assert found[32].peak.needed - found[12].peak.needed == 4 * 2 * stream


@pytest.mark.parametrize(("num_frames", "count"), [(161, 3), (321, 5)])
@pytest.mark.parametrize("name", ["wan2.1-t2v-14b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.1-vace-14b"])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_long_videos_of_the_14b_fit_into_32_gb(name: str, bits: int | None, num_frames: int, count: int):
    options = {"window_frames": 22, "num_windows": count}  # with an image, one frame stands before the others
    plan = plan_memory(task(name, 832, 480, num_frames, bits=bits, **options), mac(32))
    assert not plan.misfits
    assert plan.predicted["denoise"] <= plan.host.budget.nbytes < 20e9
    # What does not stay is read less often than once for each window.
    single = plan_memory(task(name, 832, 480, 85, bits=bits), mac(32))
    read, once = (stage(one, "denoise").read_bytes for one in (plan, single))
    assert read < count * once if once else bits == 4


def test_what_stream_says_is_done():
    on = plan_memory(task("wan2.1-t2v-14b", stream="on"), mac(512))
    assert on.choices.resident_blocks == 0
    assert stage(on, "denoise").predicted_bytes < 13e9
    off = plan_memory(task("wan2.1-t2v-14b", stream="off"), mac(16))
    assert off.choices.resident_blocks is None
    assert [misfit.name for misfit in off.misfits] == ["denoise"]


@pytest.mark.parametrize(("mode", "tile"), [("none", None), ("default", 64), ("aggressive", 32)])
def test_what_tiling_says_is_done(mode: str, tile: int | None):
    assert plan_memory(task("wan2.1-t2v-14b", tiling=mode), mac(512)).choices.decode_tile == tile


def test_both_experts_take_the_memory_of_both():
    name = "wan2.2-t2v-a14b"
    one, both = (plan_memory(task(name, keeps_both=keeps), mac(512)) for keeps in (False, True))
    more = both.predicted["denoise"] - one.predicted["denoise"]
    assert more == pytest.approx(28.58e9 + 0.84e9, rel=0.01)  # weights, and keys and values of the texts


def test_a_run_that_only_decodes_plans_nothing_else():
    plan = plan_memory(task("wan2.1-t2v-14b", only_decodes=True), mac(16))
    assert list(plan.predicted) == ["decode"]


def test_guidance_and_adapters_need_memory():
    def peak(**options: object) -> int:
        return plan_memory(task("wan2.1-t2v-1.3b", **options), mac(512)).predicted["denoise"]

    plain = peak()
    assert peak(text_lengths=(512,), num_passes=1) < plain
    assert peak(adapter_bytes=10**9) == plain + 10**9


def test_the_error_says_what_is_missing_and_what_would_fit():
    with pytest.raises(MemoryBudgetError) as caught:
        fit_memory(task("wan2.1-t2v-14b", 1280, 720), mac(16))
    text = str(caught.value)
    assert text.startswith("denoise needs 10.")
    assert " GB are missing. It fits with --width " in text
    assert "or with --num-frames " in text


def test_every_way_out_that_the_error_names_fits():
    with pytest.raises(MemoryBudgetError) as caught:
        fit_memory(task("wan2.1-t2v-14b", 832, 480, stream="off"), mac(24))
    text = str(caught.value)
    assert "--stream auto, or with a model converted with --quantize --bits 4" in text
    assert fit_memory(task("wan2.1-t2v-14b", stream="auto"), mac(24)).choices.resident_blocks is not None
    assert fit_memory(task("wan2.1-t2v-14b", bits=4, stream="off"), mac(24)).choices.resident_blocks is None
    assert plan_memory(task("wan2.1-t2v-14b", bits=8, stream="off"), mac(24)).misfits


def test_both_experts_that_do_not_fit_are_sent_to_the_relay():
    with pytest.raises(MemoryBudgetError, match="It fits with --experts relay"):
        fit_memory(task("wan2.2-t2v-a14b", keeps_both=True), mac(64))


def ways_out(run: MemoryTask, host: Host) -> list[str]:
    """What the error of a run that does not fit says it fits with."""
    with pytest.raises(MemoryBudgetError) as caught:
        fit_memory(run, host)
    _, found, said = str(caught.value).partition(" are missing. It fits with ")
    assert found, str(caught.value)
    return said.removesuffix(".").split(", or with ")


CHANGED = {
    "--experts": lambda run, mode: replace(run, keeps_both=mode == "parallel"),
    "--stream": lambda run, mode: replace(run, stream=mode),
    "--tiling": lambda run, mode: replace(run, tiling=mode),
    "--width": lambda run, width: resized(run, width=int(width)),
    "--height": lambda run, height: resized(run, height=int(height)),
    "--num-frames": lambda run, frames: resized(run, num_frames=int(frames)),
}


def resized(run: MemoryTask, **sizes: int) -> MemoryTask:
    geometry, config = run.geometry, run.sizes.config
    sizes = {name: sizes.get(name, getattr(geometry, name)) for name in ("width", "height", "num_frames")}
    vae, patch_size = config.vae, config.transformer.patch_size
    return replace(run, geometry=measure(**sizes, z_dim=vae.z_dim, stride=vae.stride, patch_size=patch_size))


def follow(advice: str, run: MemoryTask, host: Host) -> tuple[MemoryTask, Host]:
    """The run of a user who does what the error says."""
    if converted := re.match(r"a model converted with --quantize --bits (\d)(?: and )?", advice):
        run = replace(run, sizes=published_model(str(run.sizes.config.variant), int(converted[1])))
        advice = advice[converted.end() :]
    words = advice.split()
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag == "--memory-limit":
            host = replace(host, budget=find_budget(host.machine, float(value)))
        else:
            run = CHANGED[flag](run, value)
    return run, host


@pytest.mark.sample(8)
@pytest.mark.parametrize("memory_gb", [8, 12, 16, 24])
@pytest.mark.parametrize("keeps_both", [False, True])
@pytest.mark.parametrize("stream", ["auto", "off"])
@pytest.mark.parametrize("tiling", ["auto", "none"])
def test_whoever_follows_the_error_gets_a_run_that_fits(
    memory_gb: int, keeps_both: bool, stream: str, tiling: str
):
    run = task("wan2.2-t2v-a14b", keeps_both=keeps_both, stream=stream, tiling=tiling)
    host = mac(memory_gb)
    for advice in ways_out(run, host) if plan_memory(run, host).misfits else ():
        assert not plan_memory(*follow(advice, run, host)).misfits, advice


def test_choices_that_must_all_be_given_up_are_all_named():
    run = task("wan2.2-t2v-a14b", keeps_both=True, stream="off")
    assert ways_out(run, mac(24))[0] == "--experts relay --stream auto"


def test_a_smaller_video_is_looked_for_without_the_choices_against_saving():
    size = r"--width \d+ --height \d+ --num-frames \d+"
    (advice,) = ways_out(task("wan2.2-t2v-a14b", keeps_both=True), mac(8))
    assert re.fullmatch(f"--experts relay {size}", advice)
    (advice,) = ways_out(task("wan2.2-t2v-a14b", 1280, 720, keeps_both=True, tiling="none"), mac(5))
    assert re.fullmatch(
        f"a model converted with --quantize --bits 8 and --experts relay --tiling auto {size}", advice
    )


def test_a_run_that_only_decodes_is_told_what_counts_for_decoding():
    run = task("wan2.1-t2v-14b", 1280, 720, tiling="none", only_decodes=True)
    assert ways_out(run, mac(12)) == ["--tiling auto"]
    assert ways_out(replace(run, keeps_both=True, stream="off"), mac(12)) == ["--tiling auto"]


def test_a_limit_below_what_the_machine_has_may_be_raised():
    run, host = task("wan2.1-t2v-14b", only_decodes=True), cpu(0.2)
    (advice,) = ways_out(run, host)
    assert advice.startswith("--memory-limit ")
    assert not plan_memory(*follow(advice, run, host)).misfits
    *_, last = ways_out(task("wan2.1-t2v-14b", 1280, 720), cpu(4.0))
    assert last.startswith("--memory-limit ")


def test_frames_that_the_request_needs_are_not_advised_away():
    def shorter(least_frames: int) -> list[str]:
        run = task("wan2.1-t2v-14b", 1280, 720, least_frames=least_frames)
        return [text for text in ways_out(run, mac(16)) if "--num-frames" in text]

    assert [shorter(n) for n in (1, 58, 61, 62)] == [*3 * [["--num-frames 61"]], ["--num-frames 65"]]
    assert shorter(78) == []


def test_a_model_whose_layers_cannot_be_packed_is_not_sent_to_quantizing():
    run = task("wan2.1-t2v-14b", stream="off")
    assert any("--quantize" in text for text in ways_out(run, mac(24)))
    dense = run.sizes.transformers["model"]
    odd = tuple(replace(i, shape=(5120, 13825)) if i.name.endswith("ffn.fc2.weight") else i for i in dense)
    run = replace(run, sizes=replace(run.sizes, transformers={"model": odd}))
    assert not any("--quantize" in text for text in ways_out(run, mac(24)))


def test_whole_frames_that_do_not_fit_are_told_from_those_that_could():
    run = task("wan2.1-t2v-1.3b", 1280, 720)
    assert plan_memory(run, cpu(4.0)).needs_tiles
    assert not plan_memory(replace(run, tiling="aggressive"), mac(64)).needs_tiles


def test_a_machine_too_small_for_anything_is_told_so():
    with pytest.raises(MemoryBudgetError, match=r"Not even a much smaller video fits\. Use a machine"):
        fit_memory(task("wan2.1-t2v-1.3b", num_frames=5), mac(1))


def test_a_machine_too_small_to_decode_is_told_so():
    with pytest.raises(MemoryBudgetError, match=r"Not even the smallest tiles fit\. Use a machine"):
        fit_memory(task("wan2.1-t2v-1.3b", num_frames=5, only_decodes=True), mac(1))


def test_the_table_names_every_stage_and_what_a_step_reads():
    lines = str(plan_memory(task("wan2.1-i2v-14b", num_images=1), mac(16))).splitlines()
    assert lines[0] == "machine: Apple M2, 17.2 GB"
    assert lines[1].startswith("budget: 9.24 GB (85% of 11.5 GB recommended for the GPU")
    assert [line.split()[0] for line in lines[3:7]] == ["text", "image", "denoise", "decode"]
    assert "blocks, the others streamed" in lines[5]
    assert lines[7].startswith("read from disk in every step: 2")


def test_streaming_keeps_what_the_budget_leaves_and_never_less_than_a_gigabyte():
    roomy = plan_memory(task("wan2.1-t2v-1.3b", stream="on"), mac(32))
    left = roomy.host.budget.nbytes - stage(roomy, "denoise").predicted_bytes
    assert roomy.cache_bytes == left > 10e9
    tight = plan_memory(task("wan2.1-t2v-14b", 1280, 720), mac(24))
    assert stage(tight, "denoise").read_bytes
    assert tight.cache_bytes == 1_000_000_000


@pytest.mark.parametrize(("num_frames", "unpacked", "copies"), [
    (81, {"4 bits by 64"}, 1), (81, {"8 bits by 64"}, 0), (1, {"4 bits by 64"}, 0), (81, set(), 0),
])  # fmt: skip
def test_a_weight_that_is_unpacked_for_many_rows_is_planned(num_frames, unpacked, copies):
    host = mac(48)
    host = replace(host, limits=replace(host.limits, unpacked=frozenset(unpacked)))
    run = task("wan2.1-t2v-14b", 832, 480, num_frames, bits=4)
    (weights,) = weigh_transformers(run).values()
    assert forward_size(run, weights, host).weight_copies.needed == copies


MACS = (8, 16, 24, 32, 48, 64)
CHAPTER_RUNS = {
    "1.3B, 832×480, 81 frames": ("wan2.1-t2v-1.3b", 832, 480, 81, None),
    "5B, 1280×704, 121 frames": ("wan2.2-ti2v-5b", 1280, 704, 121, None),
    "14B or A14B, 832×480, 81 frames": ("wan2.2-t2v-a14b", 832, 480, 81, None),
    "the same in 4 bits": ("wan2.2-t2v-a14b", 832, 480, 81, 4),
    "14B or A14B, 1280×720, 81 frames": ("wan2.2-t2v-a14b", 1280, 720, 81, None),
}


def chapter_rows() -> Iterator[str]:
    """The chapter's table of plans."""
    for title, (name, width, height, num_frames, bits) in CHAPTER_RUNS.items():
        plans = [plan_memory(task(name, width, height, num_frames, bits=bits), mac(gb)) for gb in MACS]
        yield f"| {title} | {' | '.join(map(chapter_cell, plans))} |"


def chapter_cell(plan: MemoryPlan) -> str:
    if plan.misfits:
        return "–"
    read = stage(plan, "denoise").read_bytes
    return f"{plan.choices.resident_blocks} blocks, {read / 1e9:.0f} GB" if read else "all blocks"


def test_the_chapter_on_memory_shows_what_is_planned():
    chapter = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    assert [row for row in chapter_rows() if row not in chapter] == []


@pytest.mark.parametrize("num_tokens", [390, 1560, 4680])
def test_an_attention_that_is_cut_needs_less_than_one_that_is_not(num_tokens: int):
    config = TransformerConfig(1536, 8960, 12, 2)
    size = ForwardSize(config, num_tokens, 2, None, 0, 2, False, CPU_LIMITS)
    scores = 12 * num_tokens**2 * 4
    uncut = forward_peak(replace(size, limits=replace(CPU_LIMITS, chunk_elements=2**40))).needed
    assert uncut >= 2 * scores  # scores, and the weights made of them
    assert forward_peak(size).needed <= uncut


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory")
    write_tiny_checkpoint(path / "source")
    return convert_checkpoint(path / "source", path / "model", dtype="float32")


@pytest.fixture
def planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are made for a machine of known size, whatever this one is."""
    monkeypatch.setattr(run_memory, "find_host", lambda limit_gb: cpu(limit_gb or 8.0))


@pytest.mark.usefixtures("planned_for")
def test_plan_prints_and_makes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = mx.get_active_memory()
    assert main(["--model-dir", str(folder), "--plan", "--quiet", "--memory-limit", "2.5"]) == 0
    printed = capsys.readouterr()
    assert "budget: 2.50 GB (--memory-limit)" in printed.out
    assert "read from disk in every step: 0.00 GB" in printed.out
    assert printed.err == ""
    assert list(tmp_path.iterdir()) == []
    assert mx.get_active_memory() - before < 1000  # constants of modules imported on the way


def test_a_plan_says_what_was_rounded(folder: Path, capsys: pytest.CaptureFixture[str]):
    size = {"width": 50, "height": 33, "num_frames": 5}
    plan = WanPipeline.from_pretrained(folder, keep_networks=False).plan(memory_limit=2.5, **size)
    said = "Size 50x33 becomes 48x32: multiples of 16 by 16 pixels."
    assert plan.notices == (said,)
    flags = [word for name, value in size.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["--model-dir", str(folder), "--plan", "--quiet", "--memory-limit", "2.5", *flags]) == 0
    assert capsys.readouterr().out == f"{plan}\n"
    assert str(plan).splitlines()[0] == said
    assert (
        WanPipeline.from_pretrained(folder)
        .plan(memory_limit=2.5, **(size | {"width": 48, "height": 32}))
        .notices
        == ()
    )


def test_a_run_and_its_plan_say_that_memory_is_assumed_unless_a_limit_is_given(folder: Path, monkeypatch):
    machine = Machine(8 * 10**9, 5 * 10**9, notices=("Nobody tells.",), is_assumed=True)
    monkeypatch.setattr(run_memory, "find_machine", lambda: machine)
    pipeline, events = WanPipeline.from_pretrained(folder), []
    assert pipeline.plan(**TINY).notices == ("Nobody tells.",)
    assert pipeline.plan(**TINY, memory_limit=4).notices == ()
    pipeline("a cat", **TINY, on_event=events.append)
    assert Notice("Nobody tells.") in events
    events.clear()
    pipeline("a cat", **TINY, memory_limit=4, on_event=events.append)
    assert Notice("Nobody tells.") not in events


def test_a_limit_too_small_is_an_error_with_a_way_out(folder: Path):
    with pytest.raises(MemoryBudgetError, match=r"--memory-limit\): .* missing"):
        WanPipeline.from_pretrained(folder).plan(memory_limit=0.0005, width=64, height=64, num_frames=17)


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
def test_a_limit_is_a_positive_number(limit: float):
    with pytest.raises(RequestError, match=r"memory_limit: .*positive number of GB"):
        GenerateRequest("a cat", memory_limit=limit)


def test_a_pipeline_plans_without_a_prompt(folder: Path):
    plan = WanPipeline.from_pretrained(folder).plan(width=32, height=32, num_frames=5)
    assert list(plan.predicted) == ["text", "denoise", "decode"]
    assert "transformer, all 2 blocks" in str(plan)


@pytest.mark.parametrize("prompt", ["ﷺ", "ﷺ" * 40, "a cat", "\u200b", "龘" * 100])
def test_no_text_has_more_tokens_than_are_planned(folder: Path, prompt: str):
    run = settle_run(GenerateRequest(prompt, negative_prompt=prompt, **TINY), *open_model(folder))
    tokenizer = load_tokenizer(run.model.tokenizer)
    count = len(number_prompt(tokenizer, prompt, run.config.transformer.text_len))
    planned = run_memory.find_task(run).text_lengths
    assert len(planned) == 2
    assert min(planned) >= count


def test_trimmed_frames_and_a_last_image_need_frames(folder: Path):
    def least_frames(**options: object) -> int:
        run = settle_run(GenerateRequest("a cat", **TINY), *open_model(folder))
        request = GenerateRequest("a cat", **TINY, **options)
        return run_memory.find_task(replace(run, request=request)).least_frames

    picture = np.zeros((16, 16, 3), np.uint8)
    assert least_frames() == 1
    assert least_frames(trim_first_frames=2) == 3
    assert least_frames(image=picture, end_image=picture) == 5


def run_events(folder: Path, **options: object):
    return generate(prepare_run(GenerateRequest("a red circle", **TINY, **options), *open_model(folder)))


def memory_limit() -> int:
    limit = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(limit)
    return limit


@pytest.mark.usefixtures("planned_for")
def test_a_run_holds_mlx_to_its_budget_and_lets_go(folder: Path):
    before, inside = memory_limit(), set()
    for event in run_events(folder, memory_limit=1.25):
        if isinstance(event, StageFinished):
            inside.add(memory_limit())
    assert inside == {1_250_000_000}
    assert memory_limit() == before


@pytest.mark.usefixtures("planned_for")
def test_the_budget_is_lifted_when_a_run_is_broken_off(folder: Path):
    before = memory_limit()
    events = run_events(folder, memory_limit=1.25)
    while not isinstance(next(events), StageFinished):
        pass
    assert memory_limit() == 1_250_000_000
    events.close()
    assert memory_limit() == before


@pytest.mark.usefixtures("planned_for")
@pytest.mark.parametrize("first_to_end", [0, 1])
def test_runs_taken_in_turns_do_not_disturb_each_other(folder: Path, first_to_end: int):
    before = memory_limit(), current_limits(), is_compile_enabled()
    sizes = (1.25, 1.5)
    runs = [run_events(folder, memory_limit=size, compile=False) for size in sizes]
    for _ in range(6):
        for run, size in zip(runs, sizes, strict=True):
            while not isinstance(next(run), StepFinished | StageFinished | FramesDecoded):
                pass
            assert memory_limit() == size * GB
            # Nothing that a network reads is left changed while the run waits.
            assert (current_limits(), is_compile_enabled()) == before[1:]
    last = runs[1 - first_to_end]
    next(last)
    runs[first_to_end].close()
    assert memory_limit() == sizes[1 - first_to_end] * GB
    last.close()
    assert (memory_limit(), current_limits(), is_compile_enabled()) == before


@pytest.mark.parametrize("stream", ["off", "on"])
@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-flf2v-14b", "wan2.2-i2v-a14b"])
def test_every_stage_is_predicted_and_gives_its_memory_back(tmp_path: Path, name: str, stream: str):
    write_tiny_variant(tmp_path / "source", name)
    model = convert_checkpoint(tmp_path / "source", tmp_path / "model", dtype="float32")
    picture = np.full((32, 32, 3), 200, np.uint8)
    images = dict.fromkeys(("image", "end_image")[: 2 if "flf2v" in name else 1], picture)
    before = mx.get_active_memory()
    predicted, measured = {}, {}
    for event in run_events(model, stream=stream, **(images if "t2v" not in name else {})):
        if isinstance(event, MemoryPlanned):
            predicted = event.predicted
        if isinstance(event, StageFinished):
            measured[event.stage] = event.peak_bytes
            # Features of prompts and images, then latents: all that a stage of this size leaves to the next.
            assert mx.get_active_memory() - before < 200_000
    assert predicted.keys() == measured.keys()
    assert ("image" in measured) == ("t2v" not in name)


def test_the_summary_compares_measured_with_planned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    size = ["--width", "32", "--height", "32", "--num-frames", "5", "--steps", "1"]
    video = tmp_path / "video.gif"
    assert main(["--model-dir", str(folder), *size, "--prompt", "x", "--output-path", str(video)]) == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("peak memory in GB, and as planned: text ")
    assert ", decode " in last
