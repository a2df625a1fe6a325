"""Models by the names of their repositories: downloaded, converted, run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.cli.console import EXIT_INTERRUPTED, run_command
from mlx_video.convert.convert import convert
from mlx_video.convert_wan import build_parser
from mlx_video.convert_wan import main as convert_main
from mlx_video.errors import AdapterError, CheckpointError, RequestError
from mlx_video.events import BytesChecked, BytesDownloaded, Notice
from mlx_video.generate_wan import main as generate_main
from mlx_video.request import ConvertRequest
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import write_comfy_tree, write_gguf_transformer, write_plain
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.hub_server import Repository, go_online, serve_hub
from tests.fixtures.tiny_checkpoint import TinySizes, write_tiny_checkpoint, write_tokenizer
from tests.fixtures.tiny_variants import write_tiny_variant

pytestmark = pytest.mark.slow

T2V = "wan2.1-t2v-1.3b"
T2V_NAME = "Wan-AI/Wan2.1-T2V-1.3B"
ROOT = Path(__file__).parents[2]
SETTINGS = {
    "steps": 1, "width": 16, "height": 16, "num_frames": 5, "seed": 1, "guide_scale": 1.0,
    "prompt_cache": False, "device_check": False,
}  # fmt: skip
FLAGS = "--steps 1 --width 16 --height 16 --num-frames 1 --seed 1 --guide-scale 1 --no-device-check".split()
LAYOUTS = {
    "Wan-AI/Wan2.1-T2V-1.3B": (write_tiny_variant, T2V),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (write_diffusers_variant, T2V),
    "Wan-AI/Wan2.2-T2V-A14B": (write_tiny_variant, "wan2.2-t2v-a14b"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name of a repository → its files in a folder here, and what a repository has besides."""
    root = tmp_path_factory.mktemp("served")
    found = {name: root / name for name in LAYOUTS}
    for name, (write, variant) in LAYOUTS.items():
        write(found[name], variant)
        (found[name] / "assets").mkdir()
        (found[name] / "assets" / "demo.mp4").write_bytes(bytes(30_000))
        (found[name] / "pytorch_model.bin").write_bytes(bytes(30_000))
    found["Anes1032/Wan2.1-mlx"] = convert_checkpoint(
        found["Wan-AI/Wan2.1-T2V-1.3B"], root / "Wan2.1-mlx", dtype="float32"
    )
    return found


@pytest.fixture(scope="module")
def server():
    with serve_hub() as running:
        yield running


