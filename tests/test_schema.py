import pytest

from pcam_lightning import schema
from pcam_lightning.errors import InputError


def test_the_default_config_is_sound(composed) -> None:
    schema.check("train", composed())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=abc", "optimizer.lr='abc': expected number"),
        ("optimizer.lr=0", "optimizer.lr=0: expected greater than 0"),
        ("optimizer.betas=[0.9,1.5]", "optimizer.betas.1=1.5: expected less than 1"),
        ("trainer.max_epochs=-3", "trainer.max_epochs=-3: expected greater than 0"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5: expected integer"),
        ("trainer.precision=8", "trainer.precision=8: expected 'auto', '32'"),
        ("trainer.devices=0", "trainer.devices=0: expected greater than 0 or 'auto' or list"),
        ("trainer.accelerator=gpus", "trainer.accelerator='gpus': expected 'auto', 'cpu', 'gpu'"),
        ("seed=-1", "seed=-1: expected greater than or equal to 0"),
        ("seed=4294967296", "seed=4294967296: expected less than 4294967296"),
        ("data.batch_size=0", "data.batch_size=0: expected greater than 0"),
        ("data.sampler=random", "data.sampler='random': expected 'weighted', 'shuffle'"),
        ("data.filter=true", "data.filter=True: expected 'none' or 'blank'"),
        ("data.demo.train=1", "data.demo.train=1: expected greater than or equal to 16"),
        ("model.channels=[]", "model.channels=[]: List should have at least 1 item"),
        ("model.dropout=1", "model.dropout=1: expected less than 1"),
        ("experiment_name=../up", "experiment_name='../up': String should match pattern"),
        ("+data.colour=grey", "data.colour: no such key"),
        ("~optimizer.lr", "optimizer.lr: missing"),
        ("logger.csv=5", "logger.csv=5: expected"),
        (
            "callbacks.gradient_norm.spike_factor=1",
            "callbacks.gradient_norm.spike_factor=1: expected greater than 1",
        ),
        (
            "callbacks.gradient_norm.window=19",
            "callbacks.gradient_norm.window=19: expected greater than or equal to 20",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_line(composed, override: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        schema.check("train", composed([override]))
    message = str(caught.value)
    assert message.startswith(said) and "\n" not in message


def test_clipping_with_a_scaler_and_a_fused_optimizer_is_refused(composed) -> None:
    with pytest.raises(InputError, match=r"optimizer\.fused=false"):
        schema.check("train", composed(["trainer.precision=16-mixed"]))
    schema.check("train", composed(["trainer.precision=16-mixed", "optimizer.fused=false"]))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=bf16",
        "trainer.devices=[0,1]",
        "+trainer.max_time=00:01:00:00",
        "trainer.limit_train_batches=3",
        "callbacks.early_stopping=null",
        "optimizer.lr=1",
    ],
)
def test_what_is_right_is_accepted(composed, override: str) -> None:
    schema.check("train", composed([override]))
