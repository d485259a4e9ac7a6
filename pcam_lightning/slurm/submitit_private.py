"""Names that submitit does not publish.

Checked with submitit 1.5.4; pyproject.toml excludes 1.6. `tests/slurm/test_private.py` fails if a
name is gone.
"""

from typing import Any


def submission_script(executor: Any) -> str:
    """Return the script that an `AutoExecutor` for Slurm would submit.

    submitit has no public way to see it before it is submitted.
    """
    return executor._executor._make_submission_file_text("true", "preflight")
