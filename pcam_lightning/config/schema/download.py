"""Schema of the command download."""

from typing import Annotated, Literal

from pydantic import Field

from pcam_lightning.config.schema.fields import Name, StrictModel


class Download(StrictModel):
    root: str
    splits: Annotated[list[Literal["train", "valid", "test"]], Field(min_length=1)]
    check: bool
    url: Annotated[str, Field(pattern=r"^https?://")]
    experiment_name: Name
    run_dir: str
