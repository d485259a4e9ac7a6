"""Commands, config keys, links and code in the README and docs."""

import copy
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pcam_files import random_split, write_split

import pcam_lightning
from pcam_lightning.__main__ import main as list_commands
from pcam_lightning.cli import plugins
from pcam_lightning.config import schema
from pcam_lightning.config.compose import CONF, Config, of_command, validated_in
from pcam_lightning.errors import InputError
from pcam_lightning.slurm import job_config
from pcam_lightning.slurm.hydra_private import SweepLoader

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MANDATORY = {
    "check": ["inputs=[a]"],
    "report": ["inputs=[a]"],
    "compare": ["runs=[a,b]"],
    "reproduce": ["run=a"],
    "collect": ["runs=a"],
    "sweep": ["continue=a"],
    "evaluate": ["run=a"],
    "predict": ["run=a", "input=b"],
    "export": ["run=a"],
    "bundle": ["run=a"],
}
"""Overrides without which a root config is incomplete."""
FILES = r"(?<!\.html)(?<!\.md)(?<!\.json)(?<!\.onnx)(?<!\.pt2)(?<!\.safetensors)(?<!\.py)"
"""Pattern behind a dotted word that is no name of a file."""
OTHER_ARGUMENTS = {"weights_only"}
"""Names in `NAME=VALUE` that are arguments of Python functions, not config keys."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w./-])(?:pcam_lightning|conf|tests|scripts|docs|\.ci)/[\w./-]*(?<!\.)"
)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text(page)) if name == language]


def code_spans(page: Path) -> list[str]:
    return CODE.findall(FENCE.sub("", text(page)))


def shell_commands() -> Iterator[list[str]]:
    """Yield the words of every command in the bash blocks, without variables set before it."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        del words[0]
                    if words:
                        yield words


def package_commands() -> list[tuple[str, ...]]:
    """Return name and arguments of every command of this package in the docs, each once."""
    found = set()
    for words in shell_commands():
        if words[:2] == ["python", "-m"] and words[2].startswith("pcam_lightning."):
            found.add((words[2].partition(".")[2], *words[3:]))
        script = next((word for word in words if word.endswith(".sbatch")), None)
        if script is not None:
            name = re.search(r"-m pcam_lightning\.(\w+)", text(ROOT / script))
            assert name is not None
            found.add((name[1], *words[words.index(script) + 1 :]))
    return sorted(found)


def compose_jobs(name: str, arguments: list[str], folder: Path) -> list[Config]:
    """Return the checked configs of a command line, as the command and the launchers make them.

    Of a sweep, the configs of the first and the last job.
    """
    overrides = [word for word in arguments if not word.startswith("--")]
    mode = RunMode.MULTIRUN if "--multirun" in arguments else RunMode.RUN
    cfg = load(name, overrides, mode)
    if (cfg.hydra.mode or mode) == RunMode.RUN:
        return [validated_in(folder, cfg)]
    axes = [f"{key}={values}" for key, values in (cfg.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=loader())
    swept = parser.parse_overrides([*axes, *cfg.hydra.overrides.task])
    if cfg.hydra.sweeper._target_.endswith("OptunaSweeper"):
        pytest.importorskip("optuna")
        from pcam_lightning.search.space import read_space

        settings: Any = OmegaConf.to_container(cfg.hydra.sweeper)
        schema.check_search({key: settings[key] for key in settings if key != "_target_"})
        space = read_space(swept)
        jobs = [space.overrides(values) for values in space.corners()]
    else:
        ((*jobs,),) = BasicSweeper.split_arguments(swept, None)
    ends = {0: jobs[0], len(jobs) - 1: jobs[-1]}
    sweep = SweepLoader(loader(), cfg)
    return [
        of_command(job_config.compose(sweep, job, number).checked) for number, job in ends.items()
    ]


@cache
def loader() -> ConfigLoader:
    plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


def load(name: str, overrides: list[str], mode: RunMode) -> DictConfig:
    return loader().load_configuration(name, overrides, run_mode=mode, from_shell=False)


@pytest.mark.parametrize("words", package_commands(), ids=" ".join)
def test_every_command_composes(words: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    name, *arguments = words
    assert name in schema.ROOTS
    if "--help" in arguments or "--cfg" in arguments:
        pytest.skip("runs in another test")
    monkeypatch.chdir(tmp_path)
    configs = compose_jobs(name, arguments, tmp_path)
    if any(word.startswith("+") for word in arguments):
        from pcam_lightning.config import build  # torch

        for config in configs:
            build.check_targets(config)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["optimizer.lrr=1"]),
        ("train", ["--multirun", "data.sampler=balanced,weighted"]),
        ("train", ["--multirun", "sweep=optuna", "optimizer.lrr=interval(0,1)"]),
        ("train", ["hydra/launcher=slurm"]),
    ],
)
def test_a_wrong_key_or_choice_would_be_found(
    name: str, arguments: list[str], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r"lrr|sampler|launcher"):
        compose_jobs(name, arguments, tmp_path)


