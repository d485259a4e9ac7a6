"""Schema of the command report."""

from typing import Annotated

from pydantic import Field

from pcam_lightning.config.schema.fields import Name, StrictModel


class ReportSection(StrictModel):
    title: Annotated[str, Field(min_length=1, max_length=200)]
    notes: str | None


class Report(StrictModel):
    inputs: str | list[str]
    report: ReportSection
    experiment_name: Name
    run_dir: str
