"""Train, sweep, benchmark, audit and hand over PatchCamelyon classifiers.

Nothing heavy is imported here: a command must be able to answer `--help` at once.
"""

__version__ = "0.1.0"