@pytest.fixture(autouse=True)
def online(server, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go_online(monkeypatch, server, tmp_path / "cache")
    server.requests.clear()
    server.repositories = {name: Repository(folder) for name, folder in folders.items()}


def assert_same_files(found, expected):
    def names(folder):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

    assert names(found) == names(expected)
    for name in names(expected):
        if (expected / name).is_file():
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def assert_same_tensors(found, expected):
    """Where config.json may differ: it names the adapters' files, and follows the transformer's own."""
    names = sorted(path.name for path in expected.glob("*.safetensors"))
    assert [path.name for path in sorted(found.glob("*.safetensors"))] == names
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_repository_converts_to_the_files_that_its_folder_converts_to(name, folders, server, tmp_path):
    events = []
    found = convert_checkpoint(name, tmp_path / "out", on_event=events.append)
    expected = convert_checkpoint(folders[name], tmp_path / "expected")
    assert_same_files(found, expected)
    assert any(isinstance(event, BytesDownloaded) for event in events)
    assert not {"assets/demo.mp4", "pytorch_model.bin"} & set(server.downloads())


def test_a_converted_repository_makes_the_video_of_its_folder(folders):
    name = "Anes1032/Wan2.1-mlx"
    events = []
    pipe = WanPipeline.from_pretrained(name, on_event=events.append)
    assert any(isinstance(event, BytesDownloaded) for event in events)
    assert isinstance(events[-1], BytesChecked)
    video = pipe("a red circle", **SETTINGS)
    expected = WanPipeline.from_pretrained(folders[name])("a red circle", **SETTINGS)
    assert mx.array_equal(video.latents, expected.latents)


def test_the_second_time_nothing_is_reported(folders):
    WanPipeline.from_pretrained("Anes1032/Wan2.1-mlx")
    events = []
    WanPipeline.from_pretrained("Anes1032/Wan2.1-mlx", on_event=events.append)
    assert events == []


def test_a_converted_repository_is_quantized_from_its_name(folders, tmp_path):
    name = "Anes1032/Wan2.1-mlx"
    found = convert_checkpoint(name, tmp_path / "out", quantize_only=True)
    assert_same_files(found, convert_checkpoint(folders[name], tmp_path / "expected", quantize_only=True))


OWN = {
    "Wan-AI/Wan2.1-T2V-1.3B": {
        "transformer": "diffusion_pytorch_model.safetensors",
        "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
        "vae": "Wan2.1_VAE.pth",
        "tokenizer": "google/umt5-xxl",
    },
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {"transformer": "transformer", "vae": "vae"},
    "Wan-AI/Wan2.2-T2V-A14B": {"high_noise": "high_noise_model", "low_noise": "low_noise_model"},
}


@pytest.mark.sample(3)
@pytest.mark.parametrize(("name", "option"), [(name, option) for name in OWN for option in OWN[name]])
def test_a_component_of_the_users_own_is_not_downloaded(name, option, folders, server, tmp_path):
    part = OWN[name][option]
    own, source = tmp_path / "own" / Path(part).name, folders[name] / part
    own.parent.mkdir()
    (shutil.copytree if source.is_dir() else shutil.copy)(source, own)
    found = convert_checkpoint(name, tmp_path / "out", **{option: own})
    weights = [
        done for done in server.downloads() if done.endswith((".safetensors", ".pth", "tokenizer.json"))
    ]
    assert weights
    assert not [done for done in weights if done.startswith(part)]
    assert_same_tensors(found, convert_checkpoint(folders[name], tmp_path / "expected"))


PARTS = {
    "transformer": "city96/wan-gguf/wan-F16.gguf",
    "text_encoder": "Comfy-Org/Wan/text_encoders/umt5_xxl_fp16.safetensors",
    "vae": "Comfy-Org/Wan/vae/wan_2.1_vae.safetensors",
}


@pytest.fixture
def single_files(server, tmp_path):
    """Repositories of single files; their folders here."""
    root = tmp_path / "served"
    tiny = write_tiny_checkpoint(tmp_path / "original")
    write_comfy_tree(root / "Comfy-Org" / "Wan", tiny)
    write_gguf_transformer(root / PARTS["transformer"], tiny.transformer)
    (root / "city96" / "wan-gguf" / "wan-Q8_0.gguf").write_bytes(bytes(30_000))
    (root / "someone" / "styles").mkdir(parents=True)
    write_adapter(root / "someone" / "styles" / "a.safetensors", tiny.sizes.transformer)
    write_tokenizer(root / "google" / "umt5-xxl")
    server.repositories |= {f"{f.parent.name}/{f.name}": Repository(f) for f in root.glob("*/*")}
    return root


def test_components_are_named_as_files_of_repositories(single_files, server, tmp_path, monkeypatch):
    found = convert_checkpoint(None, tmp_path / "out", **PARTS)
    assert set(server.downloads()) == {place.split("/", 2)[2] for place in PARTS.values()}
    encoders = {option: place for option, place in PARTS.items() if option != "transformer"}
    assert_same_files(convert_checkpoint(PARTS["transformer"], tmp_path / "based", **encoders), found)
    own = {option: single_files / place for option, place in PARTS.items()}
    assert_same_files(found, convert_checkpoint(None, tmp_path / "expected", **own))
    go_online(monkeypatch, None, tmp_path / "cache")
    assert_same_files(convert_checkpoint(None, tmp_path / "again", **PARTS), found)
    with pytest.raises(CheckpointError, match=r"wan-Q8_0\.gguf: is not in the cache .* Go online once"):
        convert_checkpoint(None, tmp_path / "no", **PARTS | {"transformer": "city96/wan-gguf/wan-Q8_0.gguf"})


def test_a_tokenizer_is_named_by_its_repository(single_files, server, tmp_path):
    (single_files / "google" / "umt5-xxl" / "model-00001-of-00002.safetensors").write_bytes(bytes(1000))
    found = convert_checkpoint(None, tmp_path / "out", **PARTS, tokenizer="google/umt5-xxl")
    assert "model-00001-of-00002.safetensors" not in server.downloads()
    assert (found / "tokenizer" / "tokenizer.json").read_bytes() == (
        single_files / "google" / "umt5-xxl" / "tokenizer.json"
    ).read_bytes()


def test_a_checkpoint_without_tokenizer_gets_the_one_of_all_wan_models(single_files, server, tmp_path):
    text_encoder = single_files / PARTS["text_encoder"]
    tensors = mx.load(str(text_encoder))
    del tensors["spiece_model"]
    mx.save_safetensors(str(text_encoder), tensors)

    def run(name):
        own = {option: single_files / place for option, place in PARTS.items()}
        events = list(convert(ConvertRequest(None, tmp_path / name, **own)))
        return [event.text for event in events if isinstance(event, Notice) and "took" in event.text]

    (notice,) = run("first")
    assert notice.endswith("neither in a folder nor in its text encoder; took that of google/umt5-xxl.")
    assert server.downloads() == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    server.requests.clear()
    assert run("second") == [notice]
    assert server.requests == []
    expected = single_files / "google" / "umt5-xxl" / "tokenizer.json"
    assert (tmp_path / "first" / "tokenizer" / "tokenizer.json").read_bytes() == expected.read_bytes()
    assert_same_files(tmp_path / "first", tmp_path / "second")


def test_an_unknown_option_is_named(tmp_path):
    with pytest.raises(
        RequestError, match=r"vaee: unknown option\. Known: audio_encoder, bits, called, checkpoint_dir"
    ):
        convert_checkpoint(None, tmp_path / "out", vaee="a.safetensors")


def test_a_folder_of_shards_is_named_in_its_repository(folders, server, tmp_path):
    name = "Wan-AI/Wan2.2-T2V-A14B"
    experts = {"high_noise": f"{name}/high_noise_model", "low_noise": f"{name}/low_noise_model"}
    found = convert_checkpoint(folders[name], tmp_path / "out", **experts)
    assert {done.split("/")[0] for done in server.downloads()} == {"high_noise_model", "low_noise_model"}
    assert_same_files(found, convert_checkpoint(folders[name], tmp_path / "expected"))


def test_an_adapter_is_named_as_a_file_of_a_repository(single_files, server, tmp_path):
    place, name = "someone/styles/a.safetensors", "Wan-AI/Wan2.1-T2V-1.3B"
    own = single_files / place
    baked = convert_checkpoint(name, tmp_path / "out", loras=place)
    assert_same_tensors(baked, convert_checkpoint(name, tmp_path / "expected", loras=own))
    pipe = WanPipeline.from_pretrained("Anes1032/Wan2.1-mlx")
    latents = pipe("a red circle", loras=[(place, 0.5)], **SETTINGS).latents
    assert mx.array_equal(latents, pipe("a red circle", loras=[(own, 0.5)], **SETTINGS).latents)
    planned = SETTINGS | {"memory_limit": 4}  # what the machine has free changes from moment to moment
    assert str(pipe.plan("a red circle", loras=place, **planned)) == str(
        pipe.plan("a red circle", loras=own, **planned)
    )
    model = ["--model-dir", "Anes1032/Wan2.1-mlx", "--prompt", "a", *FLAGS, "--quiet"]
    assert generate_main([*model, "--output-path", "a.png", "--lora", place]) == 0
    assert server.downloads().count("a.safetensors") == 1


def test_an_adapter_is_recorded_as_the_user_named_it(single_files, server, tmp_path, monkeypatch):
    place, model = "someone/styles/a.safetensors", "Anes1032/Wan2.1-mlx"
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(single_files / place, tmp_path / "mine.safetensors")
    pipe = WanPipeline.from_pretrained(model)
    video = pipe("a", loras=[(place, 0.5), "~/mine.safetensors"], **SETTINGS)
    assert video.settings["loras"] == f"{place} 0.5, ~/mine.safetensors 1"
    lora = ["--lora", place, "0.5", "--lora", "~/mine.safetensors"]
    assert convert_main(["--checkpoint-dir", model, "--quantize-only", *lora, "--output-dir", "out"]) == 0
    recorded = json.loads(Path("out/config.json").read_text())["mlx_video"]["loras"]
    assert recorded == [f"{place} 0.5", "~/mine.safetensors 1"]


def test_adapters_on_the_hub_are_compared_by_content_and_not_by_name(single_files, server, tmp_path):
    place = "someone/styles/a.safetensors"
    pipe = WanPipeline.from_pretrained("Anes1032/Wan2.1-mlx")
    kept = SETTINGS | {"output_path": tmp_path / "a.png", "num_frames": 1, "keep_state": True}
    pipe("a", loras=place, **kept)
    pipe("a", loras=single_files / place, resume=True, **kept)
    revised = tmp_path / "revised"
    revised.mkdir()
    write_adapter(revised / "a.safetensors", TinySizes().transformer, seed=1)
    server.repositories["someone/styles"] = Repository(revised)
    with pytest.raises(RequestError, match=r"adapter 1 of --lora is .* there and .* here"):
        pipe("a", loras=place, resume=True, **kept)


def write_peft_adapter(folder):
    """An adapter without alphas of its own, and the description that has one."""
    folder.mkdir(parents=True)
    write_adapter(folder / "plain.safetensors", TinySizes().transformer)
    arrays = {
        name: a for name, a in mx.load(str(folder / "plain.safetensors")).items() if "alpha" not in name
    }
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), arrays)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))


