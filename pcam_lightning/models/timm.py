"""Networks of timm, adapted to 96 x 96 patches and one logit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.models.architecture import FAULTS, create_backbone, input_size
from pcam_lightning.models.depthwise import train_depthwise_in_float32
from pcam_lightning.models.lora import add_lora
from pcam_lightning.models.normalize import SHAPE, Normalize
from pcam_lightning.models.pretrained import copy_state
from pcam_lightning.models.resize import Resize

TUNES, INTERPOLATIONS = ("full", "head", "lora"), ("bicubic", "bilinear")


class TimmClassifier(nn.Module):
    """Backbone of timm with a linear layer on the features of the patch and of its center.

    The features are the backbone's own pooled output and the mean of its last map over the center
    third, which decides the label. Patches are resized inside, so that every command passes
    uint8 patches of 96 x 96 pixels.

    Args:
        name: an architecture of timm, such as "vit_small_patch16_224"; never a place of weights.
        arguments: further arguments of the architecture: numbers, words, or lists of numbers.
        size: side of the backbone's input in pixels, "native", or "auto": 96 if the backbone
            works with it, else "native".
        native_size: the side that the backbone was trained with.
        interpolation: "bicubic" or "bilinear", for patches that are resized.
        tune: the weights to train: "full", "head" or "lora". The backbone's own weights and
            statistics of batch normalization stay as they are in the latter two.
        backbone_rate: with tune="full", learning rate of the backbone's last layers relative to
            that of the head, in (0, 1].
        layer_decay: with tune="full", factor of the rate from one layer to the layer before it, in
            (0, 1].
        frozen_layers: with tune="full", number of the backbone's first layers that stay as they
            are, with their statistics of batch normalization.
        lora_rank: rank of the matrices of LoRA (Hu et al. 2021); they are scaled by 2.
        lora_targets: names of the linear layers and 1 x 1 convolutions that get them, or a regular
            expression of their full names; None means all of them.
        dropout: share of the features dropped while training, in [0, 1).

    Raises:
        InputError: timm has no such architecture, the arguments do not fit it, it does not work
            with this size, it has no more than `frozen_layers` layers, or `lora_targets` matches
            no layer.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        size: int | str = "auto",
        native_size: int = 224,
        interpolation: str = "bicubic",
        tune: str = "full",
        backbone_rate: float = 0.1,
        layer_decay: float = 1.0,
        frozen_layers: int = 0,
        lora_rank: int = 8,
        lora_targets: str | Sequence[str] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for key, value, known in (
            ("tune", tune, TUNES),
            ("interpolation", interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise InputError(f"{key}={one_line(value, 80)}: expected {', '.join(known)}")
        self.normalize = Normalize()
        self.resize: nn.Module = nn.Identity()
        self.backbone = create_backbone(name, arguments or {})
        self.interpolation, self.tune = interpolation, tune
        self.backbone_rate, self.layer_decay = backbone_rate, layer_decay
        self.dropout = nn.Dropout(dropout)
        self._created_size = input_size(self.backbone)
        self._called: set[str] = set()
        self.size, features = self._choose_size(name, size, native_size)
        self.head = nn.Linear(features, 1)
        self._frozen: list[nn.Module] = []
        if tune == "full":
            self._freeze_first(frozen_layers)
        else:
            self.backbone.requires_grad_(False)
            self._frozen = [self.backbone]
        self.lora_targets: list[str] = []
        if tune == "lora":
            self.lora_targets = add_lora(self.backbone, lora_rank, lora_targets, self._called)
        train_depthwise_in_float32(self.backbone)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train()

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        return self.head(self.dropout(self.features(image))).squeeze(1)

    def features(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to the features [B, F] of which the logit is a linear function.

        They include no dropout.
        """
        pixels = self.resize(self.normalize(image))
        found = self.backbone.forward_features(pixels)  # type: ignore[operator]
        pooled = self.backbone.forward_head(found, pre_logits=True)  # type: ignore[operator]
        if pooled.dim() == 3:  # a backbone without pooling: its class token, or the mean
            pooled = pooled[:, 0] if self._prefix else pooled.mean(1)
        return torch.cat([pooled.flatten(1), self._center_mean(found)], dim=1)

    def train(self, mode: bool = True) -> "TimmClassifier":
        """Set the mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    @property
    def frozen_keys(self) -> frozenset[str]:
        """Names in the state dict of what training does not change: the pretrained backbone."""
        if self.tune == "full":
            return frozenset()
        return frozenset(
            f"backbone.{key}" for key in self.backbone.state_dict() if ".lora_" not in key
        )

    def learning_rates(self) -> dict[float, list[nn.Parameter]]:
        """Return the trained parameters by their factor of the learning rate; the head comes first.

        Layers are those of timm's `group_matcher`.
        """
        trained = [each for each in self.backbone.parameters() if each.requires_grad]
        rates = {1.0: list(self.head.parameters())}
        if self.tune == "lora":
            rates[1.0] += trained
        if self.tune != "full":
            return rates
        layers = self._number_layers()
        last = max(layers.values())
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad:
                rate = self.backbone_rate * self.layer_decay ** (last - layers[name])
                rates.setdefault(rate, []).append(parameter)
        return rates

    def backbone_state(self) -> dict[str, Tensor]:
        """Return the backbone's own weights and buffers by timm's names; they share its memory."""
        state = self.backbone.state_dict(keep_vars=True)
        return {
            key.replace(".base_layer.", "."): value
            for key, value in state.items()
            if ".lora_" not in key
        }

    def is_classifier(self, key: str) -> bool:
        """Return whether a published weight of this name belongs to the removed classifier."""
        names = getattr(self.backbone, "pretrained_cfg", {}).get("classifier") or ()
        names = (names,) if isinstance(names, str) else names
        removed = {each.partition(".")[0] for each in names} | {"head", "fc", "classifier"}
        return key.partition(".")[0] in removed

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Copy pretrained weights, of the names and shapes that timm gives a new network.

        Learned positions are resampled to the size of the input.

        Raises:
            ValueError: a name is missing, or a shape differs.
        """
        size = self.size
        self._set_size(self._created_size)
        try:
            copy_state(state, self.backbone_state())
        finally:
            self._set_size(size)

    def _number_layers(self) -> dict[str, int]:
        """Return the number of the layer of each parameter of the backbone, from 0 on."""
        from timm.models import group_parameters

        matcher = self.backbone.group_matcher(coarse=False)  # type: ignore[operator]
        return group_parameters(self.backbone, matcher, reverse=True)  # type: ignore[return-value]

    def _freeze_first(self, number: int) -> None:
        if number == 0:
            return
        layers = self._number_layers()
        last = max(layers.values())
        if number > last:
            raise InputError(
                f"frozen_layers={number}: expected at most {last}, as the backbone has {last + 1} "
                "layers"
            )
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(layers[name] >= number)
        for module in self.backbone.modules():
            trained = [each.requires_grad for each in module.parameters()]
            if trained and not any(trained):
                self._frozen.append(module)

    def _center_mean(self, found: Tensor) -> Tensor:
        """Return the mean over the center third of a map or of a grid of tokens, [B, C]."""
        if found.dim() == 3:  # [B, N, C]
            tokens = found[:, self._prefix :]
            side = int(tokens.shape[1] ** 0.5)
            found = tokens.unflatten(1, (side, -1))
        elif found.shape[1] == self.backbone.num_features:  # [B, C, H, W]
            found = found.permute(0, 2, 3, 1)
        third = found.shape[1] // 3
        inside = slice(third, found.shape[1] - third)
        return found[:, inside, inside].mean((1, 2))

    @property
    def _prefix(self) -> int:
        """Number of tokens before those of the patch's places."""
        return int(getattr(self.backbone, "num_prefix_tokens", 0))

    def _choose_size(self, name: str, size: int | str, native: int) -> tuple[int, int]:
        """Return the side of the backbone's input, and the number of features."""
        sizes = {"auto": [SHAPE[0], native], "native": [native]}.get(str(size)) or [int(size)]
        fault = ""
        for each in sizes:
            try:
                return each, self._count_features(each)
            except FAULTS as error:
                fault = one_line(error)
        raise InputError(
            f"{name} does not work with an input of {sizes[-1]} pixels ({fault}); expected "
            f"size=native, {native}"
        )

    def _count_features(self, size: int) -> int:
        """Return the number of features, and note which layers are called to compute them."""
        side = getattr(getattr(self.backbone, "patch_embed", None), "patch_size", 1)
        side = side if isinstance(side, int) else side[0]
        if size % side:
            raise ValueError(f"{size} is no multiple of its patches of {side} pixels")
        self._set_size(size)
        self.size = size
        if size != SHAPE[0]:
            self.resize = Resize(SHAPE[0], size, self.interpolation)
        self.backbone.eval()
        self._called.clear()
        hooks = [
            layer.register_forward_hook(lambda *_, name=name: self._called.add(name))
            for name, layer in self.backbone.named_modules()
        ]
        patch = torch.zeros(1, *SHAPE, dtype=torch.uint8, device=self.normalize.mean.device)
        try:
            with torch.no_grad():
                return self.features(patch).shape[1]
        finally:
            for hook in hooks:
                hook.remove()
            self.backbone.train()

    def _set_size(self, size: int | None) -> None:
        if size is not None and input_size(self.backbone) not in (None, size):
            self.backbone.set_input_size(img_size=size)  # type: ignore[operator]
