"""Write the trained parts as a Wan2.1-T2V checkpoint folder in the original layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch_vae import LATENT_MEAN, LATENT_STD

TRANSFORMER_NAMES = (
    (r"^patch_embedding\.reference\.", "ref_conv."),
    (r"condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"scale_shift_table$", "modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)
TEXT_ENCODER_NAMES = (
    (r"^(shared|encoder\.embed_tokens)\.weight$", "token_embedding.weight"),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.", "blocks."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.0\.layer_norm\.", ".norm1."),
    (r"\.layer\.1\.layer_norm\.", ".norm2."),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
    (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
)
CONFIG: dict[str, object] = {
    "_class_name": "WanModel",
    "_diffusers_version": "0.30.0",
    "dim": 192,
    "eps": 1e-06,
    "ffn_dim": 768,
    "freq_dim": 256,
    "in_dim": 16,
    "model_type": "t2v",
    "num_heads": 3,
    "num_layers": 6,
    "out_dim": 16,
    "text_len": 64,
}
IMAGE_CONFIG = CONFIG | {"in_dim": 36, "model_type": "i2v"}
CONTROL_CONFIG = CONFIG | {"in_dim": 52, "model_type": "i2v", "add_ref_conv": True, "in_dim_ref_conv": 16}
TEXT_ENCODER_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
TRANSFORMER_FILE = "diffusion_pytorch_model.safetensors"
# What the control model learns; the rest of its transformer is the one of text to video.
GUIDED_PARTS = re.compile(r"patch_embedding\.|blocks\.[0-3]\.")


def rename(tensors: dict[str, torch.Tensor], table: tuple[tuple[str, str], ...]) -> dict[str, torch.Tensor]:
    """Apply every (pattern, replacement) of a table to every name, in order."""
    return {rename_one(name, table): tensor for name, tensor in tensors.items()}


def rename_one(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Apply every (pattern, replacement) of a table to a name, in order."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def fold_latent_basis(
    vae: dict[str, torch.Tensor], mean: torch.Tensor, unmix: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Move the training latents' coordinates into the two pointwise convolutions, exactly.

    The runtime normalises with Wan2.1's own statistics; afterwards its latents are the training latents.
    """
    official_mean, official_std = torch.tensor(LATENT_MEAN), torch.tensor(LATENT_STD)
    vae = {name: tensor.clone() for name, tensor in vae.items()}
    z = len(mean)
    to_new = official_std[:, None] * torch.linalg.inv(unmix) / official_std
    to_old = official_std[:, None] * unmix / official_std
    weight, bias = vae["conv1.weight"], vae["conv1.bias"]
    weight[:z] = (to_new @ weight[:z].flatten(1)).view_as(weight[:z])
    bias[:z] = official_mean + to_new @ (bias[:z] - official_mean - official_std * mean)
    weight, bias = vae["conv2.weight"], vae["conv2.bias"]
    bias += weight.flatten(1) @ (official_mean + official_std * mean - to_old @ official_mean)
    weight.copy_((weight.flatten(1) @ to_old).view_as(weight))
    return vae


def export_checkpoint(work_dir: Path, output: Path) -> None:
    """Write config.json, the three weight files and the tokenizer folder.

    Transformer and text encoder are stored as bfloat16, the VAE as float16, to keep the package small.
    """
    state = torch.load(work_dir / "transformer.pt")["average"]
    write_transformer(state, CONFIG, output)
    text_encoder = rename(select_part(state, "text_encoder"), TEXT_ENCODER_NAMES)
    torch.save(text_encoder, output / TEXT_ENCODER_FILE)
    data = torch.load(work_dir / "latents.pt")
    vae = torch.load(work_dir / "vae_short.pt")
    write_vae(fold_latent_basis(vae, data["mean"], data["unmix"]), output / "Wan2.1_VAE.pth")
    shutil.copytree(work_dir / "tokenizer", output / "google" / "umt5-xxl", dirs_exist_ok=True)


def write_vae(vae: dict[str, torch.Tensor], path: Path) -> None:
    """Write a VAE in float16."""
    torch.save({name: tensor.to(torch.float16).contiguous() for name, tensor in vae.items()}, path)


def export_sibling(state_file: Path, config: dict[str, object], output: Path) -> None:
    """Write config.json and transformer of a sibling; it shares all other files with the demo."""
    write_transformer(torch.load(state_file)["average"], config, output)


def export_control(state_file: Path, output: Path) -> None:
    """Write config.json and what learned of the control model's transformer."""
    state = torch.load(state_file)["average"]
    learned = {name: state[name] for name in state if is_guided(name.removeprefix("transformer."))}
    write_transformer(learned, CONTROL_CONFIG, output)


def is_guided(name: str) -> bool:
    """Whether a transformer's tensor, by its name in training, is the control model's own."""
    return GUIDED_PARTS.match(name) is not None


def write_transformer(state: dict[str, torch.Tensor], config: dict[str, object], output: Path) -> None:
    """Write one transformer in bfloat16 and its config.json."""
    output.mkdir(parents=True, exist_ok=True)
    weights = output / TRANSFORMER_FILE
    save_file(
        rename(select_part(state, "transformer"), TRANSFORMER_NAMES), weights, metadata={"format": "pt"}
    )
    weights.chmod(0o644)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_transformer(transformer: torch.nn.Module, checkpoint: Path) -> None:
    """Fill the transformer of training from an exported checkpoint."""
    load_renamed(transformer, load_file(checkpoint / TRANSFORMER_FILE), TRANSFORMER_NAMES)


def load_text_encoder(text_encoder: torch.nn.Module, checkpoint: Path) -> None:
    """Fill the text encoder of training from an exported checkpoint."""
    load_renamed(text_encoder, torch.load(checkpoint / TEXT_ENCODER_FILE), TEXT_ENCODER_NAMES)


def load_renamed(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], table: tuple[tuple[str, str], ...]
) -> None:
    """Fill a module with tensors that have the names which `rename` would give its own."""
    module.load_state_dict({name: tensors[rename_one(name, table)] for name in module.state_dict()})


def select_part(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The tensors of one network of the trained model, in bfloat16."""
    return {
        name.removeprefix(f"{part}."): tensor.to(torch.bfloat16).contiguous()
        for name, tensor in state.items()
        if name.startswith(f"{part}.")
    }