@pytest.mark.parametrize("place", ["someone/peft/style", "someone/peft/style/adapter_model.safetensors"])
def test_an_adapter_of_peft_comes_with_the_alpha_beside_it(single_files, server, tmp_path, place):
    folder = single_files / "someone" / "peft" / "style"
    write_peft_adapter(folder)
    server.repositories["someone/peft"] = Repository(folder.parent)
    pipe = WanPipeline.from_pretrained("Anes1032/Wan2.1-mlx")
    latents = pipe("a red circle", loras=place, **SETTINGS).latents
    fetched = [name for name in server.downloads() if name.startswith("style/")]
    assert fetched == ["style/adapter_config.json", "style/adapter_model.safetensors"]
    assert mx.array_equal(latents, pipe("a red circle", loras=folder, **SETTINGS).latents)
    (folder / "adapter_config.json").unlink()
    assert not mx.array_equal(latents, pipe("a red circle", loras=folder, **SETTINGS).latents)


def test_a_distilled_adapter_on_the_hub_is_known_by_its_repository(single_files, server):
    server.repositories["someone/Wan-Lightning"] = server.repositories["someone/styles"]
    events = []
    pipe = WanPipeline.from_pretrained("Anes1032/Wan2.1-mlx")
    settings = SETTINGS | {"guide_scale": 5.0}
    pipe("a", loras="someone/Wan-Lightning/a.safetensors", on_event=events.append, **settings)
    assert any("suggests a distilled adapter" in event.text for event in events if isinstance(event, Notice))


