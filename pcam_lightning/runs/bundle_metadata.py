"""Schema of `configs/metadata.json` in a bundle."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pcam_lightning.runs.threshold import Threshold

FORMAT_VERSION = 1

Text = Annotated[str, Field(max_length=100_000)]
Size = int | Text
"""A number, or an expression such as "*" for any number."""


class TensorFormat(BaseModel):
    """An input or output of the network, with the keys of MONAI's bundle specification."""

    model_config = ConfigDict(strict=True, frozen=True)

    type: Text
    format: Text
    modality: Text = "n/a"
    num_channels: Annotated[int, Field(ge=1)]
    spatial_shape: list[Size]
    dtype: Text
    value_range: list[Annotated[float, Field(allow_inf_nan=False)]]
    """[minimum, maximum], or [] where not known."""
    is_patch_data: bool
    channel_def: dict[str, Text]
    """Meaning of each channel by its number."""
    shape: list[Size]
    """Axes of the tensor; MONAI's keys leave their order open."""


class DataFormat(BaseModel):
    """Inputs and outputs of the network by their names."""

    model_config = ConfigDict(strict=True, frozen=True)

    inputs: dict[str, TensorFormat]
    outputs: dict[str, TensorFormat]


NETWORK_DATA_FORMAT = DataFormat(
    inputs={
        "image": TensorFormat(
            type="image",
            format="magnitude",
            modality="H&E",
            num_channels=3,
            spatial_shape=[96, 96],
            dtype="uint8",
            value_range=[0.0, 255.0],
            is_patch_data=True,
            channel_def={"0": "red", "1": "green", "2": "blue"},
            shape=["N", 96, 96, 3],
        )
    },
    outputs={
        "probability": TensorFormat(
            type="probabilities",
            format="classes",
            num_channels=1,
            spatial_shape=[],
            dtype="float32",
            value_range=[0.0, 1.0],
            is_patch_data=False,
            channel_def={"0": "calibrated probability of tumour in the center 32 x 32 pixels"},
            shape=["N"],
        )
    },
)
"""The format of `models/model.onnx` in every bundle of this version."""


class Golden(BaseModel):
    """The patches with known probabilities that `verify.py` predicts."""

    model_config = ConfigDict(strict=True, frozen=True)

    count: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Largest difference of probabilities between two machines."""


class BundleMetadata(BaseModel):
    """`configs/metadata.json`: MONAI's keys first, then the keys of this package.

    Other keys are ignored: later versions within a format version may write more.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    version: Text
    """Version of the model."""
    changelog: dict[str, Text]
    """Version of the model -> its change."""
    pytorch_version: Text
    numpy_version: Text
    required_packages_version: dict[str, Text]
    """For the scripts of the bundle."""
    optional_packages_version: dict[str, Text]
    """For the whole package."""
    task: Text
    description: Text
    authors: Text = "not stated"
    copyright: Text = "not stated"
    network_data_format: DataFormat = NETWORK_DATA_FORMAT

    format_version: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    model: dict[str, Any]
    """The config section of the network, with its `_target_`."""
    tta: Literal["none", "d4"]
    """Test-time augmentation in the ONNX graph."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """sigmoid((logit + prior_offset) / temperature) is the calibrated probability; None divides by
    1."""
    prior_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Corrects logits for the share of tumour in training (see `metrics.calibration`)."""
    threshold: Threshold | None
    """The threshold chosen for the run; its value applies to the probability before calibration."""
    decision_threshold: Annotated[float, Field(ge=0, le=2)]
    """Tumour if the calibrated probability, which the ONNX graph returns, is at least this."""
    weights_digest: Text
    """As in the run's summary."""
    golden: Golden
    package_version: Text
    backbone: dict[str, Text | None] | None = None
    """`name`, `license` and `digest` of pretrained weights; None if every weight was trained."""
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")] | None
    """Commit of the code that made the bundle."""
