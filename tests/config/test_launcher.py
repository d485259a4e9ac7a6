"""Parameters of a launcher, with Slurm's spellings of times and memory."""

from typing import Any, get_args

import pytest

from pcam_lightning.config import schema
from pcam_lightning.config.schema.launcher import RetryState
from pcam_lightning.errors import InputError
from pcam_lightning.sweeps.jobs import FAILURES

GIVEN: dict[str, Any] = {
    "submitit_folder": "/x/%j", "timeout_min": 60, "nodes": 1, "tasks_per_node": 1,
}  # fmt: skip


# Seconds are rounded up, as Slurm does. (man sbatch, --time)
@pytest.mark.parametrize(
    ("value", "minutes"),
    [
        (90, 90),
        ("90", 90),
        ("90:30", 91),
        ("2:00", 2),
        ("02:00:00", 120),
        ("00:00:30", 1),
        ("1:30:01", 91),
        ("1-0", 1440),
        ("1-12:30", 2190),
        ("1-00:00:00", 1440),
        ("7-00:00:01", 10081),
        (" 60 ", 60),
    ],
)
def test_time_limits(value: object, minutes: int) -> None:
    assert schema.read_launcher(GIVEN | {"timeout_min": value})["timeout_min"] == minutes


# Slurm's units are powers of 1024. (man sbatch, --mem)
@pytest.mark.parametrize(
    ("value", "gigabytes"),
    [
        (16, 16),
        (1.5, 1.5),
        ("16", 16),
        ("16G", 16),
        ("16g", 16),
        ("16GB", 16),
        ("16000M", 15.625),
        ("2048M", 2),
        ("1T", 1024),
        ("1048576K", 1),
        (None, None),
    ],
)
def test_memory(value: object, gigabytes: float | None) -> None:
    found = schema.read_launcher(GIVEN | {"mem_gb": value})["mem_gb"]
    assert found == gigabytes and type(found) is type(gigabytes)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("retry", "failed", ["failed"]),
        ("retry", ["failed", "lost"], ["failed", "lost"]),
        ("retry", None, None),
        ("setup", "module load CUDA\nexport A=1", ["module load CUDA", "export A=1"]),
        ("setup", ["a", "b"], ["a", "b"]),
        ("max_num_timeout", -1, 0),
        ("gpus_per_node", "a100:2", "a100:2"),
        ("detach", "true", True),
    ],
)
def test_other_parameters(key: str, value: object, expected: object) -> None:
    assert schema.read_launcher(GIVEN | {key: value})[key] == expected


def test_parameters_of_submitit_pass_and_absent_ones_stay_absent() -> None:
    more = {"additional_parameters": {"reservation": "x"}, "qos": None}
    assert schema.read_launcher(GIVEN | more) == GIVEN | more


# Each value exits with one line that names the key.
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("timeout_min", value)
            for value in (0, -5, 1.5, True, None, "", "0:00", "1h", "1:2:3:4")
        ),
        *(("timeout_min", value) for value in ("1-", "-1:00", "UNLIMITED", "1.5", [60])),
        *(("mem_gb", value) for value in (0, -1, True, "", "16X", "G", "16 000M", "0G", [16])),
        *(("nodes", value) for value in (0, -1, "two", None)),
        *(("tasks_per_node", value) for value in (0, 1.5)),
        ("cpus_per_task", 0),
        ("array_parallelism", 0),
        ("signal_delay_s", 0),
        ("retry", "finished"),
        ("retry", ["running"]),
        ("setup", 1),
        ("setup", [1]),
        ("detach", "maybe"),
        ("snapshot", "maybe"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        schema.read_launcher(GIVEN | {key: value})
    assert str(caught.value).startswith(f"hydra.launcher.{key}") and "\n" not in str(caught.value)


def test_every_failure_can_be_tried_again() -> None:
    assert set(get_args(RetryState)) == set(FAILURES)