def split_weights(file, folder, count):
    """Write a file's tensors as shards without an index; returns their names."""
    folder.mkdir()
    tensors = sorted(mx.load(str(file)).items())
    names = [f"wan-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    for n, name in enumerate(names):
        mx.save_safetensors(str(folder / name), dict(tensors[n::count]))
    return names


def test_a_shard_stands_for_all_of_its_component(folders, server, tmp_path):
    name = "Wan-AI/Wan2.1-T2V-1.3B"
    shards = split_weights(folders[name] / "diffusion_pytorch_model.safetensors", tmp_path / "served", 3)
    server.repositories["someone/shards"] = Repository(tmp_path / "served")
    found = convert_checkpoint(folders[name], tmp_path / "out", transformer=f"someone/shards/{shards[1]}")
    assert server.downloads() == shards
    assert_same_tensors(found, convert_checkpoint(folders[name], tmp_path / "expected"))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("city96/wan-gguf/wan-Q8.gguf", r"city96/wan-gguf: has no wan-Q8\.gguf\. Is it wan-Q8_0\.gguf\?"),
        ("city96/wan-gguf/unet", r"city96/wan-gguf: has no unet\. Is it wan-F16\.gguf\?"),
        ("city96/wan-gguf", r"has no weights outside of folders\. Is it wan-F16\.gguf\?"),
        ("city96/nothing/wan.gguf", r"city96/nothing: is neither here nor a repository on the Hub"),
        ("models/wan.gguf", r"transformer: models/wan\.gguf: no such file"),
        ("here/too/wan.gguf", r"transformer: here/too/wan\.gguf: no such file"),
        ("./city96/wan-gguf/wan-F16.gguf", r"/city96/wan-gguf/wan-F16\.gguf: no such file"),
    ],
)
def test_a_file_that_is_nowhere_is_an_error_that_tells_where_it_was_looked_for(
    single_files, tmp_path, place, expected
):
    (tmp_path / "here").mkdir()
    with pytest.raises((CheckpointError, RequestError), match=expected):
        convert_checkpoint(None, tmp_path / "out", **PARTS | {"transformer": place})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"vae": "nosuch.pth"}, r"vae: nosuch\.pth: no such file"),
        ({"tokenizer": "nosuch"}, r"tokenizer: nosuch: no such folder"),
        ({"text_encoder": "Comfy-Org/Wan/nosuch.safetensors"}, r"Comfy-Org/Wan: has no nosuch"),
        ({"loras": "nosuch.safetensors"}, r"nosuch\.safetensors"),
        ({"loras": "someone/styles/nosuch.safetensors"}, r"someone/styles: has no nosuch"),
        ({"output_dir": "taken"}, r"taken: is not empty and no converted model"),
        ({"checkpoint_dir": "Comfy-Org/Wan", **PARTS}, r"Comfy-Org/Wan: holds 3 single files"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_downloaded(
    single_files, server, tmp_path, options, expected
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "novel.txt").write_text("It was")
    with pytest.raises((AdapterError, CheckpointError, RequestError), match=expected):
        convert_checkpoint(**({"checkpoint_dir": "Wan-AI/Wan2.1-T2V-1.3B"} | options))
    assert [name for name in server.downloads() if not name.endswith(".json")] == []


def test_a_checkpoint_given_as_a_model_is_refused_before_its_download(server):
    with pytest.raises(
        CheckpointError, match=r"Convert it first: .*--checkpoint-dir Wan-AI/Wan2\.1-T2V-1\.3B"
    ):
        WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B")
    assert server.downloads() == []


def test_a_revision_without_a_checkpoint_is_refused(tmp_path):
    parts = {name: tmp_path for name in ("transformer", "text_encoder", "vae")}
    with pytest.raises(RequestError, match="revision: counts only with --checkpoint-dir"):
        ConvertRequest(revision="v1", **parts)


@pytest.fixture
def without_tokenizer(folders, tmp_path):
    folder = shutil.copytree(folders["Anes1032/Wan2.1-mlx"], tmp_path / "model")
    shutil.rmtree(folder / "tokenizer")
    return folder


def test_a_folder_without_tokenizer_gets_the_one_of_all_wan_models_once(
    without_tokenizer, folders, server, tmp_path, monkeypatch
):
    write_tokenizer(tmp_path / "umt5")
    server.repositories["google/umt5-xxl"] = Repository(tmp_path / "umt5")

    def make():
        events = []
        pipe = WanPipeline.from_pretrained(without_tokenizer)
        video = pipe("a red circle", on_event=events.append, **SETTINGS)
        return video, [event.text for event in events if isinstance(event, Notice)]

    video, notices = make()
    expected = WanPipeline.from_pretrained(folders["Anes1032/Wan2.1-mlx"])("a red circle", **SETTINGS)
    assert mx.array_equal(video.latents, expected.latents)
    assert notices[0] == f"{without_tokenizer} has no tokenizer; took that of google/umt5-xxl."
    assert notices[1].startswith("Downloading 3 files of google/umt5-xxl")
    go_online(monkeypatch, None, tmp_path / "cache")
    again, notices = make()
    assert mx.array_equal(again.latents, expected.latents)
    assert notices == []


def test_without_network_a_missing_tokenizer_says_how_to_copy_one(without_tokenizer, monkeypatch, tmp_path):
    go_online(monkeypatch, None, tmp_path / "cache")
    expected = (
        r"Copy the files of google/umt5-xxl .*model/tokenizer\. Downloading them failed\. .*HF_HUB_OFFLINE"
    )
    with pytest.raises(CheckpointError, match=expected):
        WanPipeline.from_pretrained(without_tokenizer)("a red circle", **SETTINGS)


def test_the_command_takes_names_and_revisions(server, capsys):
    commit = server.repositories["Wan-AI/Wan2.1-T2V-1.3B"].commit
    command = ["--checkpoint-dir", "Wan-AI/Wan2.1-T2V-1.3B", "--revision", commit, "--output-dir", "out"]
    assert convert_main(command) == 0
    assert f"({commit}, {commit[:8]})" in capsys.readouterr().err
    model = ["--model-dir", "Anes1032/Wan2.1-mlx", "--revision", "main", "--prompt", "a", *FLAGS]
    assert generate_main([*model, "--output-path", "a.png", "--quiet"]) == 0
    assert capsys.readouterr() == ("a.png\n", "")
    assert generate_main(["--model-dir", "models/wan", "--prompt", "a"]) == 1
    assert "error: models/wan: is neither here nor a repository on the Hub" in capsys.readouterr().err


def test_an_interrupted_download_says_how_to_go_on(capsys):
    def interrupted(args):
        yield BytesDownloaded(1, 2)
        raise KeyboardInterrupt

    args = build_parser().parse_args(["--checkpoint-dir", "a", "--quiet"])
    assert run_command(interrupted, args) == EXIT_INTERRUPTED
    assert "the same command goes on from there" in capsys.readouterr().err


def test_the_environment_variables_of_huggingface_hub_are_honoured(server, tmp_path):
    """In processes of their own, since huggingface_hub reads most of them when it is imported."""
    own = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_of_the_test", "PYTHONWARNINGS": "error"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def convert(name, **environment):
        output = str(tmp_path / name)
        command = [sys.executable, "-m", "mlx_video.convert_wan", "--quiet", "--output-dir", output]
        done = subprocess.run(
            [*command, "--checkpoint-dir", "Wan-AI/Wan2.1-T2V-1.3B"],
            env=inherited | own | environment, capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{output}\n", "")

    convert("first", HF_ENDPOINT=server.url)
    tokens = {request.token for request in server.requests if "/models/Wan-AI/" in request.path}
    assert tokens == {"Bearer hf_of_the_test"}
    assert (tmp_path / "home" / "hub" / "models--Wan-AI--Wan2.1-T2V-1.3B").is_dir()
    convert("second", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert_same_files(tmp_path / "second", tmp_path / "first")


def everything_under(folder):
    return sorted(folder.rglob("*"))


def test_planning_downloads_no_tokenizer_and_says_that_a_run_would(
    without_tokenizer, server, tmp_path, capsys
):
    write_tokenizer(tmp_path / "umt5")
    server.repositories["google/umt5-xxl"] = Repository(tmp_path / "umt5")
    before = everything_under(tmp_path)
    pipeline = WanPipeline.from_pretrained(without_tokenizer, keep_networks=False)  # as the command
    plan = pipeline.plan("a red circle", memory_limit=4)
    said = f"{without_tokenizer} has no tokenizer; a run takes that of google/umt5-xxl, downloaded the first"
    said += " time."
    assert plan.notices == (said,)
    assert generate_main(["--model-dir", str(without_tokenizer), "--plan", "--memory-limit", "4"]) == 0
    assert capsys.readouterr().out == f"{plan}\n"
    assert str(plan).startswith(f"{said}\nmachine: ")
    assert server.requests == []
    assert everything_under(tmp_path) == before


def test_planning_downloads_no_model_and_no_adapter(single_files, folders, server, tmp_path, capsys):
    name, adapter = "Anes1032/Wan2.1-mlx", "someone/styles/a.safetensors"
    before = everything_under(tmp_path)
    argv = ["--plan", "--memory-limit", "4"]
    assert generate_main(["--model-dir", name, *argv]) == 1
    shown = capsys.readouterr().err
    assert f"error: {name}: is not here, nor whole in the cache of the Hub" in shown
    assert f"a plan downloads nothing. Check the path, or download it first: hf download {name}" in shown
    own = str(folders[name])
    assert generate_main(["--model-dir", own, "--lora", adapter, *argv]) == 1
    assert "someone/styles: is not here" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="someone/styles: is not here.* a plan downloads nothing"):
        WanPipeline.from_pretrained(folders[name]).plan("a red circle", loras=adapter)
    assert server.requests == []
    assert everything_under(tmp_path) == before


def test_planning_takes_what_was_downloaded_before_without_asking_the_hub(
    single_files, server, tmp_path, capsys
):
    name, adapter = "Anes1032/Wan2.1-mlx", "someone/styles/a.safetensors"
    WanPipeline.from_pretrained(name)("a", loras=adapter, **SETTINGS)
    server.requests.clear()
    before = everything_under(tmp_path)
    assert generate_main(["--model-dir", name, "--lora", adapter, "--plan", "--memory-limit", "4"]) == 0
    assert "budget: 4.00 GB" in capsys.readouterr().out
    assert server.requests == []
    assert everything_under(tmp_path) == before
    WanPipeline.from_pretrained(name)
    assert server.requests != [], "only a plan does without the Hub"
    server.requests.clear()
    assert (
        generate_main(["--model-dir", name, "--lora", "someone/styles/other one.safetensors", "--plan"]) == 1
    )
    shown = capsys.readouterr().err
    assert "someone/styles/other one.safetensors: is not here, nor whole in the cache of the Hub" in shown
    assert "hf download someone/styles 'other one.safetensors'" in shown
    assert server.requests == []


def test_a_damaged_download_is_converted_by_nothing(server, tmp_path, capsys):
    repository, name = server.repositories[T2V_NAME], "diffusion_pytorch_model.safetensors"
    content = bytearray(repository.files[name])
    content[-1] ^= 1  # one bit of one number
    repository.bodies = {name: bytes(content)}
    command = ["--checkpoint-dir", T2V_NAME, "--output-dir", "out"]
    assert convert_main(command) == 1
    assert f"error: {T2V_NAME}: {name} came in damaged (sha256 " in capsys.readouterr().err
    assert not Path("out").exists()
    repository.bodies = {}
    assert convert_main(command) == 0


def address(server, name, rest=""):
    return f"{server.url}/{name}{rest}"


@pytest.mark.sample(3)
@pytest.mark.parametrize("rest", ["", "/tree/main", "/tree/COMMIT", "?not-for-all-audiences=true"])
@pytest.mark.parametrize("is_path", [False, True])
def test_the_address_of_a_repository_converts_as_its_name(folders, server, tmp_path, rest, is_path):
    place = address(server, T2V_NAME, rest.replace("COMMIT", server.repositories[T2V_NAME].commit))
    found = convert_checkpoint(Path(place) if is_path else place, tmp_path / "out")
    assert_same_files(found, convert_checkpoint(folders[T2V_NAME], tmp_path / "expected"))


def test_an_address_never_means_a_folder_here(folders, server, tmp_path):
    (tmp_path / T2V_NAME).mkdir(parents=True)
    found = convert_checkpoint(address(server, T2V_NAME), tmp_path / "out")
    assert_same_files(found, convert_checkpoint(folders[T2V_NAME], tmp_path / "expected"))


def test_addresses_name_components_and_adapters(single_files, folders, server, tmp_path):
    views = {"transformer": "blob", "text_encoder": "resolve", "vae": "raw"}
    own = {option: single_files / place for option, place in PARTS.items()}
    adapter = single_files / "someone" / "styles" / "a.safetensors"
    parts = {}
    for option, place in PARTS.items():
        owner, name, file = place.split("/", 2)
        parts[option] = address(server, f"{owner}/{name}", f"/{views[option]}/main/{file}?download=true")
    parts["tokenizer"] = address(server, "google/umt5-xxl", "/tree/main")
    parts["loras"] = (address(server, "someone/styles", "/blob/main/a.safetensors"), 0.5)
    found = convert_checkpoint(None, tmp_path / "out", **parts | {"loras": [parts["loras"]]})
    own |= {"tokenizer": single_files / "google" / "umt5-xxl", "loras": [(adapter, 0.5)]}
    assert_same_tensors(found, convert_checkpoint(None, tmp_path / "expected", **own))
    assert (found / "tokenizer" / "tokenizer.json").is_file()
    recorded = json.loads((found / "config.json").read_text())["mlx_video"]["loras"]
    assert recorded == [f"{parts['loras'][0]} 0.5"]


def test_the_address_of_a_folder_names_experts(folders, server, tmp_path):
    name = "Wan-AI/Wan2.2-T2V-A14B"
    experts = {
        "high_noise": address(server, name, "/tree/main/high_noise_model"),
        "low_noise": f"hf://{name}@main/low_noise_model",
    }
    found = convert_checkpoint(folders[name], tmp_path / "out", **experts)
    assert {done.split("/")[0] for done in server.downloads()} == {"high_noise_model", "low_noise_model"}
    assert_same_files(found, convert_checkpoint(folders[name], tmp_path / "expected"))


def test_the_address_of_a_single_file_is_a_checkpoint_with_components(single_files, server, tmp_path):
    found = convert_checkpoint(None, tmp_path / "expected", **PARTS)
    others = {option: place for option, place in PARTS.items() if option != "transformer"}
    place = address(server, "city96/wan-gguf", "/blob/main/wan-F16.gguf")
    assert_same_files(convert_checkpoint(place, tmp_path / "out", **others), found)


def test_a_component_comes_from_the_revision_of_its_address(single_files, server, tmp_path):
    repository = server.repositories["city96/wan-gguf"]
    repository.branches = ("refs/pr/7",)
    place = address(server, "city96/wan-gguf", "/blob/refs%2Fpr%2F7/wan-F16.gguf")
    convert_checkpoint(None, tmp_path / "out", **PARTS | {"transformer": place})
    asked = [request.path for request in server.requests if "/api/models/city96/" in request.path]
    assert asked == ["/api/models/city96/wan-gguf/revision/refs%2Fpr%2F7?blobs=true"]
    with pytest.raises(CheckpointError, match="city96/wan-gguf: has no revision main"):
        convert_checkpoint(None, tmp_path / "no", **PARTS)


def test_a_revision_and_an_address_may_agree_but_not_contradict(folders, server, tmp_path):
    place = address(server, T2V_NAME, "/tree/main")
    convert_checkpoint(place, tmp_path / "out", revision="main")
    commit = server.repositories[T2V_NAME].commit
    convert_checkpoint(address(server, T2V_NAME), tmp_path / "out", revision=commit)
    server.requests.clear()
    with pytest.raises(RequestError, match=rf"v1: the address of {T2V_NAME} names main\. Give one") as caught:
        convert_checkpoint(place, tmp_path / "no", revision="v1")
    assert caught.value.field == "revision"
    with pytest.raises(RequestError, match="names main"):
        WanPipeline.from_pretrained(address(server, "Anes1032/Wan2.1-mlx", "/tree/main"), revision="v1")
    assert server.requests == []


@pytest.mark.parametrize("rest", ["", "/tree/main"])
def test_a_converted_repository_is_opened_by_its_address(folders, server, rest, capsys):
    place = address(server, "Anes1032/Wan2.1-mlx", rest)
    video = WanPipeline.from_pretrained(place)("a red circle", **SETTINGS)
    expected = WanPipeline.from_pretrained(folders["Anes1032/Wan2.1-mlx"])("a red circle", **SETTINGS)
    assert mx.array_equal(video.latents, expected.latents)
    model = ["--model-dir", place, "--prompt", "a", *FLAGS, "--quiet"]
    assert generate_main([*model, "--output-path", "a.png"]) == 0


@pytest.mark.parametrize("place", ["someone/models/small", "{url}/someone/models/tree/main/small"])
@pytest.mark.parametrize("use", ["run", "convert"])
def test_a_model_in_a_folder_of_a_repository_is_found(folders, server, tmp_path, place, use):
    name = "Anes1032/Wan2.1-mlx" if use == "run" else T2V_NAME
    shutil.copytree(folders[name], tmp_path / "served" / "small")
    (tmp_path / "served" / "large").mkdir()
    (tmp_path / "served" / "large" / "model.safetensors").write_bytes(bytes(10_000))
    server.repositories["someone/models"] = Repository(tmp_path / "served")
    place = place.format(url=server.url)
    if use == "run":
        assert WanPipeline.from_pretrained(place).folder.path.name == "small"
    else:
        expected = convert_checkpoint(folders[name], tmp_path / "expected")
        assert_same_files(convert_checkpoint(place, tmp_path / "out"), expected)
    assert {done.partition("/")[0] for done in server.downloads()} == {"small"}
    absent = place.replace("small", "nosuch")
    with pytest.raises(
        CheckpointError, match=r"/nosuch: there is no such folder\. Folders there: large, small"
    ):
        convert_checkpoint(absent, tmp_path / "no")


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("checkpoint_dir", "--checkpoint-dir"),
        ("transformer", "--transformer"),
        ("vae", "--vae"),
        ("tokenizer", "--tokenizer"),
        ("loras", "--lora"),
    ],
)
@pytest.mark.parametrize(
    "place", ["https://example.com/a/b", "{url}/datasets/a/b", "{url}/a/b/discussions/1"]
)
def test_other_addresses_are_refused_by_the_option(server, tmp_path, option, flag, place, capsys):
    place = place.format(url=server.url)
    told = f"{place}: (addresses are not read|is no address of a model)"
    given = {"checkpoint_dir": "m"} | {option: place}
    with pytest.raises(RequestError, match=told) as caught:
        convert_checkpoint(**given, output_dir=tmp_path / "out")
    assert caught.value.field == option
    command = ["--output-dir", "out", flag, place]
    assert convert_main(command if option == "checkpoint_dir" else [*command, "--checkpoint-dir", "m"]) == 2
    assert f"error: {flag} {place}: " in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize("place", ["https://example.com/a/b", "{url}/datasets/a/b"])
