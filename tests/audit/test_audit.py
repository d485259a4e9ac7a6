import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pcam_files import SPLITS, random_split, write_split
from PIL import Image
from sklearn.metrics import roc_auc_score

from pcam_lightning.data.files import SplitFiles
from pcam_lightning.data.findings import KINDS, read_findings
from pcam_lightning.data.identity import file_digests, fingerprint
from pcam_lightning.runs import Run

DEMO = ("data=demo", "data.demo.train=128", "data.demo.valid=64", "data.demo.test=64")


def test_a_damaged_set_is_described_and_fails(command) -> None:
    damaged = (*DEMO, "data.demo.dtype=float32", "data.demo.damage=true")
    code, out, err = command(*damaged, "hydra.run.dir=run", name="audit")
    assert code == 1
    run = Run("run")
    assert run.state == "finished"
    assert out.splitlines()[-1] == f"summary: {run.path.absolute() / 'summary.json'}"
    failed = err.splitlines()[-1]
    assert (
        failed.startswith("failed: ") and "nan_pixels (3), infinity (6), out_of_range (6)" in failed
    )
    root = Path(run.manifest["dataset"]["root"])

    report = json.loads(Path("run/audit.json").read_text())
    assert report["dataset"] == "demo" and report["fingerprint"] == fingerprint(file_digests(root))
    train = report["splits"]["train"]
    assert (train["rows"], train["storage"]["dtype"]) == (128, "float32")
    assert train["pixels"]["low"] == -20 and train["pixels"]["high"] == 1e5
    assert train["storage"]["bytes"] > 3.9 * train["storage"]["bytes_as_uint8"]
    assert "float32 takes 4 bytes" in out
    assert sum(train["intensity"]["histogram"]["tumour"]) == train["tumour"]

    table, made_on = read_findings(Path("run/findings.parquet"))
    assert made_on == fingerprint(file_digests(root))
    assert list(table.columns) == ["split", "row", "kind", "value"]
    for kind in KINDS:
        count = table["kind"].tolist().count(kind)
        assert run.summary["findings"][kind] == count
        assert Path(f"run/plots/found_{kind}.png").exists() == (count > 0)
    for name in ("intensity", "classes", "extremes_train", "extremes_valid", "extremes_test"):
        with Image.open(f"run/plots/{name}.png") as picture:
            assert min(picture.size) > 200


def test_the_report_on_noise_by_scikit_learn(command, pcam_root: Path) -> None:
    images, labels = random_split(60)
    images[labels == 1] //= 2  # tumours are darker
    write_split(pcam_root, "train", images, labels)
    code, out, _ = command(f"data.root={pcam_root}", "hydra.run.dir=run", name="audit")
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


@pytest.mark.parametrize(
    ("fail_on", "code"), [("[]", 0), ("[nan_pixels,infinity]", 0), ("[contradiction]", 1)]
)
def test_what_makes_it_fail_is_chosen(command, fail_on: str, code: int) -> None:
    options = (*DEMO, "data.demo.damage=true", f"audit.fail_on={fail_on}", "audit.gallery=1")
    assert command(*options, name="audit")[0] == code


def test_one_class_and_invalid_labels_are_told_not_crashed_on(command, pcam_root: Path) -> None:
    images, _ = random_split(20)
    write_split(pcam_root, "valid", images, np.zeros(20))
    write_split(pcam_root, "test", images[::-1], np.array([0, 1, 9, 1] * 5))
    code, out, err = command(f"data.root={pcam_root}", name="audit")
    assert code == 1 and "invalid_label (5)" in err
    assert "one class" in out


def test_a_run_takes_the_verdict(command) -> None:
    damaged = (*DEMO, "data.demo.damage=true")
    command(*damaged, "hydra.run.dir=audited", name="audit")
    table, _ = read_findings(Path("audited/findings.parquet"))
    rows = set(table.loc[table["split"] == "train", "row"])
    options = ("debug=fast", "data.exclude=audited/findings.parquet", "data.normalize=train")
    code, _, err = command(*damaged, *options, "data.batch_size=16", "hydra.run.dir=run")
    assert code == 0, err
    data = Run("run").summary["data"]
    assert data["dropped"] == {"blank": 0, "excluded": len(rows)}
    assert data["rows"]["train"] == 128 - len(rows)
    assert data["normalization"]["mean"] != [0.5, 0.5, 0.5]
    drawn = pd.read_parquet("run/gradients.parquet")
    assert len(drawn) > 0
    undamaged = (*DEMO, *options, "data.batch_size=16")
    code, _, err = command(*undamaged)
    assert code == 2 and "made on other files" in err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("audit.fail_on=[dust]", "audit.fail_on.0='dust': expected one of nan_pixels, infinity"),
        ("audit.gallery=0", "audit.gallery=0: expected greater than 0"),
        ("data.root=/nowhere", "6 of the 6 PatchCamelyon files are not there"),
    ],
)
def test_bad_input_is_one_line(command, override: str, said: str) -> None:
    code, out, err = command(override, name="audit")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert said in line


def test_an_audit_reports_the_scale_of_each_split(command, pcam_root: Path) -> None:
    images, labels = random_split(20, 1)
    write_split(pcam_root, "valid", images / 255, labels)
    write_split(pcam_root, "test", (images - images.mean()) / 70, labels)
    options = (f"data.root={pcam_root}", "audit.fail_on=[]", "hydra.run.dir=run")
    code, out, err = command(*options, name="audit")
    assert code == 0, err
    splits = json.loads(Path("run/audit.json").read_text())["splits"]
    assert [facts["scale"]["seems"] for facts in splits.values()] == ["0-255", "0-1", "normalized"]
    assert [facts["scale"]["read_as"] for facts in splits.values()] == ["0-255", "0-1", "0-255"]
    assert splits["valid"]["intensity"]["mean"] == pytest.approx(images.mean())
    assert "split_valid_x.h5" in out  # what training will refuse


def test_bad_meta_files_are_warned_of_and_not_crashed_on(command, pcam_root: Path) -> None:
    for split, content in (("train", b"\x1f\x8b\x08"), ("valid", b"a;wsi\n1;2\n"), ("test", b"")):
        SplitFiles(pcam_root, split).meta.write_bytes(content)
    code, out, err = command(f"data.root={pcam_root}", "hydra.run.dir=run", name="audit")
    assert code == 0 and "Traceback" not in err
    for split in SPLITS:
        assert (out + err).count(str(SplitFiles(pcam_root, split).meta)) == 1
