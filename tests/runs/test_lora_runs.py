"""Adapters from the file to the video: merged, beside the weights, or baked into a converted folder."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from mlx_video import AdapterError, RequestError, WanPipeline, convert_checkpoint
from mlx_video.api import build_request
from mlx_video.conditioning.types import Conditioning
from mlx_video.convert.quantize_plan import plan_quantization
from mlx_video.events import Notice, StepFinished
from mlx_video.loading import components, vae_halves
from mlx_video.loading.components import load_transformer, open_model
from mlx_video.media.video import read_video_metadata
from mlx_video.models.transformer import WanTransformer
from mlx_video.request import ConvertRequest, LoraChoice, read_adapter_choices
from mlx_video.runs import inputs
from mlx_video.runs.generate import prepare_run
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.sample import sample_latents
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.tiny_checkpoint import Arrays, TinySizes, write_tiny_checkpoint
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

SMALL = {"width": 32, "height": 32, "num_frames": 1, "steps": 2, "seed": 1, "guide_scale": 1.0}
CONFIG = TinySizes().transformer
# One of two steps for each expert.
ONE_EACH = {"boundary": 0.95}


@dataclass(frozen=True)
class Models:
    """A model with one transformer, one with two experts, and adapters for both.

    Attributes:
        weights: the numbers of the first model's transformer, under their original names.
        deltas: layer → the change that "one" makes at strength 1.
    """

    root: Path
    weights: Arrays
    deltas: Arrays

    def adapter(self, name: str) -> Path:
        return self.root / f"{name}.safetensors"

    def converted(self, name: str, kind: str = "dense") -> Path:
        """A model in float32: "dense", "4 bits", or either after "baked"."""
        path = self.root / f"{name} {kind}"
        if not path.exists():
            options = {"quantize": True, "bits": 4, "group_size": 32} if "4 bits" in kind else {}
            chosen = self.chosen(name) if kind.startswith("baked") else {}
            convert_checkpoint(self.root / name, path, dtype="float32", **options, **chosen)
        return path

    def chosen(self, name: str) -> dict[str, list]:
        """The adapters of the baked models."""
        one, two, outside = (self.adapter(name) for name in ("one", "two", "outside"))
        if name == "single":
            return {"loras": [(one, 0.5), outside]}
        return {"loras": [one], "loras_high": [(two, 2.0)], "loras_low": [(outside, -1.0)]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    checkpoint = write_tiny_checkpoint(root / "single")
    write_tiny_variant(root / "experts", "wan2.2-t2v-a14b")
    deltas = write_adapter(root / "one.safetensors", CONFIG, seed=1)
    write_adapter(root / "two.safetensors", CONFIG, ["blocks.0.ffn.0", "blocks.1.self_attn.q"], seed=2)
    write_adapter(root / "outside.safetensors", CONFIG, ["text_embedding.0", "head.head"], seed=3)
    return Models(root, checkpoint.transformer, deltas)


def prepare(folder: Path, **options) -> Run:
    return prepare_run(build_request("a cat", SMALL | options), *open_model(folder))


def sample(folder: Path, **options) -> mx.array:
    """The final latents of a run under a made-up prompt; nothing is encoded or decoded."""
    prompt = Conditioning(mx.random.normal((6, CONFIG.text_dim), key=mx.random.key(3)), None)
    events = list(sample_latents(prepare(folder, **options), prompt))
    return [event.latents for event in events if isinstance(event, StepFinished)][-1]


def notices(folder: Path, **options) -> list[str]:
    return [notice.text for notice in prepare(folder, **options).plan.notices]


def difference(a: mx.array, b: mx.array) -> float:
    """Root of the mean squared difference, beside that of `b`."""
    return (mx.sqrt(mx.mean((a - b) ** 2)) / mx.sqrt(mx.mean(b**2))).item()


def load_numbers(folder: Path, name: str = "model") -> Arrays:
    tensors = mx.load(str(folder / f"{name}.safetensors"))
    return {key: np.array(array.astype(mx.float32)) for key, array in tensors.items()}


def converted_name(layer: str) -> str:
    return layer.replace("ffn.0", "ffn.fc1").replace("ffn.2", "ffn.fc2") + ".weight"


def test_a_baked_folder_makes_the_video_of_merging_at_load(models: Models):
    chosen = models.chosen("single")
    merged = sample(models.converted("single"), lora_mode="merge", **chosen)
    # The same numbers added in float32: not one bit may differ.
    assert mx.array_equal(sample(models.converted("single", "baked")), merged).item()
    assert mx.array_equal(sample(models.converted("single"), **chosen), merged).item()
    assert difference(merged, sample(models.converted("single"))) > 0.05


def test_each_expert_gets_its_own_adapters_after_the_shared_ones(models: Models):
    dense, baked, chosen = (
        models.converted("experts"),
        models.converted("experts", "baked"),
        models.chosen(""),
    )
    merged = sample(dense, lora_mode="merge", **ONE_EACH, **chosen)
    assert mx.array_equal(sample(baked, **ONE_EACH), merged).item()
    assert mx.array_equal(sample(dense, experts="parallel", **ONE_EACH, **chosen), merged).item()
    shared, own = chosen["loras"], {"high_noise": chosen["loras_high"], "low_noise": chosen["loras_low"]}
    for name in own:
        run = prepare(dense, loras=[*shared, *own[name]])
        expert = load_transformer(run.model, run.config, name, run.adapters[name])
        found = load_numbers(baked, f"{name}_model")
        for key, array in tree_flatten(expert.parameters()):
            assert np.array_equal(np.array(array), found[key]), key


def test_an_adapter_for_one_expert_leaves_the_other_as_it_is(models: Models):
    dense, two = models.converted("experts"), models.adapter("two")
    assert prepare(dense, loras_low=[two]).adapters.keys() == {"low_noise"}
    assert prepare(dense, loras_high=[two]).adapters.keys() == {"high_noise"}
    # At boundary 0 the high-noise expert serves every step.
    plain = sample(dense, boundary=0.0)
    assert mx.array_equal(sample(dense, loras_low=[two], boundary=0.0), plain).item()
    assert difference(sample(dense, loras_high=[two], boundary=0.0), plain) > 0


def test_beside_quantized_layers_an_adapter_counts_as_if_merged_into_what_they_stand_for(
    models: Models, tmp_path: Path
):
    chosen = {"loras": [models.adapter("one"), (models.adapter("two"), 0.5), models.adapter("outside")]}
    quantized = models.converted("single", "4 bits")
    expected = sample(dequantize(quantized, tmp_path / "dense"), lora_mode="merge", **chosen)
    found = sample(quantized, **chosen)
    # Two steps; the same products in another order, in float32.
    assert difference(found, expected) < 1e-5
    assert difference(sample(quantized, lora_mode="side", **chosen), expected) < 1e-5


def dequantize(folder: Path, output: Path) -> Path:
    """A folder whose weights are what the quantized ones stand for."""
    shutil.copytree(folder, output)
    config = json.loads((folder / "config.json").read_text())
    setting = config.pop("quantization")
    (output / "config.json").write_text(json.dumps(config))
    tensors = mx.load(str(folder / "model.safetensors"))
    for path in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
        packed = [tensors.pop(f"{path}.{part}") for part in ("weight", "scales", "biases")]
        tensors[f"{path}.weight"] = mx.dequantize(*packed, setting["group_size"], setting["bits"])
    mx.save_safetensors(str(output / "new.safetensors"), tensors)
    (output / "new.safetensors").rename(output / "model.safetensors")
    return output


def test_merging_into_quantized_layers_packs_them_again(models: Models):
    chosen = {"loras": [models.adapter("one")]}
    quantized = models.converted("single", "4 bits")
    merged, side = sample(quantized, lora_mode="merge", **chosen), sample(quantized, **chosen)
    # 4 bits lose some hundredths in each layer, once more.
    assert 0 < difference(merged, side) < 0.3


@pytest.mark.parametrize("kind", ["dense", "4 bits"])
def test_streamed_blocks_get_the_adapters_of_resident_ones(models: Models, kind: str):
    folder, chosen = models.converted("experts", kind), models.chosen("experts")
    streamed = prepare(folder, stream="on", **ONE_EACH, **chosen)
    assert streamed.plan.memory.resident_blocks is not None
    resident = sample(folder, stream="off", **ONE_EACH, **chosen)
    assert mx.array_equal(sample(folder, stream="on", **ONE_EACH, **chosen), resident).item()


@pytest.mark.parametrize("kind", ["dense", "4 bits"])
def test_strength_zero_is_no_adapter(models: Models, kind: str):
    folder, chosen = models.converted("single", kind), {"loras": [(models.adapter("one"), 0.0)]}
    assert mx.array_equal(sample(folder, **chosen), sample(folder)).item()
    assert notices(folder, **chosen) == ["one.safetensors: strength 0, left out."]


def test_two_adapters_count_like_their_sum(models: Models):
    dense, one = models.converted("single"), models.adapter("one")
    # float32 sums in another order.
    assert (
        difference(sample(dense, loras=[(one, 0.25), (one, 0.5)]), sample(dense, loras=[(one, 0.75)])) < 1e-5
    )


def test_the_settings_of_a_video_name_its_adapters(models: Models, tmp_path: Path):
    options = {"loras": [(models.adapter("one"), 0.5), models.adapter("two")], "lora_mode": "merge"}
    video = WanPipeline.from_pretrained(models.converted("single"))(
        "a cat", output_path=tmp_path / "a.mp4", **SMALL, **options
    )
    settings = read_video_metadata(tmp_path / "a.mp4")
    assert settings == video.settings
    assert settings["loras"] == f"{models.adapter('one')} 0.5, {models.adapter('two')} 1"
    assert settings["lora_mode"] == "merge"
    assert "loras_high" not in settings


def test_what_adapters_do_is_reported_once_for_both_experts(models: Models):
    texts = notices(models.converted("experts"), loras=[models.adapter("two")])
    assert len([text for text in texts if "two.safetensors" in text]) == 1


@pytest.mark.parametrize("name", ["loras_high", "loras_low"])
def test_an_adapter_for_an_expert_needs_experts(models: Models, tmp_path: Path, name: str):
    chosen = {name: [models.adapter("one")]}
    with pytest.raises(RequestError, match=r"one.safetensors: this model has one transformer, .* Use --lora"):
        prepare(models.converted("single"), **chosen)
    with pytest.raises(RequestError, match=f"{name}: .*one.safetensors: this model has one transformer"):
        convert_checkpoint(models.root / "single", tmp_path / "out", **chosen)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_does_not_fit_is_refused_before_any_weight_is_read(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_adapter(tmp_path / "wide.safetensors", replace(CONFIG, dim=256, ffn_dim=512))
    read, events = [], []
    for module in (components, vae_halves):
        monkeypatch.setattr(module, "load_module", lambda *_, **__: read.append(1))
    pipeline = WanPipeline.from_pretrained(models.converted("single"))
    with pytest.raises(AdapterError, match="wide.safetensors"):
        pipeline("a cat", loras=[tmp_path / "wide.safetensors"], on_event=events.append, **SMALL)
    assert (read, events) == ([], [])


def change_names(source: Path, target: Path, root: str, *, is_zero: bool = False) -> Arrays:
    """The tensors of an adapter behind another root, written to a file; the ups perhaps of zeros."""
    arrays = {}
    for name, array in load_file(source).items():
        factor = np.float32(0 if is_zero and "lora_up" in name else 1)
        arrays[name.replace("diffusion_model.", root)] = np.asarray(array * factor)
    save_file(arrays, target)
    return arrays


@pytest.fixture(scope="module")
def both(models: Models) -> Path:
    """Adapter "one" for the high-noise expert and "two" for the low-noise one, in one file."""
    path, high, low = (models.root / f"{name}.safetensors" for name in ("both", "high_half", "low_half"))
    arrays = change_names(models.adapter("one"), high, "diffusion_model.transformer_1.")
    arrays |= change_names(models.adapter("two"), low, "diffusion_model.transformer_2.")
    save_file(arrays, path)
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"experts": "parallel"}, {"stream": "on"}, {"lora_mode": "side"}, {"lora_mode": "merge"}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["dense", "4 bits"])
def test_each_expert_runs_with_its_half_of_one_file(models: Models, both: Path, kind: str, options: dict):
    folder = models.converted("experts", kind)
    one, two = models.adapter("one"), models.adapter("two")
    apart = sample(folder, loras_high=[one], loras_low=[two], **ONE_EACH, **options)
    assert mx.array_equal(sample(folder, loras=[both], **ONE_EACH, **options), apart).item()
    assert difference(apart, sample(folder, **ONE_EACH, **options)) > 0


def test_the_halves_of_one_file_take_strengths_of_their_own(models: Models, both: Path):
    folder = models.converted("experts")
    apart = {"loras_high": [(models.adapter("one"), 0.5)], "loras_low": [(models.adapter("two"), 2.0)]}
    together = {"loras_high": [(both, 0.5)], "loras_low": [(both, 2.0)]}
    expected = sample(folder, **ONE_EACH, **apart)
    assert mx.array_equal(sample(folder, **ONE_EACH, **together), expected).item()
    said = notices(folder, **together)
    assert any(
        text.startswith("both.safetensors, high-noise half: ") and "strength 0.5" in text for text in said
    )
    assert any(
        text.startswith("both.safetensors, low-noise half: ") and "strength 2" in text for text in said
    )


@pytest.mark.parametrize("is_later", [False, True])
def test_each_half_is_baked_into_its_expert(models: Models, both: Path, tmp_path: Path, is_later: bool):
    source = models.converted("experts") if is_later else models.root / "experts"
    options = {"dtype": "float32", "quantize": True, "bits": 4, "group_size": 32, "quantize_only": is_later}
    one, two = models.adapter("one"), models.adapter("two")
    apart = convert_checkpoint(source, tmp_path / "apart", loras_high=[one], loras_low=[two], **options)
    together = convert_checkpoint(source, tmp_path / "together", loras=[both], strict_lora=True, **options)
    for name in ("high_noise_model.safetensors", "low_noise_model.safetensors"):
        assert (apart / name).read_bytes() == (together / name).read_bytes()


def test_one_transformer_takes_no_file_for_two_experts(models: Models, both: Path, tmp_path: Path):
    text = "both.safetensors: holds two adapters, one for each expert of a Wan2.2 A14B model.*one transformer"
    with pytest.raises(AdapterError, match=text):
        prepare(models.converted("single"), loras=[both])
    with pytest.raises(AdapterError, match=text):
        convert_checkpoint(models.root / "single", tmp_path / "out", loras=[both])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("half", "expert"), [("high_half", "high_noise"), ("low_half", "low_noise")])
def test_a_file_whose_tensors_name_one_expert_is_applied_to_that_one(
    models: Models, both: Path, half, expert
):
    folder, path = models.converted("experts"), both.with_name(f"{half}.safetensors")
    assert prepare(folder, loras=[path]).adapters.keys() == {expert}
    said = notices(folder, loras=[path])
    name = expert.replace("_", "-")
    assert f"{half}.safetensors: its tensors name one expert; applied to the {name} expert alone." in said
    # Who names the other expert means it, and is told.
    other = "loras_low" if expert == "high_noise" else "loras_high"
    run = prepare(folder, **{other: [path]})
    assert run.adapters.keys() == {"high_noise", "low_noise"} - {expert}
    assert any(f"looks made for the {name} expert" in notice.text for notice in run.plan.notices)


@pytest.mark.parametrize("name", ["style_high_noise", "style_low_noise"])
def test_an_expert_converted_alone_takes_plain_adapters_and_tells_when_they_suit(
    models: Models, tmp_path: Path, name: str
):
    expert = name.removeprefix("style_")
    folder = convert_checkpoint(
        models.root / "experts",
        tmp_path / "alone",
        transformer=models.root / "experts" / f"{expert}_model",
        dtype="float32",
    )
    path = tmp_path / f"{name}.safetensors"
    shutil.copy(models.adapter("one"), path)
    text = (
        "This model has one transformer: such an adapter suits it where that is this expert, converted alone"
    )
    assert any(text in notice for notice in notices(folder, loras=[path]))
    assert difference(sample(folder, loras=[path]), sample(folder)) > 0
    field = f"loras_{expert.removesuffix('_noise')}"
    with pytest.raises(RequestError, match=f"{field}: .*this model has one transformer.*Use --lora."):
        prepare(folder, **{field: [path]})


@pytest.fixture(scope="module")
def zero(models: Models) -> Path:
    """Adapter "one" with ups of zeros."""
    change_names(models.adapter("one"), models.root / "zero.safetensors", "diffusion_model.", is_zero=True)
    return models.root / "zero.safetensors"


@pytest.mark.parametrize(
    "options", [{}, {"stream": "on"}, {"lora_mode": "side"}, {"lora_mode": "merge"}], ids=str
)
@pytest.mark.parametrize(("name", "kind"), [("single", "dense"), ("single", "4 bits"), ("experts", "dense")])
def test_an_adapter_of_zeros_changes_no_bit_and_is_said_to(models: Models, zero: Path, name, kind, options):
    folder = models.converted(name, kind)
    options = options | (ONE_EACH if name == "experts" else {})
    run = prepare(folder, loras=[zero], **options)
    assert not run.adapters
    (text,) = [notice.text for notice in run.plan.notices if "zero.safetensors" in notice.text]
    assert text.startswith("zero.safetensors: changes nothing: what it holds for 20 layers is zero (first: ")
    assert mx.array_equal(sample(folder, loras=[zero], **options), sample(folder, **options)).item()
    with pytest.raises(AdapterError, match="zero.safetensors: changes nothing"):
        prepare(folder, loras=[zero], strict_lora=True, **options)


@pytest.mark.parametrize("is_later", [False, True])
def test_baking_an_adapter_of_zeros_says_so_or_refuses(models: Models, zero: Path, tmp_path: Path, is_later):
    source = models.converted("single") if is_later else models.root / "single"
    options = {"dtype": "float32", "quantize": True, "bits": 4, "group_size": 32, "quantize_only": is_later}
    events: list = []
    baked = convert_checkpoint(source, tmp_path / "baked", loras=[zero], on_event=events.append, **options)
    said = [event.text for event in events if isinstance(event, Notice)]
    assert any(text.startswith("zero.safetensors: changes nothing") for text in said)
    plain = convert_checkpoint(source, tmp_path / "plain", **options)
    assert (baked / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    with pytest.raises(AdapterError, match="zero.safetensors: changes nothing"):
        convert_checkpoint(source, tmp_path / "strict", loras=[zero], strict_lora=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baked", "plain"]


def test_an_adapter_of_zeros_beside_another_leaves_that_one_alone(models: Models, zero: Path):
    folder, one = models.converted("single"), models.adapter("one")
    expected = sample(folder, loras=[one])
    assert mx.array_equal(sample(folder, loras=[zero, one]), expected).item()
    assert prepare(folder, loras=[zero, one]).adapters["model"].nbytes == (
        prepare(folder, loras=[one]).adapters["model"].nbytes
    )


def count_passes(monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[str]]:
    """What the transformers and the text encoder are asked for from now on."""
    timesteps: list[float] = []
    texts: list[str] = []
    predict, number = WanTransformer.predict, inputs.number_prompt

    def counted_predict(self, latents, step, passes, **options):
        timesteps.extend(step.timestep for _ in passes)
        return predict(self, latents, step, passes, **options)

    def counted_prompt(tokenizer, text, max_tokens):
        texts.append(text)
        return number(tokenizer, text, max_tokens)

    monkeypatch.setattr(WanTransformer, "predict", counted_predict)
    monkeypatch.setattr(inputs, "number_prompt", counted_prompt)
    return timesteps, texts


def test_the_distilled_recipe_takes_one_pass_a_step_and_encodes_one_prompt(
    models: Models, monkeypatch: pytest.MonkeyPatch
):
    timesteps, texts = count_passes(monkeypatch)
    one, events = models.adapter("one"), []
    recipe = SMALL | {"steps": 4, "guide_scale": 1.0, "shift": 5.0, "scheduler": "euler"}
    WanPipeline.from_pretrained(models.converted("experts"))(
        "a cat", loras_high=[one], loras_low=[one], on_event=events.append, **recipe
    )
    # LightX2V's list for its four-step adapters.
    assert timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625])
    assert texts == ["a cat"]
    said = [event.text for event in events if isinstance(event, Notice)]
    assert any("the high-noise expert serves 2, then the low-noise expert 2" in text for text in said)


def test_guidance_makes_two_passes_a_step_and_encodes_two_prompts(
    models: Models, monkeypatch: pytest.MonkeyPatch
):
    timesteps, texts = count_passes(monkeypatch)
    options = SMALL | {"guide_scale": 2.0, "negative_prompt": "dull"}
    WanPipeline.from_pretrained(models.converted("single"))("a cat", **options)
    assert len(timesteps) == 4
    assert texts == ["a cat", "dull"]


@pytest.mark.parametrize(
    ("name", "options", "is_said"),
    [
        ("Wan2.2-Lightning_high", {"steps": 12}, True),
        ("Wan2.2-Lightning/high", {"steps": 12}, True),
        ("t2v_lightx2v_4step", {"guide_scale": 2.0}, True),
        ("t2v_lightx2v_4step", {"steps": 4}, False),
        ("oil painting", {"steps": 12}, False),
        ("oil painting 2008steps", {"steps": 12}, False),
    ],
)
def test_a_distilled_adapter_in_a_run_of_another_kind_is_reported(
    models: Models, tmp_path: Path, name: str, options: dict, is_said: bool
):
    path = tmp_path / "adapters" / f"{name}.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(models.adapter("two"), path)
    texts = notices(models.converted("single"), loras=[path], **options)
    assert any("--steps 4 --guide-scale 1 --shift 5 --scheduler euler" in text for text in texts) == is_said


def test_a_baked_tensor_holds_weight_and_change_rounded_once(models: Models):
    found, plain = (load_numbers(models.converted("single", kind)) for kind in ("baked", "dense"))
    for layer, delta in models.deltas.items():
        expected = models.weights[f"{layer}.weight"].astype(np.float64) + 0.5 * delta
        # Rank 4 in float32 against float64.
        np.testing.assert_allclose(found[converted_name(layer)], expected, atol=1e-6)
    changed = {*map(converted_name, models.deltas), "text_embedding_0.weight", "head.head.weight"}
    assert all(np.array_equal(found[name], plain[name]) == (name not in changed) for name in plain)


def test_baking_packs_what_merging_gives(models: Models):
    dense, packed = (
        mx.load(str(models.converted("single", kind) / "model.safetensors"))
        for kind in ("baked", "baked 4 bits")
    )
    for layer in models.deltas:
        path = converted_name(layer).removesuffix(".weight")
        expected = mx.quantize(dense[f"{path}.weight"], group_size=32, bits=4)
        for part, want in zip(("weight", "scales", "biases"), expected, strict=True):
            assert mx.array_equal(packed[f"{path}.{part}"], want).item(), path


def test_quantizing_a_converted_folder_bakes_what_converting_at_once_does(models: Models, tmp_path: Path):
    options = {"quantize": True, "bits": 4, "group_size": 32, **models.chosen("single")}
    later = convert_checkpoint(models.converted("single"), tmp_path / "later", quantize_only=True, **options)
    for name in ("model.safetensors", "config.json"):
        assert (later / name).read_bytes() == (models.converted("single", "baked 4 bits") / name).read_bytes()


def planned_config(folder: Path, *choices: LoraChoice) -> dict:
    """The config.json that quantizing a folder with adapters would write."""
    with ExitStack() as opened:
        return dict(
            plan_quantization(
                ConvertRequest(folder, folder / "out", quantize_only=True, loras=choices), opened
            ).config
        )


def test_a_converted_folder_says_what_was_baked_into_it(models: Models):
    one, two, outside = (models.adapter(name) for name in ("one", "two", "outside"))
    baked = models.converted("single", "baked")
    open_model(baked)
    said = [f"{one} 0.5", f"{outside} 1"]
    assert json.loads((baked / "config.json").read_text())["mlx_video"]["loras"] == said
    assert planned_config(baked, LoraChoice(two, -2.0))["mlx_video"]["loras"] == [*said, f"{two} -2"]
    assert planned_config(baked)["mlx_video"]["loras"] == said
    assert "loras" not in planned_config(models.converted("single"))["mlx_video"]


def test_a_folder_of_another_tool_is_not_marked_as_ours_when_it_is_baked(models: Models, tmp_path: Path):
    foreign = shutil.copytree(models.converted("single"), tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    del config["mlx_video"]
    (foreign / "config.json").write_text(json.dumps(config | {"another_tools_key": 1}))
    assert "mlx_video" not in planned_config(foreign, LoraChoice(models.adapter("one")))


def test_a_conversion_with_a_wrong_adapter_leaves_nothing(models: Models, tmp_path: Path):
    write_adapter(tmp_path / "wide.safetensors", replace(CONFIG, dim=256, ffn_dim=512))
    with pytest.raises(AdapterError, match="wide.safetensors"):
        convert_checkpoint(models.root / "single", tmp_path / "out", loras=[tmp_path / "wide.safetensors"])
    assert [path.name for path in tmp_path.iterdir()] == ["wide.safetensors"]


def test_adapters_are_written_as_paths_pairs_or_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    choice = LoraChoice(Path("c"), 2.0)
    assert read_adapter_choices("loras", ["~/a", (Path("b"), 0.5), ["d", 3], choice]) == (
        LoraChoice(tmp_path / "a"), LoraChoice(Path("b"), 0.5), LoraChoice(Path("d"), 3), choice,
    )  # fmt: skip
    assert read_adapter_choices("loras", "a") == read_adapter_choices("loras", Path("a")) == (
        LoraChoice(Path("a")),
    )  # fmt: skip
    assert read_adapter_choices("loras", None) == read_adapter_choices("loras", []) == ()


def test_a_choice_with_two_strengths_points_to_the_options_of_the_experts():
    with pytest.raises(
        RequestError, match="a '1;0.5': the strength must be .*--lora-high a 1 --lora-low a 0.5"
    ):
        LoraChoice(Path("a"), "1;0.5")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3: must be a list of paths"),
        ([3], r"3: must be a path or \(path, strength\)"),
        (("a", 0.5), r"0.5: must be a path or \(path, strength\), in a list"),
        ([("a", "b")], r"\('a', 'b'\): must be a path or"),
        ([("a", float("nan"))], "a nan: the strength must be a number"),
        ([("a", True)], "a True: the strength must be a number"),
        (
            [("a", "0.8;1.0")],
            "a '0.8;1.0': the strength must be a number. .*--lora-high a 0.8 --lora-low a 1.0",
        ),
        ([("a", (0.8, 1.0))], r"a \(0.8, 1.0\): the strength must be a number. .*--lora-high a STRENGTH"),
    ],
)
def test_what_is_no_adapter_is_refused_by_option_and_value(value: object, text: str):
    with pytest.raises(RequestError, match=text) as caught:
        read_adapter_choices("loras_low", value)
    assert caught.value.field == "loras_low"