def test_other_addresses_are_no_models_to_run(server, place, capsys):
    place = place.format(url=server.url)
    for form in (place, Path(place)):
        with pytest.raises(CheckpointError, match=f"^{place}: (addresses are not read|is no address)"):
            WanPipeline.from_pretrained(form)
    assert generate_main(["--model-dir", place, "--prompt", "a"]) == 1
    assert f"error: {place}: " in capsys.readouterr().err


def test_paths_here_may_be_addresses(folders, tmp_path, monkeypatch):
    (tmp_path / "my models").mkdir()
    shutil.copytree(folders["Anes1032/Wan2.1-mlx"], tmp_path / "my models" / "wan")
    monkeypatch.setenv("HOME", str(tmp_path))
    own = f"file://{tmp_path}/my%20models/wan"
    for place in (own, Path(own), "~/my models/wan", Path("~/my models/wan")):
        assert WanPipeline.from_pretrained(place).folder.path == tmp_path / "my models" / "wan"
    shutil.copytree(folders[T2V_NAME], tmp_path / "my models" / "original")
    found = convert_checkpoint(
        f"file://localhost{tmp_path}/my%20models/original", f"file://{tmp_path}/my%20out"
    )
    assert found == tmp_path / "my out"
    assert_same_files(found, convert_checkpoint(folders[T2V_NAME], tmp_path / "expected"))


