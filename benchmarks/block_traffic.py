"""Count the bytes that a transformer block moves besides its products and attentions, from its graph.

Every kernel of a GPU reads its inputs and writes its outputs once: norms, the functions that run fused, casts
and joined arrays. What products and attention read and write is left out, and so is what has no more than one
row. Slices and shapes are views. No kernel runs: this counts what a GPU in `dtype` would be given.

    python -m benchmarks.block_traffic --dim 5120 --num-heads 40 --ffn-dim 13824 --kernels
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import mlx.core as mx
from mlx.utils import tree_map

from mlx_video.config import TransformerConfig
from mlx_video.models import elementwise, matmul, transformer_block
from mlx_video.models.block_context import BlockContext, CrossAttentionCache, PromptTokens, Step, TimeFeatures
from mlx_video.models.dispatch import current_limits, use_limits
from mlx_video.models.kernels.layer_norm import LAYER_NORM
from mlx_video.models.kernels.metal_kernel import MetalKernel
from mlx_video.models.kernels.rotary_norm import ROTARY_NORM
from mlx_video.models.rope import build_rotary_table
from mlx_video.models.token_layout import TokenSpan, video_layout
from mlx_video.models.transformer_block import TransformerBlock

Graph = list[dict[str, Any]]
Tensor = tuple[str, tuple[int, ...], mx.Dtype]

# Of arrays that are there, and the results of stand-ins.
VIEWS = {"Broadcast", "ExpandDims", "Flatten", "Full", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
FUSABLE = {"Add", "AsType", "Multiply", "Subtract"}
NAMES = {"AsType": "cast", "Concatenate": "join"}


class Recorder:
    """Stands in for kernels of several operations, which a graph of a CPU shows taken apart.

    Attributes:
        moved: bytes by name.
        read: what they read, which must stay part of the graph.
    """

    def __init__(self) -> None:
        self.moved: dict[str, int] = {}
        self.read: list[mx.array] = []

    def kernel(
        self, name: str, like: Callable[..., tuple[tuple[int, ...], mx.Dtype]]
    ) -> Callable[..., mx.array]:
        """A function that counts its arrays under a name; `like` tells shape and type of its result."""

        def run(*arrays: Any, **_: Any) -> mx.array:
            given = [array for array in arrays if isinstance(array, mx.array)]
            shape, dtype = like(*arrays)
            large = sum(array.nbytes for array in given if array.ndim > 1)
            self.moved[name] = self.moved.get(name, 0) + large + math.prod(shape) * dtype.size
            self.read += given
            return self._new(shape, dtype)

        return run

    def bare(self, like: Callable[..., tuple[tuple[int, ...], mx.Dtype]]) -> Callable[..., mx.array]:
        """A product or an attention, whose bytes do not count."""

        def run(*arrays: Any, **_: Any) -> mx.array:
            self.read += [array for array in arrays if isinstance(array, mx.array)]
            return self._new(*like(*arrays))

        return run

    def own_kernel(
        self,
        kernel: MetalKernel,
        arrays: Sequence[mx.array],
        *,
        shape: tuple[int, ...],
        dtype: mx.Dtype,
        **_: Any,
    ) -> mx.array:
        """Stands in for a kernel of the package's own."""
        return self.kernel(kernel.name.replace("_", " "), lambda *_: (shape, dtype))(*arrays)

    def _new(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        # Of a value of its own: equal arrays, and all that is made of them, would be one in the graph.
        return mx.full(shape, len(self.read), dtype)


def count_block(
    config: TransformerConfig,
    grid: tuple[int, int, int],
    dtype: mx.Dtype,
    kernels: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """Bytes by kernel that one block moves for one pass.

    Args:
        config: of the transformer.
        grid: tokens (t, h, w).
        dtype: of the weights.
        kernels: of the package's own, which the block takes.
    """
    block = TransformerBlock(config)
    block.update(tree_map(lambda array: array.astype(dtype), block.parameters()))
    mx.eval(block.parameters())
    layout = video_layout(grid)
    tokens = mx.zeros((layout.num_tokens, config.dim))
    time = TimeFeatures(
        mx.zeros((1, config.dim)), mx.zeros((1, 6, config.dim)), (TokenSpan(0, layout.num_tokens, 0),)
    )
    prompt = PromptTokens(CrossAttentionCache(mx.zeros((1, config.dim), dtype)))
    context = BlockContext(
        Step(0, 1, 500.0, 0.5, 0.0), time, layout, build_rotary_table(layout, config.head_dim), prompt
    )
    recorder, graph = Recorder(), []

    def run(x: mx.array) -> list[mx.array]:
        y = block(x, context)
        return [y, *(array for array in recorder.read if array.ndim > 1)]

    with as_on_gpu(recorder), use_limits(replace(current_limits(), kernels=kernels)):
        mx.export_function(graph.append, run, tokens)
    moved = dict(recorder.moved)
    for name, nbytes in graph_kernels([node for node in graph if node["type"] == "primitive"]):
        moved[name] = moved.get(name, 0) + nbytes
    return moved


@contextmanager
def as_on_gpu(recorder: Recorder) -> Iterator[None]:
    """Let networks take the ways of a GPU, with stand-ins for kernels that are one operation there."""
    like_first = lambda x, *_: (x.shape, x.dtype)  # noqa: E731
    like_rows = lambda x, weight: ((*x.shape[:-1], weight.shape[-1]), x.dtype)  # noqa: E731
    stand_ins: list[tuple[object, str, object]] = [
        (elementwise, "on_gpu", lambda: True),
        (matmul, "on_gpu", lambda: True),
        (elementwise, "_compile_choice", False),
        (mx.fast, "layer_norm", recorder.kernel("layer norm", like_first)),
        (mx.fast, "rms_norm", recorder.kernel("RMS norm", like_first)),
        (mx.fast, "scaled_dot_product_attention", recorder.bare(like_first)),
        (
            MetalKernel,
            "run",
            lambda kernel, *arrays, **options: recorder.own_kernel(kernel, *arrays, **options),
        ),
        (mx, "addmm", recorder.bare(lambda bias, x, weight: like_rows(x, weight))),
        (transformer_block, "gelu_tanh", recorder.kernel("GELU", like_first)),
        (transformer_block, "add_gated", recorder.kernel("gated sum", like_first)),
        (transformer_block, "add_residual", recorder.kernel("sum", like_first)),
    ]
    with ExitStack() as stack:
        for place, name, stand_in in stand_ins:
            stack.enter_context(patch.object(place, name, stand_in))
        yield


def graph_kernels(nodes: Graph) -> Iterator[tuple[str, int]]:
    """Name and bytes of the kernels of a graph, neighbouring fusable operations in one."""
    nodes = [node | {"inputs": [_source(tensor, nodes) for tensor in node["inputs"]]} for node in nodes]
    for members in _groups([node for node in nodes if node["name"] not in VIEWS]):
        made = {tensor for node in members for tensor in node["outputs"]}
        read = {tensor for node in members for tensor in node["inputs"]}
        others = (node for node in nodes if node not in members)
        used_later = {tensor for node in others for tensor in node["inputs"]}
        written = {tensor for tensor in made if tensor in used_later or tensor not in read}
        names = {node["name"] for node in members}
        name = NAMES.get(names.pop(), "other") if len(names) == 1 else "rotation"
        yield name, sum(map(_nbytes, (read - made) | written))


def _groups(nodes: Graph) -> list[Graph]:
    """Operations that are one kernel together."""
    groups: list[Graph] = []
    for node in nodes:
        near = [group for group in groups if _is_fused(group, node)]
        groups = [group for group in groups if group not in near]
        groups.append([*(member for group in near for member in group), node])
    return groups


def _is_fused(group: Graph, node: dict[str, Any]) -> bool:
    made = {tensor for member in group for tensor in member["outputs"]}
    is_fusable = all(member["name"] in FUSABLE for member in (*group, node))
    return is_fusable and not made.isdisjoint(node["inputs"])


def _source(tensor: Tensor, nodes: Graph) -> Tensor:
    """What a repeated array repeats; any other array itself."""
    for node in nodes:
        if node["name"] == "Broadcast" and node["outputs"][0][0] == tensor[0]:
            return _source(node["inputs"][0], nodes)
    return tensor


def _nbytes(tensor: Tensor) -> int:
    _, shape, dtype = tensor
    return math.prod(shape) * dtype.size if len(shape) > 1 and shape[0] > 1 else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=1536, help="width, default %(default)s")
    parser.add_argument("--num-heads", type=int, default=12, help="default %(default)s")
    parser.add_argument("--ffn-dim", type=int, default=8960, help="default %(default)s")
    parser.add_argument("--grid", type=int, nargs=3, default=(2, 8, 8), help="tokens t h w, default 2 8 8")
    parser.add_argument("--kernels", action="store_true", help="take the package's own kernels")
    args = parser.parse_args()
    config = TransformerConfig(args.dim, args.ffn_dim, args.num_heads, 1)
    kernels = frozenset({LAYER_NORM.name, ROTARY_NORM.name} if args.kernels else ())
    moved = count_block(config, tuple(args.grid), mx.bfloat16, kernels)
    elements = math.prod(args.grid) * args.dim
    print("| kernel | bytes an element |\n|---|---|")
    for name, nbytes in sorted(moved.items()):
        print(f"| {name} | {nbytes / elements:.2f} |")
    print(f"| all | {sum(moved.values()) / elements:.2f} |")


if __name__ == "__main__":
    main()
