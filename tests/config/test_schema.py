import pytest

from pcam_lightning.config import schema
from pcam_lightning.config.schema.train import MONITORED
from pcam_lightning.engine.predictions import VAL_METRICS
from pcam_lightning.errors import InputError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr='abc': expected number"),
        ("optimizer.lr=0", "optimizer.lr=0: expected greater than 0"),
        ("optimizer.betas=[0.9,1.5]", "optimizer.betas.1=1.5: expected less than 1"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5: expected integer"),
        ("trainer.precision=8", "trainer.precision=8: expected 'auto', '32'"),
        ("trainer.devices=0", "trainer.devices=0: expected greater than 0 or 'auto' or list"),
        ("trainer.accelerator=gpus", "trainer.accelerator='gpus': expected 'auto', 'cpu', 'gpu'"),
        ("seed=-1", "seed=-1: expected greater than or equal to 0"),
        ("seed=4294967296", "seed=4294967296: expected less than 4294967296"),
        ("data.sampler=random", "data.sampler='random': expected 'balanced', 'shuffle'"),
        ("data.filter=true", "data.filter=True: expected 'none' or 'blank'"),
        ("data.demo.train=1", "data.demo.train=1: expected greater than or equal to 16"),
        ("model.channels=[]", "model.channels=[]: List should have at least 1 item"),
        ("model.dropout=1", "model.dropout=1: expected less than 1"),
        ("experiment_name=../up", "experiment_name='../up': String should match pattern"),
        ("+data.color=gray", "data.color: no such key"),
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
def test_an_invalid_value_is_reported_in_one_line(composed, override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        schema.check("train", composed([override]))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["+trainer.max_steps=0"], "trainer.max_steps"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs"),
        (["trainer.max_epochs=-1", "+trainer.max_steps=-1"], "trainer.max_epochs"),
        (["trainer.max_epochs=0", "+trainer.max_steps=5"], "trainer.max_epochs"),
        (["trainer.check_val_every_n_epoch=null"], "trainer.check_val_every_n_epoch"),
        (
            ["trainer.check_val_every_n_epoch=null", "+trainer.val_check_interval=0.5"],
            "trainer.check_val_every_n_epoch",
        ),
        (["+trainer.max_time=00:00:00:00"], "trainer.max_time"),
        (["+trainer.max_time=5m"], "trainer.max_time"),
        (["+trainer.val_check_interval=0"], "trainer.val_check_interval"),
        (["+trainer.val_check_interval=1.5"], "trainer.val_check_interval"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches"),
        (["trainer.limit_test_batches=0.0"], "trainer.limit_test_batches"),
        (["callbacks.checkpoint.monitor=val/auc"], "callbacks.checkpoint.monitor"),
        (["callbacks.checkpoint.monitor=test/auroc"], "callbacks.checkpoint.monitor"),
        (["callbacks.early_stopping.monitor=val/auc"], "callbacks.early_stopping.monitor"),
        (["callbacks.checkpoint.monitor=[val/auroc]"], "callbacks.checkpoint.monitor"),
        (["callbacks.early_stopping.monitor=null"], "callbacks.early_stopping.monitor"),
        (["callbacks.checkpoint.monitor=val/loss"], "callbacks.checkpoint.mode"),
        (["data.keys=[x]"], "data.keys"),
        (["data.keys=x"], "data.keys"),
        (["data.keys=[1,2]"], "data.keys"),
        (["callbacks.checkpoint.mode=min"], "callbacks.checkpoint.mode"),
        (["~callbacks.early_stopping.mode"], "callbacks.early_stopping.mode"),
        (["callbacks.checkpoint.save_top_k=3"], "callbacks.checkpoint.save_top_k"),
        (["~logger"], "logger"),
        (["~callbacks"], "callbacks"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_would_fail_after_training_is_reported(
    composed, overrides: list[str], key: str
) -> None:
    """Limits that train nothing, metrics that are never logged, a mode that keeps the worst."""
    with pytest.raises(InputError) as caught:
        schema.check("train", composed(overrides))
    message = str(caught.value)
    assert message.startswith((f"{key}=", f"{key}: ")) and "\n" not in message


def test_the_schema_knows_the_metrics_that_validation_logs() -> None:
    assert set(MONITORED) == {*VAL_METRICS, "train/loss"}


def test_clipping_with_a_scaler_and_a_fused_optimizer_is_rejected(composed) -> None:
    with pytest.raises(InputError, match=r"optimizer\.fused=false"):
        schema.check("train", composed(["trainer.precision=16-mixed", "optimizer=adam"]))
    for words in (["optimizer=adam", "optimizer.fused=false"], ["optimizer=muon"]):
        schema.check("train", composed(["trainer.precision=16-mixed", *words]))


@pytest.mark.parametrize(
    "limit",
    ["+trainer.max_steps=5", "+trainer.max_time=00:01:00:00", "+trainer.max_time={hours:1}"],
)
def test_steps_or_time_may_replace_the_number_of_epochs(composed, limit: str) -> None:
    by_steps = ["trainer.check_val_every_n_epoch=null", "+trainer.val_check_interval=500"]
    schema.check("train", composed(["trainer.max_epochs=-1", limit, *by_steps]))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=bf16",
        "trainer.devices=[0,1]",
        "+trainer.max_time=00:01:00:00",
        "trainer.limit_train_batches=3",
        "callbacks.early_stopping=null",
        "callbacks.checkpoint=null",
        "callbacks.checkpoint.monitor=null",
        "callbacks.checkpoint.monitor=val/f2",
        "logger.csv=null",
        "+trainer.max_steps=5",
        "+trainer.max_steps=-1",
        "+trainer.max_time={minutes:5}",
        "+trainer.val_check_interval=0.25",
        "+trainer.val_check_interval=3",
        "+trainer.overfit_batches=2",
        "callbacks.checkpoint={_target_:mine.Keeper,monitor:mine/score,mode:best,filename:3}",
        "optimizer.lr=1",
    ],
)
def test_a_valid_value_is_accepted(composed, override: str) -> None:
    schema.check("train", composed([override]))