@pytest.mark.parametrize(
    ("rest", "command"),
    [
        ("", f"--checkpoint-dir {T2V_NAME} --output-dir wan_mlx_model"),
        ("/tree/v1", f"--checkpoint-dir {T2V_NAME} --output-dir wan_mlx_model --revision v1"),
        (
            "/blob/main/a.gguf",
            f"--checkpoint-dir {T2V_NAME}/a.gguf --output-dir wan_mlx_model --revision main",
        ),
    ],
)
def test_an_address_is_inspected_as_a_name_of_the_hub_is(server, rest, command, capsys):
    assert convert_main(["--inspect", address(server, T2V_NAME, rest)]) == 1
    shown = capsys.readouterr().err
    assert "The Hub is not inspected: download the repository first, or convert it by its name: " in shown
    assert shown.endswith(f"{command}\n")


def test_inspection_takes_addresses_of_files_here_and_refuses_others(folders, tmp_path, capsys):
    shutil.copytree(folders["Anes1032/Wan2.1-mlx"], tmp_path / "my model")
    assert convert_main(["--inspect", f"file://{tmp_path}/my%20model"]) == 0
    assert "Wan2.1 T2V" in capsys.readouterr().out
    assert convert_main(["--inspect", "https://example.com/a.safetensors"]) == 1
    assert "error: https://example.com/a.safetensors: addresses are not read" in capsys.readouterr().err


