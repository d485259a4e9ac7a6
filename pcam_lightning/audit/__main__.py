"""Audit of a data set: read every patch once, and list damaged, duplicate, leaked, unusual ones.

python -m pcam_lightning.audit data.root=/scratch/pcam
"""

import sys
import time
from pathlib import Path
from typing import Any

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.data.findings import write_findings
from pcam_lightning.errors import CheckFailed, InputError
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording


@command("audit")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    manifest = collect_manifest(command=sys.orig_argv, seed=config["seed"], dataset={})
    with recording(folder, manifest):
        summary = audit(config, folder, manifest)
    if failed := summary["failed_on"]:
        counts = ", ".join(f"{kind} ({count:,})" for kind, count in failed.items())
        raise CheckFailed(f"{summary['root']}: found {counts}", folder / "summary.json")
    return folder / "summary.json"


def audit(config: Config, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the report, findings, near-duplicates and plots; return the summary, also written."""
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    from pcam_lightning.audit.faults import find_faults
    from pcam_lightning.audit.near_duplicates import (
        find_near_duplicates,
        fit_coder,
        write_alignments,
    )
    from pcam_lightning.audit.pictures import draw_audit
    from pcam_lightning.audit.report import describe, print_report
    from pcam_lightning.audit.scan import scan_split
    from pcam_lightning.data.files import check_images, split_files
    from pcam_lightning.data.identity import file_digests, fingerprint
    from pcam_lightning.data.scale import check_scales, declared_scale
    from pcam_lightning.data.source import find_source

    start = time.monotonic()
    save_resolved(config, folder)
    source = find_source(config["data"])
    data = config["data"]
    files = split_files(source.root, data["keys"], data["cache_dir"])
    rows = sum(check_images(each) for each in files.values())
    scale = declared_scale(data["scale"])

    reading = time.monotonic()
    # The products of small matrices are slower on several threads, much slower on busy cores.
    with threadpool_limits(1, user_api="blas"):
        coder = fit_coder(files, scale) if config["audit"]["near_duplicates"] else None
        with tqdm(total=rows, desc="reading", unit="patch", disable=None) as bar:
            scans = {split: scan_split(each, bar, scale, coder) for split, each in files.items()}
        seconds_reading = time.monotonic() - reading
        near = None
        if coder:
            with tqdm(desc="comparing", unit="pair", disable=None) as bar:
                near = find_near_duplicates(scans, bar)
    alike = None if near is None else near.table
    findings = find_faults(scans, alike)
    digests = file_digests(files)
    digest = fingerprint(digests)
    head = {"dataset": source.name, "root": source.root, "fingerprint": digest}
    dataset = {"name": source.name, "root": source.root, "fingerprint": digest, "files": digests}
    write_json(folder / "manifest.json", manifest | {"dataset": dataset})
    write_findings(findings, folder / "findings.parquet", digest)

    if near is not None:
        write_alignments(near.table, folder / "near_duplicates.parquet")
    report = head | describe(scans, findings, near)
    write_json(folder / "audit.json", report)
    draw_audit(folder / "plots", report, scans, findings, config["audit"]["gallery"], alike)
    print_report(report)
    try:
        check_scales(files, data["scale"])
    except InputError as error:
        print(f"training rejects these files: {error}")

    totals = {kind: sum(counts.values()) for kind, counts in report["findings"].items()}
    summary = head | {
        "findings": totals,
        "fail_on": config["audit"]["fail_on"],
        "failed_on": {kind: totals[kind] for kind in config["audit"]["fail_on"] if totals[kind]},
        "patches": rows,
        "seconds": time.monotonic() - start,
        "patches_read_per_second": rows / seconds_reading,
    }
    write_json(folder / "summary.json", summary)
    return summary


if __name__ == "__main__":
    main()
