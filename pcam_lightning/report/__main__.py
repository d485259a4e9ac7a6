"""Report on finished runs of all commands: one page, led by issues, in the order of a lab journal.

python -m pcam_lightning.report inputs=[FOLDER,FOLDER] report.notes=NOTES.md
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.files import atomic_write, write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording

if TYPE_CHECKING:
    from pcam_lightning.checks.inputs import Inputs


@command("report")
def main(config: Config) -> Path:
    from pcam_lightning.checks.inputs import find_inputs
    from pcam_lightning.report.notes import read_notes

    start = time.monotonic()
    folder, paths, options = Path(config["run_dir"]), config["inputs"], config["report"]
    inputs = find_inputs([paths] if isinstance(paths, str) else paths)
    notes = read_notes(options["notes"]) if options["notes"] else {}
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        summary = write_report(folder, inputs, options["title"], notes)
        summary["seconds"] = time.monotonic() - start
        write_json(folder / "summary.json", summary)
    print(f"page: {os.path.relpath(folder)}/report.html")
    return folder / "summary.json"


def write_report(
    folder: Path, inputs: "Inputs", title: str, notes: dict[str, str]
) -> dict[str, Any]:
    """Write `report.html`, `report.md`, `pictures/` and `report.json`, and return the summary."""
    from pcam_lightning.checks.catalog import run_checks
    from pcam_lightning.checks.report import count_states
    from pcam_lightning.report.blocks import as_json, pictures_of
    from pcam_lightning.report.document import compose_document
    from pcam_lightning.report.markdown import render_markdown
    from pcam_lightning.report.page import render_page
    from pcam_lightning.report.records import read_records

    outcomes = run_checks(inputs)
    records = read_records(inputs)
    document = compose_document(title, records, outcomes, notes)
    pictures = {}
    for number, each in enumerate(pictures_of(document.sections), start=1):
        name = f"pictures/{number:03d}_{Path(each.source.files[0]).stem}.png"
        atomic_write(folder / name, each.png)
        pictures[id(each)] = name
    atomic_write(folder / "report.md", render_markdown(document, pictures))
    page = render_page(document).encode("utf-8", errors="replace")
    atomic_write(folder / "report.html", page)
    facts = {
        "title": title,
        "datasets": document.datasets,
        "folders": [{"path": each.path, "kind": each.kind} for each in inputs.folders],
        "counts": count_states(outcomes),
    }
    sections = [as_json(section, pictures) for section in document.sections]
    write_json(
        folder / "report.json", facts | {"sections": sections, "checks": list(map(vars, outcomes))}
    )
    return facts | {"pictures": len(pictures), "bytes": len(page)}


if __name__ == "__main__":
    main()
