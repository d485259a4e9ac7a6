"""`python -m pcam_lightning` lists the commands."""

import ast
from pathlib import Path

from pcam_lightning.cli.printing import keep_printing
from pcam_lightning.config.schema import ROOTS


def main() -> None:
    keep_printing()
    print("python -m pcam_lightning.COMMAND [KEY=VALUE ...]   (--help lists the keys)\n")
    for name in ROOTS:
        source = (Path(__file__).parent / name / "__main__.py").read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        print(f"  {name:<12}{docstring.splitlines()[0]}")


if __name__ == "__main__":
    main()
