"""Which pixels made the model say what it said: Grad-CAM or occlusion, by captum."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcam_lightning.errors import InputError
from pcam_lightning.metrics.metrics import is_tumour

WINDOW, STRIDE = 16, 8  # pixels, of occlusion
BATCH = 32


def attribute(
    model: nn.Module, patches: NDArray[np.uint8], threshold: float, method: str
) -> NDArray[np.float32]:
    """How much each pixel spoke for the class that the model decided on.

    `grad_cam` weighs the channels of the network's last feature map by their mean gradient
    (Selvaraju et al. 2017) and enlarges the result smoothly from that map's few pixels. `occlusion`
    covers squares of 16 x 16 pixels, 8 pixels apart, with the patch's mean color and takes by how
    much that lowers the logit (Zeiler & Fergus 2014). What spoke against the decision counts as 0.

    Args:
        model: uint8 [B, 96, 96, 3] to logits [B], in evaluation mode.
        patches: uint8 [N, 96, 96, 3].
        threshold: probability from which on a patch is called tumour.
        method: "grad_cam" or "occlusion".

    Returns:
        float32 [N, 96, 96], >= 0, on a scale of its own for each patch.

    Raises:
        InputError: Grad-CAM of a network that has no feature map.
    """
    layer = _last_map(model, patches[:1]) if method == "grad_cam" else None
    parts = [
        _attribute(model, layer, torch.from_numpy(patches[start : start + BATCH]), threshold)
        for start in range(0, len(patches), BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 96, 96), np.float32)


def check_attribution(model: nn.Module, method: str) -> None:
    """Raise what `attribute` would raise for this model, before there is anything to look at."""
    if method == "grad_cam":
        _last_map(model, np.zeros((1, 96, 96, 3), np.uint8))


def _attribute(
    model: nn.Module, layer: nn.Module | None, image: Tensor, threshold: float
) -> NDArray[np.float32]:
    with torch.no_grad():
        said = is_tumour(model(image).double().sigmoid(), threshold)
    sign = torch.where(said, 1.0, -1.0)

    def decided(pixels: Tensor) -> Tensor:
        """The logit of the class that was decided on, of one or more copies of the batch."""
        logit = model(pixels.round().to(torch.uint8)).float()
        return logit * sign.repeat(len(logit) // len(sign))

    # Here, since captum takes seconds to import and few ask for it.
    from captum.attr import LayerAttribution, LayerGradCam, Occlusion

    if layer is not None:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("ignore", message=".*[Gg]radient.*")
            found = LayerGradCam(decided, layer).attribute(image.float(), relu_attributions=True)
        assert isinstance(found, Tensor)
        found = LayerAttribution.interpolate(found.detach(), (96, 96), "bilinear")
        return found[:, 0].clamp(min=0).float().numpy()
    mean = image.float().mean((1, 2), keepdim=True).expand(image.shape)
    with torch.no_grad():
        found = Occlusion(decided).attribute(
            image.float(),
            sliding_window_shapes=(WINDOW, WINDOW, 3),
            strides=(STRIDE, STRIDE, 3),
            baselines=mean,
        )
    return found.mean(3).clamp(min=0).float().numpy()


def _last_map(model: nn.Module, patch: NDArray[np.uint8]) -> nn.Module:
    """The part of a network that is the last to return a map [B, C, H, W] of several pixels."""
    last: list[nn.Module] = []

    def look(part: nn.Module, _: object, output: object) -> None:
        # The normalized patch is a map too, of a network that never convolves it.
        if isinstance(output, Tensor) and output.dim() == 4 and 1 < output.shape[-1] < 96:
            last[:] = [part]

    hooks = [part.register_forward_hook(look) for part in model.modules()]
    try:
        with torch.no_grad():
            model(torch.from_numpy(patch))
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise InputError(
            f"evaluate.attribution=grad_cam: {type(model).__name__} has no feature map to weigh; "
            "expected evaluate.attribution=occlusion"
        )
    return last[0]
