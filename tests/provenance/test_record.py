"""The provenance of a run names changes of code and packages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pcam_lightning.provenance import record

PACKAGE = Path(record.__file__).parents[1]
RECORD = """
import sys
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording
manifest = collect_manifest(command=[], seed=1, dataset={"name": "demo"}, config={})
with recording(sys.argv[1], manifest):
    pass
"""
COMPARE = """
import json, sys
from pcam_lightning.provenance.record import Provenance, differences
from pcam_lightning.runs import Run
found = differences([Provenance.of(Run(path)) for path in sys.argv[1:]])
print(json.dumps([vars(each) for each in found]))
"""


def test_a_source_line_and_a_package(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, checkout / "pcam_lightning", ignore=ignored)
    (checkout / "torch.py").write_text("raise ImportError\n")  # the real one takes seconds to load
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *words], cwd=checkout, check=True)

    def call(program: str, *arguments: str, path: Path = tmp_path) -> str:
        environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{checkout}"}
        words = [sys.executable, "-c", program, *arguments]
        return subprocess.check_output(words, env=environment, cwd=tmp_path, text=True)

    call(RECORD, "a")
    module = checkout / "pcam_lightning" / "engine" / "module.py"
    line = "        loss = binary_cross_entropy_with_logits(logit, label)\n"
    other = "        loss = binary_cross_entropy_with_logits(logit, label) * 1.01\n"
    assert line in module.read_text()
    module.write_text(module.read_text().replace(line, other))
    package = tmp_path / "site" / "tqdm-99.0.dist-info" / "METADATA"
    package.parent.mkdir(parents=True)
    package.write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 99.0\n")
    call(RECORD, "b", path=tmp_path / "site")

    found = {(d["kind"], d["name"]): d for d in json.loads(call(COMPARE, "a", "b")) if d["matters"]}
    assert set(found) == {("code", "pcam_lightning/engine/module.py"), ("package", "tqdm")}
    assert found["package", "tqdm"]["values"][1] == "99.0"
    code = found["code", "pcam_lightning/engine/module.py"]
    assert code["detail"] == [f"-{line.rstrip()}", f"+{other.rstrip()}"]