def test_other_commands_name_what_exists() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for words in shell_commands():
        line = " ".join(words)
        for path in REPOSITORY_PATH.findall(line):
            assert (ROOT / path).exists(), f"{line}: {path}"
        for names in re.findall(r"\.\[([\w,]+)\]", line):
            assert set(names.split(",")) <= set(extras), line


def test_paths_in_the_prose_exist() -> None:
    for page in PAGES:
        for span in code_spans(page):
            for path in REPOSITORY_PATH.findall(span):
                folder = Path(path.partition("NAME")[0])
                exists = (ROOT / (folder.parent if "NAME" in path else folder)).exists()
                assert exists, f"{page.name}: {path}"


def written_overrides() -> dict[str, str]:
    """Return each `KEY=VALUE` and each dotted key in the prose, with its page."""
    found = {}
    for page in PAGES:
        for span in code_spans(page):
            for word in span.split():
                if re.fullmatch(r"\+?[a-z_]+([./][a-z_\d]+)*=.*", word):
                    found[word.lstrip("+")] = page.name
                elif re.fullmatch(rf"[a-z_]+(\.[a-z_\d]+)+{FILES}", word) and (
                    word.split(".")[0] in {*schema.ROOTS, "hydra"}
                    or (CONF / word.split(".")[0]).is_dir()
                ):
                    found[word] = page.name
    return found


def test_keys_and_choices_in_the_prose_are_valid(tmp_path: Path) -> None:
    roots = {
        name: validated_in(tmp_path, load(name, MANDATORY.get(name, []), RunMode.RUN))
        for name in schema.ROOTS
    }
    chosen = ["hydra/launcher=submitit_slurm", "hydra/sweeper=optuna"]
    cfg = load("train", chosen, RunMode.MULTIRUN)
    written = written_overrides()
    assert len(written) > 30
    for word, page in written.items():
        key, _, value = word.partition("=")
        if key in OTHER_ARGUMENTS:
            continue
        placeholder = not value or bool(re.search(r"[A-Z]|\.\.\.", value))
        if (CONF / key).is_dir():
            known = {path.stem for path in (CONF / key).glob("*.yaml")} | {"basic"}
            assert placeholder or value in known, f"{page}: {word}"
        elif key.startswith("hydra."):
            assert OmegaConf.select(cfg, key, default="?") != "?", f"{page}: {word}"
        else:
            accepted = [is_valid(root, roots[root], key, word, placeholder) for root in roots]
            assert any(accepted), f"{page}: {word}"


def is_valid(root: str, config: Config, key: str, word: str, placeholder: bool) -> bool:
    """Return whether a command has this key and, unless it is a placeholder, takes this value."""
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    section = changed
    for step in path:
        section = section.get(step)
        if not isinstance(section, dict):
            return False
    if last not in section:
        return False
    if placeholder:
        return True
    section[last] = OverridesParser.create().parse_override(word).value()
    try:
        schema.check(root, changed)
    except InputError:
        return False
    return True


