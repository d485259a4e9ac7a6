from pathlib import Path

import pytest

from pcam_lightning.weights.license import is_noncommercial, read_license


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\ntags: [timm]\n---\n# Model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: cc-by-nc-nd-4.0\n---\n", "cc-by-nc-nd-4.0"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [timm]\n---\n", None),
        ("---\nlicense: [mit, other]\n---\n", None),
        ("---\n- license\n---\n", None),
        ("---\nlicense: : :\n---\n", None),
        ("# Model\nlicense: mit\n", None),
        ("license: mit\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system ['touch x']\n---\n", None),
        ("---\nlicense: " + "[" * 1000 + "\n---\n", None),
        ("---\nlicense: mit\n---\n" + "x" * (1 << 20), None),
        ("", None),
        (None, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_license_is_that_of_the_front_matter(
    tmp_path: Path, text: str | None, expected: str | None
) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert read_license(tmp_path / "README.md") == expected
    assert list(tmp_path.iterdir()) == ([] if text is None else [tmp_path / "README.md"])


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("cc-by-nc-nd-4.0", True),
        ("CC-BY-NC-4.0", True),
        ("fair-noncommercial-research-license", True),
        ("apache-2.0", False),
        ("mit", False),
        ("cc-by-nd-4.0", False),
        (None, False),
    ],
)
def test_a_license_for_noncommercial_use_is_known_by_its_name(license, expected: bool) -> None:
    assert is_noncommercial(license) == expected
