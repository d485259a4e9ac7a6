"""List of the commands, printed by `python -m pcam_lightning`."""

import ast
from pathlib import Path

from pcam_lightning.cli.printing import keep_printing

TASKS = {
    "Start": ("tour", "doctor"),
    "Get data": ("download", "audit"),
    "Train and tune": ("train", "probe", "sweep", "collect"),
    "Look at runs": ("evaluate", "compare"),
    "Use a model": ("predict", "export", "bundle"),
    "Check": ("check", "report", "reproduce", "benchmark"),
}
"""Commands by what a person wants to do."""


def main() -> None:
    keep_printing()
    print("python -m pcam_lightning.COMMAND [KEY=VALUE ...]   (--help lists the keys)")
    for task, commands in TASKS.items():
        print(f"\n{task}")
        for name in commands:
            source = (Path(__file__).parent / name / "__main__.py").read_text(encoding="utf-8")
            docstring = ast.get_docstring(ast.parse(source)) or ""
            print(f"  {name:<12}{docstring.splitlines()[0]}")


if __name__ == "__main__":
    main()
