"""A student of few steps: whose way it repeats, what it learns, and what its files tell a run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import WanPipeline, generate_wan, train_wan
from mlx_video.errors import DatasetError, RequestError
from mlx_video.events import Notice
from mlx_video.formats.safetensors_header import read_header
from mlx_video.latents.latents_file import load_latents, save_latents
from mlx_video.loading.components import load_transformer, open_model
from mlx_video.media.sources.source_video import open_video
from mlx_video.request.train import TrainRequest
from mlx_video.training.adapter import Adapter, AdapterPlan, find_layers
from mlx_video.training.distillation import WalkDrawing
from mlx_video.training.example import Example
from mlx_video.training.gradients import resident_gradients, training_limits
from mlx_video.training.log import read_log
from mlx_video.training.network import open_network
from mlx_video.training.state import load_state
from mlx_video.training.trainable import Values
from mlx_video.training.velocity import predict_velocity
from tests.models.networks import relative_error
from tests.training.data.clip_files import draw_frames, write_picture, write_video
from tests.training.data.tiny_learners import cache, convert_tiny
from tests.training.examples import KINDS, OneExample
from tests.training.small_training import DrawnExamples, plan_small, run, write_experts, write_model
from tests.training.test_resume import EXAMPLES, assert_alike, break_off
from tests.training.test_ways_agree import assert_equal, put_numbers

STUDENT = {"task": "direct-distill", "distill_steps": 3}
SIZE = {"width": 32, "height": 32, "num_frames": 5}
LIST = "video,prompt,seed,rand_device,num_inference_steps,cfg_scale\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def slopes_of(model: Path, tmp_path: Path, **options) -> tuple[float, Values]:
    ways = {name: options.pop(name) for name in ("streams", "checkpoints") if name in options}
    plan = replace(plan_small(model, tmp_path, **STUDENT | options), **ways)
    adapter = Adapter(plan.adapter, 0)
    put_numbers(adapter)
    (walk,) = plan.drawing.draw_batch(DrawnExamples(), 1)
    with open_network(plan, adapter) as network:
        loss, gradients = network.gradients(walk)
        mx.eval(loss, gradients)
    return loss.item(), gradients


def test_checkpointed_blocks_have_the_gradients_of_plain_ones(model: Path, tmp_path: Path):
    assert_equal(slopes_of(model, tmp_path), slopes_of(model, tmp_path, checkpoints=False))


@pytest.mark.parametrize("targets", [(), ("text_embedding.0", "head.head", "blocks.1.ffn.0")], ids=str)
def test_streamed_blocks_have_the_gradients_of_resident_ones(model: Path, tmp_path: Path, targets: tuple):
    options = {"target_modules": targets}
    found = slopes_of(model, tmp_path, streams=True, **options)
    expected = slopes_of(model, tmp_path, **options)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for name, gradient in expected[1].items():
        assert relative_error(found[1][name], gradient) <= 1e-5, name


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_goes_through_all_steps(name: str):
    """It is that of the whole walk as one function, in all kinds of models."""
    kind = KINDS[name]
    transformer = kind.build()
    layers = find_layers(kind.network, kind.config, ())
    adapter = Adapter(AdapterPlan("lora", 2, 2.0, layers), 0)
    put_numbers(adapter)
    adapter.attach(transformer)
    (walk,) = WalkDrawing(2, 3.0).draw_batch(OneExample(kind), 0)
    whole = resident_gradients(transformer, adapter.trainable, checkpoints=False)(_AsOne(walk))
    found = resident_gradients(transformer, adapter.trainable)(walk)
    assert found[0].item() == pytest.approx(whole[0].item(), rel=1e-6)
    for key, gradient in whole[1].items():
        assert relative_error(found[1][key], gradient) <= 1e-5, key


class _AsOne:
    """A walk that is differentiated at once; reaches into the network, which no lesson does."""

    def __init__(self, walk) -> None:
        self.walk, self.name = walk, walk.name

    def learn(self, network):
        walk, transformer = self.walk, network._transformer

        def loss(values: Values) -> mx.array:
            latents = walk._hold(walk.noise)
            with network._trainable.holding(values):
                for step in walk.steps:
                    velocity = predict_velocity(transformer, walk._ask(step, latents))
                    latents = walk._go(step, velocity, latents)
            return walk.loss(latents)

        with training_limits():
            return mx.value_and_grad(loss)(network._trainable.values())


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-i2v-14b", "wan2.2-ti2v-5b"])
@pytest.mark.slow
def test_a_student_walks_as_a_run_of_its_steps_does(name: str, tmp_path: Path):
    """With the model as its own student, what a run of these steps ends at leaves no loss."""
    frames = draw_frames(5, 32, 32)
    write_video(tmp_path / "a.mp4", frames)
    (tmp_path / "clips.csv").write_text(f"{LIST}a.mp4,a cat,7,cpu,3,1\n")
    folder, config = model = convert_tiny(tmp_path, name)
    cached = cache(model, dataset_config=tmp_path / "clips.csv", distill_steps=3, num_frames=5)
    (example,) = cached.batch(0)
    assert example.seed == 7
    (walk,) = WalkDrawing(3, 4.0).draw_batch(cached, 0)
    assert walk.conditioning.context is not None
    image = {} if "t2v" in name else {"image": first_frame(tmp_path / "a.mp4")}
    options = {"steps": 3, "scheduler": "euler", "guide_scale": 1.0, "shift": 4.0, "seed": 7}
    made = WanPipeline.from_pretrained(folder.path)("a cat", **SIZE, **options, **image)
    transformer = load_transformer(folder, config)
    adapter = Adapter(plan_small(folder.path, tmp_path / "out").adapter, 0)
    adapter.attach(transformer)
    learn = resident_gradients(transformer, adapter.trainable)
    loss, _ = learn(replace(walk, target=made.latents))
    far, _ = learn(walk)
    assert loss.item() < 1e-8 < 1e-3 < far.item()


def first_frame(path: Path):
    frame, _ = next(iter(open_video(path).read()))
    return frame


def test_a_student_comes_near_the_full_run(model: Path, tmp_path: Path):
    options = {"steps": 20, "rank": 8, "learning_rate": 5e-3, "schedule": "constant", "warm_up_steps": 0}
    run(plan_small(model, tmp_path, **STUDENT | options), DrawnExamples(count=1))
    losses = [record.loss for record in read_log(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_distillation_broken_off_goes_on_bit_for_bit(model: Path, tmp_path: Path):
    options = STUDENT | {"ema": 0.9, "gradient_accumulation": 2}
    run(plan_small(model, tmp_path / "whole", **options), EXAMPLES)
    break_off(plan_small(model, tmp_path / "broken", **options), 1)
    run(plan_small(model, tmp_path / "broken", resume=True, **options), EXAMPLES)
    assert_alike(tmp_path / "broken", tmp_path / "whole")


CHANGES = [{"distill_steps": 2}, {"timestep_shift": 2.0}, {"task": "sft", "distill_steps": 4}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_option_changes_what_is_learned_and_a_state_of_another_is_refused(
    model: Path, tmp_path: Path, change: dict
):
    values = []
    for folder, options in (("a", STUDENT), ("b", STUDENT | change)):
        plan = plan_small(model, tmp_path / folder, **options)
        run(plan)
        values.append(load_state(plan.state_path)[0].values)
    assert not all(mx.array_equal(values[0][name], values[1][name]) for name in values[0])
    with pytest.raises(RequestError, match="is of another"):
        run(plan_small(model, tmp_path / "a", resume=True, **STUDENT | change))


def test_the_seed_of_a_clip_decides_its_noise_and_the_trainings_does_not(model: Path, tmp_path: Path):
    def walk(seed: int, number: int = 0):
        return plan_small(model, tmp_path, seed=seed, **STUDENT).drawing.draw_batch(DrawnExamples(), number)[
            0
        ]

    assert mx.array_equal(walk(1).noise, walk(2).noise)
    assert not mx.array_equal(walk(1).noise, walk(1, 1).noise)


def test_the_shift_is_the_models_unless_one_is_given(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path, **STUDENT)
    assert plan.drawing == WalkDrawing(3, plan.config.sampling.shift)
    assert plan_small(model, tmp_path, timestep_shift=2.5, **STUDENT).drawing == WalkDrawing(3, 2.5)
    assert plan_small(model, tmp_path).drawing.levels.shift == 3.0  # of flow matching


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"task": "sft", "distill_steps": 8}, "distill_steps"),
        *(
            (STUDENT | {name: value}, name)
            for name, value in {
                "caption_dropout": 0.2,
                "timestep_sampling": "uniform",
                "logit_mean": 1.0,
                "logit_std": 2.0,
                "min_timestep": 10.0,
                "max_timestep": 900.0,
                "weighting": "bell",
            }.items()
        ),
    ],
    ids=str,
)
def test_options_of_another_task_are_refused(options: dict, field: str):
    with pytest.raises(RequestError, match="decides nothing of --task") as error:
        TrainRequest(**options)
    assert error.value.field == field


def test_two_experts_are_refused(tmp_path: Path):
    experts = write_experts(tmp_path)
    with pytest.raises(RequestError, match="two experts, which share the steps"):
        plan_small(experts, tmp_path / "out", expert="low_noise", **STUDENT)


def test_an_example_without_a_seed_is_refused(model: Path, tmp_path: Path):
    class Seedless(DrawnExamples):
        def draw(self, number: int) -> Example:
            return replace(super().draw(number), seed=None)

    with pytest.raises(DatasetError, match="has no seed"):
        run(plan_small(model, tmp_path, **STUDENT), Seedless())


def test_a_run_with_the_adapter_takes_the_students_steps_by_itself(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path, timestep_shift=2.5, **STUDENT)
    events, file = run(plan)
    assert any("walks of 3 steps at shift 2.5" in event.text for event in events if isinstance(event, Notice))
    told = read_header(file).metadata
    assert (told["recipe"], told["recipe_steps"], told["recipe_shift"]) == ("direct-distill", "3", "2.5")
    pipeline = WanPipeline.from_pretrained(model)
    options = {"width": 16, "height": 16, "num_frames": 5, "seed": 1}
    made = pipeline("a cat", loras=[(file, 1.0)], **options)
    by_hand = {"recipe": "official", "steps": 3, "scheduler": "euler", "guide_scale": 1.0, "shift": 2.5}
    same = pipeline("a cat", loras=[(file, 1.0)], **options, **by_hand)
    assert mx.array_equal(made.latents, same.latents)
    assert made.settings["recipe"] == "direct-distill"


def test_a_run_of_a_distilled_model_takes_the_students_steps_by_itself(model: Path, tmp_path: Path):
    _, folder = run(plan_small(model, tmp_path, timestep_shift=2.5, network="full", **STUDENT))
    _, config = open_model(folder)
    sampling = config.sampling
    assert (sampling.recipe, sampling.steps, sampling.shift) == ("direct-distill", 3, 2.5)
    assert set(sampling.guide_scale) == {1.0}
    _, before = open_model(model)
    assert before.sampling.recipe == ""
    assert replace(config, sampling=before.sampling) == before
    made = WanPipeline.from_pretrained(folder)("a cat", width=16, height=16, num_frames=5, seed=1)
    assert (made.settings["steps"], made.settings["shift"]) == ("3", "2.5")


# Lists of clips


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "a.mp4", draw_frames(5, 32, 32))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return convert_tiny(tmp_path_factory.mktemp("models"), "wan2.1-t2v-1.3b")[0].path


def words(tiny: Path, clip: Path, tmp_path: Path, rows: str, *more: str) -> list[str]:
    listed = tmp_path / "clips.csv"
    listed.write_text(rows)
    named = [f"--model-dir={tiny}", f"--dataset-config={listed}", f"--dataset-base-path={clip.parent}"]
    named += [f"--cache-directory={tmp_path / 'cache'}", f"--output-dir={tmp_path / 'out'}"]
    return [*named, "--steps=2", "--rank=2", "--learning-rate=0.01", "--num-frames=5", *more]


def test_diffsynth_studios_list_and_words_are_taken(tiny: Path, clip: Path, tmp_path: Path):
    rows = f'{LIST}a.mp4,"a cat",1,cpu,4,1\na.mp4,"a cat",2,cpu,4,1\n'
    extra = "--extra-inputs=seed,rand_device,num_inference_steps,cfg_scale"
    assert train_wan.main(words(tiny, clip, tmp_path, rows, "--task=direct-distill", extra)) == 0
    assert len(read_log(tmp_path / "out")) == 2
    assert len(list((tmp_path / "cache" / "examples").glob("*.safetensors"))) == 1  # one clip, two seeds
    again = words(tiny, clip, tmp_path, rows.replace(",2,", ",3,"), "--task=direct-distill", "--resume")
    assert train_wan.main(again) == 2  # other seeds are another training


REFUSED = {
    "no seed": ("video,prompt\na.mp4,a cat\n", (), "tells no seed"),
    "no number": ("video,prompt,seed\na.mp4,a cat,x\n", (), "seed = x: must be a whole number"),
    "another device": (f"{LIST}a.mp4,a cat,1,cuda,4,1\n", (), "rand_device = cuda"),
    "other steps": (
        f"{LIST}a.mp4,a cat,1,cpu,8,1\n",
        (),
        "num_inference_steps = 8, and --distill-steps is 4",
    ),
    "guidance": (f"{LIST}a.mp4,a cat,1,cpu,4,5\n", (), "cfg_scale = 5"),
    "a part": ("video,prompt,seed\na.mp4,a cat,1\n", ("--num-frames=1",), "its seed made the whole"),
    "a size": (
        "video,prompt,seed\na.mp4,a cat,1\n",
        ("--width=16", "--height=16"),
        "its seed made the whole",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_tells_of_another_walk_is_refused(
    name: str, tiny: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rows, more, text = REFUSED[name]
    assert train_wan.main(words(tiny, clip, tmp_path, rows, "--task=direct-distill", *more)) == 1
    assert text in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_columns_of_runs_decide_nothing_of_flow_matching(
    tiny: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rows = f"{LIST}a.mp4,a cat,x,cuda,8,5\n"
    assert train_wan.main(words(tiny, clip, tmp_path, rows, "--cache-only")) == 0
    told = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "cfg_scale, num_inference_steps, rand_device, seed count for --task direct-distill alone" in told
    assert train_wan.main(words(tiny, clip, tmp_path, rows, "--extra-inputs=seed")) == 2
    assert "seed: is for --task direct-distill alone" in capsys.readouterr().err


# Latents that runs wrote


def make_latents(model: Path, tmp_path: Path, *more: str) -> Path:
    """A folder of latents of two prompts and two seeds."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    named = [f"--model-dir={model}", f"--prompt-file={tmp_path / 'prompts.txt'}", "--seeds=3,4"]
    named += ["--width=32", "--height=32", "--num-frames=5", "--output-type=latent"]
    named += [f"--output-path={tmp_path / 'runs' / '{i}.mp4'}", "--no-prompt-cache", *more]
    assert generate_wan.main(named) == 0
    return tmp_path / "runs"


