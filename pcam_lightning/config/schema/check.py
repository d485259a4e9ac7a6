"""Schema of the command check."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from pcam_lightning.config.schema.fields import Name, StrictModel


def _is_code(value: str) -> str:
    if value == "issue":
        return value
    from pcam_lightning.checks.catalog import CHECKS  # imports SciPy

    codes = [check.code for check in CHECKS]
    if value not in codes:
        raise ValueError(f"expected issue or one of {', '.join(codes)}")
    return value


class CheckSection(StrictModel):
    show: Literal["problems", "all"]
    fail_on: list[Annotated[str, AfterValidator(_is_code)]]


class Check(StrictModel):
    inputs: str | list[str]
    check: CheckSection
    experiment_name: Name
    run_dir: str