def test_shards_with_their_precision_behind_the_number_are_downloaded_as_one_copy(server, tmp_path):
    name, folder = "Wan-AI/Wan2.2-TI2V-5B", tmp_path / "served"
    write_tiny_variant(folder, "wan2.2-ti2v-5b")
    expected = convert_checkpoint(folder, tmp_path / "expected")
    shards = sorted(folder.glob("*-of-*.safetensors"))
    for shard in shards:
        shutil.copy(shard, shard.with_name(shard.name.replace(".safetensors", "-bf16.safetensors")))
    shards[1].unlink()
    server.repositories[name] = Repository(folder)
    assert_same_files(convert_checkpoint(name, tmp_path / "out"), expected)
    assert shards[0].name not in server.downloads()
    folder.joinpath(shards[1].name.replace(".safetensors", "-bf16.safetensors")).unlink()
    server.repositories["owner/broken"] = Repository(folder)
    with pytest.raises(CheckpointError, match="hard 2 of 2 .*is absent"):
        convert_checkpoint("owner/broken", tmp_path / "broken")


def test_experts_of_any_name_in_their_folders_convert_from_the_hub(server, tmp_path):
    name, folder = "owner/Wan2.2-T2V", tmp_path / "served"
    tiny = write_tiny_checkpoint(folder)
    for index, stage in enumerate(("low_noise", "high_noise")):
        arrays = {key: values + index for key, values in tiny.transformer.items()}
        write_plain(folder / f"{stage}_model" / f"wan2.2_t2v_A14b_{stage}_lightx2v_4step.safetensors", arrays)
        shutil.copy(folder / "config.json", folder / f"{stage}_model")
    tiny.transformer_file.unlink()
    server.repositories[name] = Repository(folder)
    assert_same_files(
        convert_checkpoint(name, tmp_path / "out"), convert_checkpoint(folder, tmp_path / "expected")
    )


def test_a_repository_of_gguf_experts_names_the_pairs(server, tmp_path):
    name, folder = "QuantStack/Wan2.2-T2V-A14B-GGUF", tmp_path / "served"
    for stage in ("HighNoise", "LowNoise"):
        (folder / stage).mkdir(parents=True)
        for kind in ("Q4_K_M", "Q8_0"):
            (folder / stage / f"Wan2.2-T2V-A14B-{stage}-{kind}.gguf").write_bytes(b"GGUF")
    server.repositories[name] = Repository(folder)
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(name, tmp_path / "out")
    first = "{}/{}Noise/Wan2.2-T2V-A14B-{}Noise-Q4_K_M.gguf"
    high, low = (first.format(name, stage, stage) for stage in ("High", "Low"))
    assert f"--high-noise {high} --low-noise {low}" in str(caught.value)
    assert not server.downloads()
