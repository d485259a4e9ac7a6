"""Steps in plain PyTorch, the reference for the framework's own cost."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_

from pcam_lightning.data import Batch
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.engine.parameter_groups import build_optimizer


def resident_batch(batch_size: int, device: torch.device) -> Batch:
    """Return a batch of noise in the memory of a device."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (batch_size, 96, 96, 3), dtype=torch.uint8, generator=generator)
    row = torch.arange(batch_size)
    return Batch(*(part.to(device) for part in (image, row % 2, row)))


def forward(module: PCamClassifier, precision: Any) -> Callable[[Batch], None]:
    """Return a forward pass in inference mode; `precision` is Lightning's precision plugin."""
    module.eval()

    @torch.inference_mode()
    def step(batch: Batch) -> None:
        with precision.forward_context():
            module(batch.image)

    return step


def training(module: PCamClassifier, precision: Any, clip: float | None) -> Callable[[Batch], None]:
    """Return a training step with the computation of `PCamClassifier`.

    It consists of augmentation, loss, gradients, clipping and the optimizer's step, without
    metrics, callbacks and loggers.
    """
    module.train()
    assert module.optimizer is not None
    optimizer = build_optimizer(module.optimizer, module.model)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    scaler = getattr(precision, "scaler", None) or torch.amp.GradScaler(enabled=False)  # type: ignore[attr-defined]
    generator = torch.Generator(parameters[0].device)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with precision.forward_context():
            image = batch.image
            if module.augment is not None:
                image = module.augment(image, generator)
            loss = binary_cross_entropy_with_logits(module(image).float(), batch.label.float())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if clip:
            clip_grad_norm_(parameters, clip)
        scaler.step(optimizer)
        scaler.update()

    return step