def test_the_table_of_groups_names_every_choice() -> None:
    rows = re.findall(r"^\| `([\w/]+)` \| (.*) \|$", text(ROOT / "docs/configuration.md"), re.M)
    written = {group: set(re.findall(r"`(\w+)`", cell)) for group, cell in rows}
    groups = {path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"}
    expected = {
        str(folder.relative_to(CONF)): {path.stem for path in folder.glob("*.yaml")}
        for folder in {*groups, CONF / "hydra" / "launcher"}
    }
    expected["hydra/launcher"].add("basic")  # Hydra's own
    assert written == expected


def test_the_readme_is_short_and_links_every_command() -> None:
    readme = text(ROOT / "README.md")
    assert len(readme.encode()) <= 8000
    linked = dict(re.findall(r"^\| \[`(\w+)`\]\((docs/[^)]+)\)", readme, re.M))
    assert set(linked) == set(schema.ROOTS)


def test_links_and_anchors_resolve() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in LINK.findall(FENCE.sub("", text(page))):
            if re.match(r"\w+:", target):
                assert target.startswith("https://"), f"{page.name}: {target}"
                continue
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.is_file(), f"{page.name}: {target}"
            assert ROOT in other.parents, f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(other), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_picture_of_the_layers_is_the_contract() -> None:
    page = text(ROOT / "docs/architecture.md")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.M)
    written: dict[int, list[str]] = {}
    for layer, name in rows:
        written.setdefault(int(layer), []).append(name)
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    expected = {number: sorted(layer.split(" | ")) for number, layer in enumerate(layers, 1)}
    assert {number: sorted(names) for number, names in written.items()} == expected


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    assert citation["version"] == pcam_lightning.__version__
    assert citation["license"] == PROJECT["project"]["license"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The finished run that the docs name."""
    folder = tmp_path / "outputs/train/default/TIME"
    shutil.copytree(Path(__file__).parent / "runs" / "run_v0", folder)
    return folder


def documented(name: str, *words: str) -> list[str]:
    """Return the arguments of the one documented command that has these words."""
    (arguments,) = [
        arguments
        for command, *arguments in package_commands()
        if command == name and set(words) <= set(arguments)
    ]
    return arguments


@pytest.mark.parametrize("option", ["--help", "--cfg"])
def test_train_shows_its_config(command, option: str) -> None:
    code, out, _ = command(*documented("train", option))
    assert code == 0
    assert "max_epochs" in out


def test_the_list_of_commands_is_complete(capsys) -> None:
    list_commands()
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\b", out, re.M) for name in schema.ROOTS)


def test_an_audit_of_a_named_folder_runs(command, pcam_root: Path) -> None:
    arguments = documented("audit", "data.root=/scratch/pcam")
    code, out, err = command(*at(pcam_root, arguments), name="audit")
    assert code == 0, err
    assert "summary: " in out


def test_files_that_are_not_the_official_ones_fail_the_check(command, pcam_root: Path) -> None:
    arguments = documented("download", "check=true")
    code, _, err = command(*at(pcam_root, arguments), name="download")
    assert code == 1
    assert str(pcam_root) in err


def test_two_runs_are_compared(command, run_folder: Path) -> None:
    shutil.copytree(run_folder, run_folder.with_name("OTHER_TIME"))
    code, out, err = command(*documented("compare"), name="compare")
    assert code == 0, err
    assert "TIME" in out


def at(root: Path, arguments: list[str]) -> list[str]:
    return [argument.replace("/scratch/pcam", str(root)) for argument in arguments]


def console_examples() -> list[tuple[str, str]]:
    """Return the commands of console blocks with the output below each."""
    examples = []
    for page in PAGES:
        for block in blocks(page, "console"):
            for example in block.split("$ ")[1:]:
                line, _, output = example.partition("\n")
                examples.append((line, output))
    return examples


@pytest.mark.parametrize(("line", "output"), console_examples())
def test_examples_of_invalid_input_print_what_the_docs_show(
    command, line: str, output: str
) -> None:
    _, _, module, *arguments = shlex.split(line)
    code, _, err = command(*arguments, name=module.partition(".")[2])
    assert (code, err) == (2, output)


def test_the_snippet_of_the_readme_runs(
    pcam_root: Path, run_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    (snippet,) = blocks(ROOT / "README.md", "python")
    snippet = snippet.replace("max_epochs=3", "max_epochs=1")
    monkeypatch.chdir(tmp_path)
    write_split(pcam_root, "train", *random_split(128))  # a batch
    names: dict[str, Any] = {}
    exec(snippet.replace("/scratch/pcam", str(pcam_root)), names)
    assert len(names["table"]) > 0
