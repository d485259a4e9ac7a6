"""Schemas of the commands export and bundle."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pcam_lightning.config.schema.fields import Name, StrictModel
from pcam_lightning.config.schema.slurm import SlurmCommand


class ExportData(StrictModel):
    root: str | None
    batch_size: PositiveInt


class ExportSection(StrictModel):
    quantize: Literal["none", "int8"]


class Export(SlurmCommand):
    run: str
    format: Literal["onnx", "pt2"]
    data: ExportData
    export: ExportSection
    experiment_name: Name
    run_dir: str

    @model_validator(mode="after")
    def _quantized_onnx(self) -> "Export":
        if self.format == "pt2" and self.export.quantize != "none":
            raise ValueError("export.quantize=int8: expected format=onnx")
        return self


class BundleSection(StrictModel):
    golden: Annotated[int, Field(ge=1, le=256)]
    wheels: Literal["none", "cpu", "cuda"]
    sign: str | None


class Bundle(SlurmCommand):
    run: str
    data: ExportData
    bundle: BundleSection
    experiment_name: Name
    run_dir: str
