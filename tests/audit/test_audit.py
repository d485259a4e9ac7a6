"""Tests of the command `audit`: its report, findings, pictures and exit codes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pcam_files import SPLITS, random_split, write_split
from pcam_layouts import declared_datasets, packed_kaggle
from PIL import Image
from sklearn.metrics import roc_auc_score

from pcam_lightning.checks.data import NEAR
from pcam_lightning.data.files import SplitFiles, split_files
from pcam_lightning.data.findings import KINDS, read_findings
from pcam_lightning.data.identity import file_digests, fingerprint
from pcam_lightning.runs import Run

DEMO = ("data=demo", "data.demo.train=128", "data.demo.valid=64", "data.demo.test=64")


def test_a_damaged_data_set_and_a_run_that_excludes_the_findings(command, plots) -> None:
    damaged = (*DEMO, "data.demo.dtype=float32", "data.demo.damage=true")
    code, out, err = command(*damaged, "audit.gallery=2", "hydra.run.dir=audited", name="audit")
    assert code == 1
    audit = Run("audited")
    assert audit.state == "finished"
    assert out.splitlines()[-1] == f"summary: {audit.path.absolute() / 'summary.json'}"
    message = err.splitlines()[-1]
    assert "nan_pixels (3), infinity (6), out_of_range (6)" in message
    root = Path(audit.manifest["dataset"]["root"])

    report = json.loads(Path("audited/audit.json").read_text())
    assert report["dataset"] == "demo" and report["fingerprint"] == fingerprint(
        file_digests(split_files(root))
    )
    train = report["splits"]["train"]
    assert (train["rows"], train["storage"]["dtype"]) == (128, "float32")
    assert train["pixels"]["low"] == -20 and train["pixels"]["high"] == 1e5
    assert train["storage"]["bytes"] > 3.9 * train["storage"]["bytes_as_uint8"]
    assert "float32 takes 4 bytes" in out
    assert sum(train["intensity"]["histogram"]["tumour"]) == train["tumour"]

    table, audited_fingerprint = read_findings(Path("audited/findings.parquet"))
    assert audited_fingerprint == report["fingerprint"]
    assert list(table.columns) == ["split", "row", "kind", "value"]
    for kind in KINDS:
        count = table["kind"].tolist().count(kind)
        assert audit.summary["findings"][kind] == count
        assert Path(f"audited/plots/found_{kind}.png").exists() == (count > 0)
    for name in ("intensity", "classes", "extremes_train", "extremes_valid", "extremes_test"):
        with Image.open(f"audited/plots/{name}.png") as picture:
            assert min(picture.size) > 200

    pairs = pd.read_parquet("audited/near_duplicates.parquet")
    near = table[table["kind"].isin(NEAR)]
    named = pairs["other_split"] + ":" + pairs["other_row"].astype(str)
    reported = zip(pairs["split"], pairs["row"], pairs["kind"], named, strict=True)
    assert sorted(reported) == sorted(near.itertuples(index=False, name=None)) != []
    assert pairs["correlation"].between(0.85, 1).all()

    excluded = (table["split"] == "train") & (table["kind"] != "near_duplicate")
    rows = set(table.loc[excluded, "row"])
    options = ("debug=fast", "data.exclude=audited/findings.parquet", "data.normalize=train")
    code, _, err = command(*damaged, *options, "data.batch_size=16", "hydra.run.dir=run")
    assert code == 0, err
    data = Run("run").summary["data"]
    assert data["dropped"] == {"blank": 0, "excluded": len(rows)}
    assert data["rows"]["train"] == 128 - len(rows)
    assert data["normalization"]["mean"] != [0.5, 0.5, 0.5]


def test_the_report_equals_scikit_learn_and_numpy(command, pcam_root: Path) -> None:
    images, labels = random_split(60)
    images[labels == 1] //= 2  # tumours are darker
    write_split(pcam_root, "train", images, labels)
    code, out, _ = command(
        f"data.root={pcam_root}", "audit.gallery=2", "hydra.run.dir=run", name="audit"
    )
    assert code == 0
    report = json.loads(Path("run/audit.json").read_text())
    train = report["splits"]["train"]
    means = images.mean(axis=(1, 2, 3))
    assert train["intensity"]["label_auroc"] == roc_auc_score(labels, means) == 0
    assert train["intensity"]["mean_tumour"] == pytest.approx(means[labels == 1].mean())
    assert (train["tumour"], train["normal"], train["slides"]) == (20, 40, None)
    np.testing.assert_allclose(report["normalization"]["mean"], images.mean((0, 1, 2)) / 255)
    assert all(not any(counts.values()) for counts in report["findings"].values())
    assert "dataset: pcam" in out


def test_kinds_that_fail_are_configurable(command) -> None:
    damaged = ("data=demo", "data.demo.train=64", "data.demo.valid=32", "data.demo.test=32")
    options = ("data.demo.damage=true", "audit.fail_on=[nan_pixels,infinity]", "audit.gallery=1")
    code, out, err = command(
        *damaged, *options, "audit.near_duplicates=false", "hydra.run.dir=run", name="audit"
    )
    assert code == 0, err
    assert Run("run").summary["findings"]["contradiction"] > 0
    assert Run("run").summary["findings"]["near_duplicate"] == 0
    assert json.loads(Path("run/audit.json").read_text())["near_duplicates"] is None
    assert not Path("run/near_duplicates.parquet").exists() and "not searched" in out


def test_one_class_and_invalid_labels(command, pcam_root: Path) -> None:
    images, _ = random_split(20)
    write_split(pcam_root, "valid", images, np.zeros(20))
    write_split(pcam_root, "test", images[::-1], np.array([0, 1, 9, 1] * 5))
    code, out, err = command(f"data.root={pcam_root}", "audit.gallery=2", name="audit")
    assert code == 1 and "invalid_label (5)" in err
    assert "one class" in out


# Each override exits with 2, and one line that names the key or folder at fault.
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("audit.fail_on=[dust]", "audit.fail_on.0='dust': expected one of nan_pixels"),
        ("audit.gallery=0", "audit.gallery=0"),
        ("audit.near_duplicates=often", "audit.near_duplicates"),
        ("data.root=/nowhere", "/nowhere"),
        ("data.keys=[x]", "data.keys"),
    ],
)
def test_invalid_arguments(command, override: str, named: str) -> None:
    code, out, err = command(override, name="audit")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert named in line


def test_an_audit_does_not_depend_on_the_layout_of_the_files(command, pcam_root: Path) -> None:
    def audit(*options: str) -> tuple[dict, Run]:
        common = (f"data.root={pcam_root}", "audit.fail_on=[]", "audit.gallery=1")
        folder = "run" + str(len(options))
        code, _, err = command(*common, *options, f"hydra.run.dir={folder}", name="audit")
        assert code == 0, err
        return json.loads(Path(folder, "audit.json").read_text()), Run(folder)

    before, _ = audit()
    declared_datasets(pcam_root)
    packed_kaggle(pcam_root)
    after, run = audit("data.keys=[images,targets]")
    assert after["fingerprint"] == before["fingerprint"]
    assert after["findings"] == before["findings"]
    for split, facts in before["splits"].items():
        assert after["splits"][split]["pixels"] == facts["pixels"]
    assert "data.keys=[images,labels]" in command(f"data.root={pcam_root}", name="audit")[2]
    assert SplitFiles(pcam_root, "train").names("x")[0] in run.manifest["dataset"]["files"]


def test_the_scale_of_each_split(command, pcam_root: Path) -> None:
    images, labels = random_split(20, 1)
    write_split(pcam_root, "valid", images / 255, labels)
    write_split(pcam_root, "test", (images - images.mean()) / 70, labels)
    options = (f"data.root={pcam_root}", "audit.fail_on=[]", "audit.gallery=1")
    code, out, err = command(*options, "hydra.run.dir=run", name="audit")
    assert code == 0, err
    splits = json.loads(Path("run/audit.json").read_text())["splits"]
    assert [facts["scale"]["seems"] for facts in splits.values()] == ["0-255", "0-1", "normalized"]
    assert [facts["scale"]["read_as"] for facts in splits.values()] == ["0-255", "0-1", "0-255"]
    assert splits["valid"]["intensity"]["mean"] == pytest.approx(images.mean())
    assert "split_valid_x.h5" in out  # training rejects this split


def test_invalid_meta_files_are_reported(command, pcam_root: Path) -> None:
    for split, content in (("train", b"\x1f\x8b\x08"), ("valid", b"a;wsi\n1;2\n"), ("test", b"")):
        SplitFiles(pcam_root, split).meta.write_bytes(content)
    code, out, err = command(f"data.root={pcam_root}", "audit.gallery=1", name="audit")
    assert code == 0 and "Traceback" not in err
    for split in SPLITS:
        assert (out + err).count(str(SplitFiles(pcam_root, split).meta)) == 1