def distil(model: Path, tmp_path: Path, *more: str) -> int:
    named = [f"--model-dir={model}", f"--output-dir={tmp_path / 'out'}", "--task=direct-distill"]
    return train_wan.main([*named, "--rank=2", "--steps=2", "--gradient-accumulation=2", *more])


@pytest.mark.slow
def test_a_folder_of_latents_is_a_dataset_of_runs(tiny: Path, tmp_path: Path):
    """A student that is to do what the model does anyway has nothing to learn at first."""
    walk = ["--steps=3", "--scheduler=euler", "--guide-scale=1", "--shift=4"]
    folder = make_latents(tiny, tmp_path, *walk)
    assert len(list(folder.glob("*.safetensors"))) == 4
    steps = ["--distill-steps=3", "--timestep-shift=4"]
    assert distil(tiny, tmp_path, f"--dataset={folder}", *steps) == 0
    assert read_log(tmp_path / "out")[0].loss < 1e-8
    plain = cache(open_model(tiny), dataset=folder, distill_steps=3)
    assert sorted(example.seed for example in plain.examples) == [3, 3, 4, 4]
    assert len({example.caption for example in plain.examples}) == 2
    first = next(example for example in plain.examples if example.name.startswith(str(folder / "1.")))
    assert mx.array_equal(first.load().latents, load_latents(folder / "1.safetensors")[0])


