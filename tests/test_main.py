"""The list of commands."""

import re

from pcam_lightning.__main__ import main
from pcam_lightning.config.schema import ROOTS


def test_every_command_appears_once(capsys) -> None:
    main()
    names = re.findall(r"^  (\w+) +\w", capsys.readouterr().out, re.MULTILINE)
    assert sorted(names) == sorted(ROOTS)
