"""Train, sweep, benchmark, audit and hand over PatchCamelyon classifiers.

This module imports nothing heavy: every command must answer `--help` at once.
"""

from pcam_lightning import lean_imports

__version__ = "0.1.0"

lean_imports.install()