@pytest.mark.slow
def test_latents_of_a_list_bring_their_seed_and_the_list_their_picture(tmp_path: Path):
    model = convert_tiny(tmp_path, "wan2.1-i2v-14b")[0].path
    write_picture(tmp_path / "a.png", draw_frames(1, 32, 32)[0])
    walk = ["--steps=2", "--scheduler=euler", "--guide-scale=1", "--shift=4", f"--image={tmp_path / 'a.png'}"]
    folder = make_latents(model, tmp_path, *walk)
    listed = tmp_path / "list.csv"
    listed.write_text("video,input_image\n" + "".join(f"runs/{i}.safetensors,a.png\n" for i in range(1, 5)))
    steps = ["--distill-steps=2", "--timestep-shift=4"]
    assert distil(model, tmp_path, f"--dataset-config={listed}", *steps) == 0
    assert read_log(tmp_path / "out")[0].loss < 1e-8
    with pytest.raises(DatasetError, match=r"its run was given image, .*in the column input_image"):
        cache(open_model(model), dataset=folder, distill_steps=2)


def test_latents_that_cannot_be_repeated_are_refused(tiny: Path, tmp_path: Path):
    latents, clips = mx.zeros((16, 2, 4, 4)), tmp_path / "clips"
    save_latents(clips / "a.safetensors", latents, {"prompt": "a", "seed": "1", "noise": "mlx"})
    with pytest.raises(DatasetError, match="rand_device = mlx"):
        cache(open_model(tiny), dataset=clips, distill_steps=2)
    save_latents(clips / "a.safetensors", mx.zeros((48, 2, 4, 4)), {"prompt": "a", "seed": "1"})
    with pytest.raises(DatasetError, match="has 48 channels, this model's latents have 16"):
        cache(open_model(tiny), dataset=clips, distill_steps=2)
    (clips / "a.safetensors").unlink()
    mx.save_safetensors(str(clips / "b.safetensors"), {"weight": mx.zeros(3)})
    with pytest.raises(DatasetError, match="no picture and no video"):
        cache(open_model(tiny), dataset=clips, distill_steps=2)
    listed = tmp_path / "list.csv"
    listed.write_text("video,prompt,seed\nclips/b.safetensors,x,1\n")
    with pytest.raises(DatasetError, match="holds no latents of a run"):
        cache(open_model(tiny), dataset_config=listed, distill_steps=2)


@pytest.mark.slow
def test_latents_without_their_picture_show_none(tmp_path: Path):
    model = convert_tiny(tmp_path, "wan2.1-i2v-14b")
    save_latents(tmp_path / "clips" / "a.safetensors", mx.zeros((16, 2, 4, 4)), {"prompt": "a", "seed": "1"})
    with pytest.raises(DatasetError, match="show no frame. Give the picture of the run .* input_image"):
        cache(model, dataset=tmp_path / "clips", distill_steps=2)


def test_latents_are_clips_of_flow_matching_too(tiny: Path, tmp_path: Path):
    save_latents(tmp_path / "clips" / "a.safetensors", mx.ones((16, 2, 4, 4)), {"prompt": "a"})
    sheet = tmp_path / "sheet.png"
    named = [f"--model-dir={tiny}", f"--dataset={tmp_path / 'clips'}", f"--output-dir={tmp_path / 'out'}"]
    assert train_wan.main([*named, "--inspect-dataset", f"--contact-sheet={sheet}"]) == 0
    assert not sheet.exists()
    assert train_wan.main([*named, "--steps=2", "--rank=2", "--learning-rate=0.01"]) == 0
    assert len(read_log(tmp_path / "out")) == 2
