"""Schema of the command sweep."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from pcam_lightning.config.schema.fields import Name, StrictModel
from pcam_lightning.config.schema.launcher import RetryState, as_list


class Sweep(StrictModel):
    continue_: str = Field(alias="continue")
    retry: Annotated[list[RetryState], BeforeValidator(as_list)] | None
    trusted: bool
    experiment_name: Name
    run_dir: str
