"""Schema of the command tour."""

from pcam_lightning.config.schema.fields import Name, StrictModel


class TourSection(StrictModel):
    overrides: list[str]


class Tour(StrictModel):
    tour: TourSection
    experiment_name: Name
    run_dir: str
