"""A frozen backbone stays bit-identical in training, and is left out of checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from pcam_files import SPLITS, random_split, write_split
from torch import Tensor
from torch.optim import SGD

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.checkpoints import AtomicCheckpointIO, load_weights, write_weights
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models import TimmClassifier
from pcam_lightning.models.pretrained import frozen_keys
from pcam_lightning.weights.state import weights_digest

NAMES = {"test_efficientnet": {}, "test_resnet": {}, "test_vit": {"depth": 1}}
IMAGE = torch.arange(2 * 96 * 96 * 3).remainder(251).to(torch.uint8).view(2, 96, 96, 3)


def network(name: str, tune: str, seed: int = 0, **given: Any) -> TimmClassifier:
    torch.manual_seed(seed)
    return TimmClassifier(name, NAMES[name], tune=tune, lora_rank=2, **given)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, (split, rows) in enumerate(zip(SPLITS, (8, 4, 4), strict=True)):
        write_split(tmp_path / "small", split, *random_split(rows, seed))
    return tmp_path / "small"


@pytest.fixture
def fit(root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train for two epochs with a validation inside each; return the last checkpoint."""

    def train(model: TimmClassifier, normalize: str = "auto", *others: Callback) -> Path:
        saver = ModelCheckpoint(
            tmp_path / "checkpoints", save_last=True, enable_version_counter=False
        )
        trainer = Trainer(
            accelerator="cpu", max_epochs=2, val_check_interval=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[saver, *others],
            plugins=[AtomicCheckpointIO()], num_sanity_val_steps=0,
        )  # fmt: skip
        data = PCamDataModule(root, batch_size=4, normalize=normalize)
        trainer.fit(PCamClassifier(model, partial(SGD, lr=0.1)), data)
        return Path(saver.last_model_path)

    return train


@pytest.mark.parametrize("tune", ["head", "lora", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_fit_changes_the_trained_part_alone(fit: Callable, name: str, tune: str) -> None:
    model = network(name, tune)
    before = state(model)
    checkpoint = torch.load(fit(model), weights_only=True)
    after, frozen = state(model), frozen_keys(model)
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert {"head.weight", "head.bias"} <= changed and not changed & frozen
    saved = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    assert saved.keys() == after.keys() - frozen
    assert all(torch.equal(saved[key], after[key]) for key in saved)
    assert {"normalize.mean", "normalize.std"} <= saved.keys()
    if tune == "full":
        assert "backbone" not in checkpoint
        assert any(key.startswith("backbone.") for key in changed)
    else:
        own = {key: before[key] for key in frozen}
        assert checkpoint["backbone"] == {"digest": weights_digest(own)}
        trained = [key for key in saved if not key.startswith(("head.", "normalize."))]
        assert bool(trained) == (tune == "lora") and all("lora_" in key for key in trained)


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_an_average_that_rounds_frozen_weights_is_one_line_before_training(
    fit: Callable, tmp_path: Path, tune: str
) -> None:
    model = network("test_efficientnet", tune)
    before = state(model)
    with pytest.raises(InputError, match=r"^callbacks: EMAWeightAveraging .* callbacks=averaged"):
        fit(model, "auto", EMAWeightAveraging(decay=0.5))
    assert not (tmp_path / "checkpoints").exists()
    after = state(model)
    assert all(torch.equal(after[key], before[key]) for key in frozen_keys(model) | {"head.bias"})


@pytest.mark.parametrize(
    ("normalize", "mean"),
    [("auto", [0.7, 0.5, 0.6]), ("symmetric", [0.5, 0.5, 0.5]), ("train", None)],
)
def test_the_statistics_are_those_of_the_weights_unless_others_are_named(
    fit: Callable, root: Path, normalize: str, mean: list[float] | None
) -> None:
    model = network("test_resnet", "head")
    model.normalize.set([0.7, 0.5, 0.6], [0.2, 0.3, 0.25])
    checkpoint = torch.load(fit(model, normalize), weights_only=True)
    saved = checkpoint["state_dict"]["model.normalize.mean"]
    if mean is None:
        with h5py.File(root / "camelyonpatch_level_2_split_train_x.h5") as file:
            mean = (file["x"][:] / 255).mean((0, 1, 2))  # type: ignore[index]
    torch.testing.assert_close(saved.flatten(), torch.as_tensor(mean, dtype=torch.float32))


@pytest.mark.parametrize("tune", ["head", "lora", "full"])
def test_the_logits_are_equal_after_loading(tmp_path: Path, tune: str) -> None:
    model = network("test_resnet", tune).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key not in frozen_keys(model):
                parameter.add_(0.1)
        expected = model(IMAGE)
    write_weights(tmp_path / "x.ckpt", PCamClassifier(model))
    other = network("test_resnet", tune)
    assert tune == "full" or (tmp_path / "x.ckpt").stat().st_size < 400_000
    with torch.no_grad():
        other.head.weight.zero_()
        load_weights(tmp_path / "x.ckpt", PCamClassifier(other))
        assert torch.equal(other.eval()(IMAGE), expected)


OTHERS: dict[str, Callable[[], TimmClassifier]] = {
    "another backbone": lambda: network("test_resnet", "head", seed=1),
    "a full model": lambda: network("test_resnet", "full"),
    "lora": lambda: network("test_resnet", "lora"),
    "another architecture": lambda: network("test_efficientnet", "head"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_for_another_backbone_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.ckpt"
    write_weights(path, PCamClassifier(network("test_resnet", "head")))
    model = OTHERS[name]()
    before = weights_digest(model.state_dict())
    with pytest.raises(InputError) as caught:
        load_weights(path, PCamClassifier(model))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert weights_digest(model.state_dict()) == before


def test_another_head_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    write_weights(path, PCamClassifier(network("test_vit", "lora")))
    other = network("test_vit", "lora")
    other.head = torch.nn.Linear(5, 1)
    with pytest.raises(InputError, match=r"x\.ckpt: .*head\.weight"):
        load_weights(path, PCamClassifier(other))


@pytest.mark.parametrize("digest", [None, 5, "0" * 64, ["x"]])
def test_a_damaged_digest_is_one_line(tmp_path: Path, digest: Any) -> None:
    path = tmp_path / "x.ckpt"
    module = PCamClassifier(network("test_vit", "head"))
    write_weights(path, module)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"backbone": {"digest": digest}}, path)
    with pytest.raises(InputError, match=r"x\.ckpt: "):
        load_weights(path, module)
