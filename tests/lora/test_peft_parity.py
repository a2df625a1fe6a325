"""PEFT and Diffusers merge the same files to the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_video.lora.apply import apply_adapters
from tests.lora.adapter_files import IMAGE_TO_VIDEO, arrays_of, base_arrays, read, write
from tests.models.networks import build_transformer, transformer_arrays
from tests.parity.diffusers_transformer import build_diffusers, diffusers_name
from tests.parity.golden import fill

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

# float32 rounds at 6e-8, and PEFT scales, multiplies and adds in another order.
TOLERANCE = {"rtol": 1e-6, "atol": 2e-6}
RANK, ALPHA = 4, 3.0
OURS = {"ffn.0": "ffn.fc1", "ffn.2": "ffn.fc2"}
# Official path and ours of every linear layer of the blocks: all that the readers of Diffusers know.
BLOCK_LAYERS = {
    f"blocks.{block}.{layer}": f"blocks.{block}.{OURS.get(layer, layer)}"
    for block in range(IMAGE_TO_VIDEO.num_layers)
    for layer in (
        *(f"{attention}.{letter}" for attention in ("self_attn", "cross_attn") for letter in "qkvo"),
        "cross_attn.k_img", "cross_attn.v_img", "ffn.0", "ffn.2",
    )
}  # fmt: skip
OTHER_LAYERS = {
    "time_projection.1": "time_projection",
    "head.head": "head.head",
    "text_embedding.2": "text_embedding_1",
}
SPELLINGS = {
    "ComfyUI": lambda path: f"diffusion_model.{path}",
    "kohya": lambda path: f"lora_unet_{path.replace('.', '_')}",
    "Diffusers": lambda path: f"transformer.{diffusers_path(path)}",
}


def diffusers_path(path: str) -> str:
    return diffusers_name(f"{path}.weight").removesuffix(".weight")


@pytest.fixture
def theirs():
    return build_diffusers(IMAGE_TO_VIDEO, transformer_arrays(IMAGE_TO_VIDEO))


def assert_same(theirs, path, layers, strength=1.0) -> None:
    """Every layer is what they have in its place, and far from what it was."""
    model = build_transformer(IMAGE_TO_VIDEO)
    apply_adapters(model, read((path, strength), config=IMAGE_TO_VIDEO, strict=True))
    ours, found = arrays_of(model), dict(theirs.named_parameters())
    for official, layer in layers.items():
        expected = found[f"{diffusers_path(official)}.weight"].detach().numpy()
        np.testing.assert_allclose(ours[f"{layer}.weight"], expected, **TOLERANCE, err_msg=layer)
        assert np.abs(expected - base_arrays(IMAGE_TO_VIDEO)[f"{layer}.weight"]).max() > 0.1


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_diffusers_loads_and_fuses_the_same_file_alike(tmp_path, theirs, spelling):
    arrays = {}
    for salt, (official, layer) in enumerate(BLOCK_LAYERS.items(), 1):
        rows, columns = base_arrays(IMAGE_TO_VIDEO)[f"{layer}.weight"].shape
        path, has_alpha = SPELLINGS[spelling](official), spelling != "Diffusers"
        down, up = ("lora_down", "lora_up") if has_alpha else ("lora_A", "lora_B")
        arrays[f"{path}.{down}.weight"] = fill((RANK, columns), salt, 0.5)
        arrays[f"{path}.{up}.weight"] = fill((rows, RANK), salt + 100, 0.5)
        if has_alpha:
            arrays[f"{path}.alpha"] = np.array(ALPHA, np.float32)
    path = write(tmp_path / "style.safetensors", arrays, {"format": "pt"})
    loader = diffusers.loaders.WanLoraLoaderMixin
    state, metadata = loader.lora_state_dict(str(path), return_lora_metadata=True)
    theirs.load_lora_adapter(state, metadata=metadata, prefix="transformer")
    theirs.fuse_lora(lora_scale=0.5)
    theirs.unload_lora()
    assert_same(theirs, path, BLOCK_LAYERS, 0.5)


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 3, "proj": 5}}, {"use_dora": True}]
)
def test_peft_merges_what_it_saved_alike(tmp_path, theirs, settings):
    layers = BLOCK_LAYERS | OTHER_LAYERS
    targets = [diffusers_path(official) for official in layers]
    config = peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=targets, **settings)
    trained = peft.get_peft_model(theirs, config)
    for salt, (name, parameter) in enumerate(trained.named_parameters(), 1):
        if "lora_" in name:
            is_length = "magnitude" in name
            values = fill(tuple(parameter.shape), salt, 0.4, 1.0 if is_length else 0.0)
            parameter.data = torch.tensor(values)
    trained.save_pretrained(tmp_path / "adapter")
    trained.eval()
    assert_same(trained.merge_and_unload(), tmp_path / "adapter", layers)
