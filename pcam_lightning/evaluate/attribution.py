"""Attribution of a decision to pixels: Grad-CAM or occlusion, computed by captum."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcam_lightning.errors import InputError
from pcam_lightning.metrics.metrics import is_tumour

WINDOW, STRIDE = 16, 8  # of occlusion, in pixels
BATCH = 32


def attribute(
    model: nn.Module, patches: NDArray[np.uint8], threshold: float, method: str
) -> NDArray[np.float32]:
    """Return how much each pixel contributes to the predicted class of its patch.

    `grad_cam` weights the channels of the network's last feature map by their mean gradient
    (Selvaraju et al. 2017) and interpolates the sum to the size of the patch. `occlusion` covers
    squares of 16 x 16 pixels, 8 pixels apart, with the patch's mean color and measures how much
    this lowers the logit (Zeiler & Fergus 2014). Negative contributions are set to 0.

    Args:
        model: uint8 [B, 96, 96, 3] to logits [B], in evaluation mode.
        patches: uint8 [N, 96, 96, 3].
        threshold: probability from which a patch is classified as tumour.
        method: "grad_cam" or "occlusion".

    Returns:
        float32 [N, 96, 96], >= 0. Values of different patches are not comparable.

    Raises:
        InputError: `grad_cam` for a network without a feature map.
    """
    layer = _last_map(model, patches[:1]) if method == "grad_cam" else None
    parts = [
        _attribute(model, layer, torch.from_numpy(patches[start : start + BATCH]), threshold)
        for start in range(0, len(patches), BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 96, 96), np.float32)


def check_attribution(model: nn.Module, method: str) -> None:
    """Check that `attribute` supports a model, before there are patches to explain.

    Raises:
        InputError: as `attribute`.
    """
    if method == "grad_cam":
        _last_map(model, np.zeros((1, 96, 96, 3), np.uint8))


def _attribute(
    model: nn.Module, layer: nn.Module | None, image: Tensor, threshold: float
) -> NDArray[np.float32]:
    with torch.no_grad():
        predicted = is_tumour(model(image).double().sigmoid(), threshold)
    sign = torch.where(predicted, 1.0, -1.0)

    def class_logit(pixels: Tensor) -> Tensor:
        """Return the logit of each patch's predicted class, for copies of the batch in a row."""
        logit = model(pixels.round().to(torch.uint8)).float()
        return logit * sign.repeat(len(logit) // len(sign))

    # Imported here, because it takes seconds and attribution is off by default.
    from captum.attr import LayerAttribution, LayerGradCam, Occlusion

    if layer is not None:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("ignore", message=".*[Gg]radient.*")
            method = LayerGradCam(class_logit, layer)
            found = method.attribute(image.float(), relu_attributions=True)
        assert isinstance(found, Tensor)
        found = LayerAttribution.interpolate(found.detach(), (96, 96), "bilinear")
        return found[:, 0].clamp(min=0).float().numpy()
    mean = image.float().mean((1, 2), keepdim=True).expand(image.shape)
    with torch.no_grad():
        found = Occlusion(class_logit).attribute(
            image.float(),
            sliding_window_shapes=(WINDOW, WINDOW, 3),
            strides=(STRIDE, STRIDE, 3),
            baselines=mean,
        )
    return found.mean(3).clamp(min=0).float().numpy()


def _last_map(model: nn.Module, patch: NDArray[np.uint8]) -> nn.Module:
    """Return the last module that outputs a feature map [B, C, H, W] of several pixels."""
    last: list[nn.Module] = []

    def record(module: nn.Module, _: object, output: object) -> None:
        # A map as large as the patch is the normalized patch itself.
        if isinstance(output, Tensor) and output.dim() == 4 and 1 < output.shape[-1] < 96:
            last[:] = [module]

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    try:
        with torch.no_grad():
            model(torch.from_numpy(patch))
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise InputError(
            f"evaluate.attribution=grad_cam: {type(model).__name__} has no feature map; "
            "expected evaluate.attribution=occlusion"
        )
    return last[0]
