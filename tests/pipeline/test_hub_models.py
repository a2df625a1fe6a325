"""Models by the names of their repositories: downloaded, converted, run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video import WanPipeline, convert_checkpoint
from mlx_video.cli.console import EXIT_INTERRUPTED, run_command
from mlx_video.convert_wan import build_parser
from mlx_video.convert_wan import main as convert_main
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import BytesDownloaded, Notice
from mlx_video.generate_wan import main as generate_main
from mlx_video.request import ConvertRequest
from tests.fixtures.adapter_files import write_adapter
from tests.fixtures.comfy_files import write_comfy_tree, write_gguf_transformer
from tests.fixtures.diffusers_checkpoint import write_diffusers_variant
from tests.fixtures.hub_server import Repository, go_online, serve_hub
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint, write_tokenizer
from tests.fixtures.tiny_variants import write_tiny_variant

T2V = "wan2.1-t2v-1.3b"
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
    assert isinstance(events[-1], BytesDownloaded)
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
    own = {option: single_files / place for option, place in PARTS.items()}
    assert_same_files(found, convert_checkpoint(None, tmp_path / "expected", **own))
    go_online(monkeypatch, None, tmp_path / "cache")
    assert_same_files(convert_checkpoint(None, tmp_path / "again", **PARTS), found)
    with pytest.raises(CheckpointError, match=r"wan-Q8_0\.gguf: is not in the cache .* Go online once"):
        convert_checkpoint(None, tmp_path / "no", **PARTS | {"transformer": "city96/wan-gguf/wan-Q8_0.gguf"})


def test_a_tokenizer_is_named_by_its_repository(single_files, server, tmp_path):
    found = convert_checkpoint(None, tmp_path / "out", **PARTS, tokenizer="google/umt5-xxl")
    assert (found / "tokenizer" / "tokenizer.json").read_bytes() == (
        single_files / "google" / "umt5-xxl" / "tokenizer.json"
    ).read_bytes()


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
    assert str(pipe.plan("a red circle", loras=place, **SETTINGS)) == str(
        pipe.plan("a red circle", loras=own, **SETTINGS)
    )
    model = ["--model-dir", "Anes1032/Wan2.1-mlx", "--prompt", "a", *FLAGS, "--quiet"]
    assert generate_main([*model, "--output-path", "a.png", "--lora", place]) == 0
    assert server.downloads().count("a.safetensors") == 1


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
