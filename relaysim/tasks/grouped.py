"""n models at once: which of them are computed together, and how their convolutions are.

Under vmap the convolutions of n models, each with kernels of its own, are one convolution in n groups, which
is slow on CPUs and GPUs; so is a convolution inside of a loop. As products of matrices they are fast.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from relaysim.columns import platform
from relaysim.types import Array, Stacked

_KERNEL_AXES = 4
"""of a convolution over images: height, width, channels in, channels out"""


def stacked(fun: Callable, group: int) -> Callable:
    """Let a function of one worker's arrays act on those of n workers, `group` of them at a time.

    >>> import jax.numpy as jnp
    >>> stacked(lambda x, y: x @ y, group=2)(jnp.ones((5, 3)), jnp.ones((5, 3))).shape
    (5,)

    Args:
      fun: takes and returns pytrees of arrays.
      group: n or more is `jax.vmap`, 1 is a loop over workers. In between there is a loop over groups, which
        bounds the memory. Where workers are sharded over devices take n, since a loop has one device wait for
        another.

    Returns:
      The function of stacked pytrees, leaves (n, ...), with stacked results.
    """

    def of_all(*args: Stacked) -> Stacked:
        n = len(jax.tree.leaves(args)[0])
        if group >= n:
            return jax.vmap(fun)(*args)
        return jax.lax.map(lambda row: fun(*row), args, batch_size=None if group == 1 else group)

    return of_all


def apply(model: nn.Module, params: Any, x: Array, *, patches: bool) -> Array:
    """`model.apply({"params": params}, x)`, each `nn.Conv` by `convolve_patches` if so wished."""
    with nn.intercept_methods(_by_patches) if patches else nullcontext():
        out: Any = model.apply({"params": params}, x)
    return out


def has_images(params: Any) -> bool:
    """Whether one of the parameters (arrays or their shapes) is the kernel of a convolution over images."""
    return any(leaf.ndim == _KERNEL_AXES for leaf in jax.tree.leaves(params))


def default_group(images: bool, num_workers: int, *, patches: bool) -> int:
    """The fastest as measured, on the platform that is compiled for: all together, but for patches of images
    one by one on CPUs, and up to 64 on GPUs, where more would take much memory (16 GB for 64 ResNet-20 on 32
    images each).

    Args:
      images: whether the models have convolutions over images.
      num_workers: n.
      patches: whether convolutions are computed by `convolve_patches`.
    """
    most = 1 if platform() == "cpu" else 64
    return min(most, num_workers) if images and patches else num_workers


def default_patches() -> bool:
    """Whether convolutions are faster by `convolve_patches` on the platform that is compiled for, as measured
    on CPUs and on a GPU."""
    return platform() != "tpu"


def convolve_patches(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated` over images, as the product of all patches with the kernel.

    The patches are shifted copies of the image, side by side (im2col). Dilated and grouped convolutions, and
    those over anything but images, are left to jax.

    Args:
      lhs: (B, H, W, channels in).
      rhs: (height, width, channels in, channels out), the kernel.
      window_strides: of both axes.
      padding: "SAME", "VALID", or (low, high) of both axes.
      options: the other arguments of `jax.lax.conv_general_dilated`; the dimensions are in the order above.

    Returns:
      (B, H', W', channels out).
    """
    dilated = any(set(options.get(name) or ()) - {1} for name in ("lhs_dilation", "rhs_dilation"))
    if rhs.ndim != _KERNEL_AXES or dilated or options.get("feature_group_count", 1) > 1:
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    height, width, _, channels = rhs.shape
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], (height, width), window_strides, padding)
    x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    down, right = window_strides
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    patches = [
        x[:, i : i + rows : down, j : j + columns : right] for i in range(height) for j in range(width)
    ]
    kernel = rhs.reshape(-1, channels)
    return jnp.matmul(jnp.concatenate(patches, -1), kernel, precision=options.get("precision"))


def _by_patches(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    conv = context.module
    if isinstance(conv, nn.Conv) and context.method_name == "__call__" and conv.conv_general_dilated is None:
        return conv.clone(parent=conv.scope, conv_general_dilated=convolve_patches)(*args, **kwargs)
    return call(*args, **kwargs)
