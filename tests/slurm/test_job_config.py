"""A job's config: fixed at its submission, and equal to the one that Hydra itself composes."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core import utils
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from pcam_lightning.cli import plugins
from pcam_lightning.config.compose import CONF
from pcam_lightning.errors import InputError
from pcam_lightning.slurm.hydra_private import SweepLoader
from pcam_lightning.slurm.job_config import compose, restore

APP = """
defaults: [_self_, net: a]
seed: 0
rate: 0.1
root: ${oc.env:PCAM_ROOT,null}
job: ${oc.env:SLURM_JOB_ID,none}
folder: ${hydra:runtime.output_dir}
path: ${folder}/last.ckpt
number: ${hydra:job.num}
when: ${now:%f}
text: \\${not} \\\\${seed}
part: ${net}
hydra: {job: {name: app}}
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function from a sweep's overrides to its Hydra loader and master config."""
    plugins.register()
    monkeypatch.setenv("PCAM_ROOT", "/submission")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    conf = tmp_path / "conf"
    (conf / "net").mkdir(parents=True)
    (conf / "app.yaml").write_text(APP)
    for name in "ab":
        (conf / "net" / f"{name}.yaml").write_text(f"width: {ord(name)}\nown: ${{seed}}\n")

    with initialize_config_dir(str(conf), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def sweep(*overrides: str) -> tuple[Any, DictConfig]:
            given = [*overrides, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
            return loader, loader.load_configuration("app", given, RunMode.MULTIRUN)

        yield sweep


def run(loader: Any, cfg: DictConfig) -> dict[str, Any]:
    """Run a job with a config as a launcher does; return the configs that the job reads."""
    seen: dict[str, Any] = {}

    def task(config: DictConfig) -> None:
        seen["config"] = OmegaConf.to_container(config, resolve=True)
        seen["hydra"] = OmegaConf.to_container(HydraConfig.get(), resolve=True)

    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    keys = ("hydra.sweep.dir", "hydra.sweep.subdir")
    returned = utils.run_job(task, cfg, *keys, hydra_context=context, configure_logging=False)
    assert returned.return_value is None
    folder = Path(seen["hydra"]["runtime"]["output_dir"])
    assert {path.name for path in (folder / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    return seen | {"overrides": (folder / ".hydra" / "overrides.yaml").read_text()}


def run_stock(loader: Any, master: DictConfig, job: list[str], number: int, monkeypatch) -> dict:
    """Run a job with Hydra's own launcher; return the configs that the job reads."""
    seen: list[dict[str, Any]] = []

    def run_job(*, config: DictConfig, **_: Any) -> utils.JobReturn:
        seen.append(run(loader, config))
        return utils.JobReturn()

    monkeypatch.setitem(BasicLauncher.launch.__globals__, "run_job", run_job)
    monkeypatch.setitem(BasicLauncher.launch.__globals__, "configure_log", lambda *_: None)
    launcher = BasicLauncher()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    launcher.setup(hydra_context=context, task_function=lambda _: None, config=master)
    launcher.launch([job], initial_job_idx=number)
    return seen[0]


# The run folder of job 3 with net=b seed=7 rate=0.5, by hydra.sweep.subdir.
SUBDIRS = {
    "${hydra.job.num}": "3",
    "${hydra:job.num}": "3",
    "seed_${seed}": "seed_7",
    "${hydra.job.override_dirname}": "net=b,rate=0.5,seed=7",
    "${hydra.job.name}/${net.own}-${net.width}": "app/7-98",
    "${hydra.job.id}": "3",
    "${hydra.runtime.choices.net}${oc.env:PCAM_ROOT}": "b/submission",
}


@pytest.mark.parametrize("subdir", SUBDIRS)
def test_a_job_reads_the_config_of_hydras_own_launcher(
    app, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subdir: str
) -> None:
    loader, master = app(f"hydra.sweep.subdir='{subdir}'")
    job = ["net=b", "seed=7", "rate=0.5", "+more={a: [1, {b: '${seed}'}]}", "~job"]
    if "dirname" in subdir:
        job = job[:3]
    stock = run_stock(loader, master, job, 3, monkeypatch)
    sweep = SweepLoader(loader, master)
    compose(sweep, ["net=b", "seed=1"], 2)
    submitted = compose(sweep, job, 3)
    given = pickle.loads(pickle.dumps(submitted.given))
    ours = run(loader, restore(given, job_id="3"))
    assert submitted.folder_of("3") == tmp_path / "sweep" / SUBDIRS[subdir]
    assert ours["hydra"]["runtime"]["output_dir"] == str(submitted.folder_of("3"))
    for seen in (stock, ours):  # contain the time of each submission
        seen["config"].pop("when")
        seen["hydra"].pop("run")
    assert ours == stock


def test_nothing_of_the_submission_changes_until_the_job_starts(
    app, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, master = app("hydra.sweep.subdir='${hydra.job.id}_${seed}'")
    submitted = compose(SweepLoader(loader, master), ["seed=1"], 0)
    given = pickle.loads(pickle.dumps(submitted.given))
    shutil.rmtree(tmp_path / "conf")
    monkeypatch.delenv("PCAM_ROOT")
    starts = []
    for job_id in ("12_0", "12_0"):  # the second is a requeued job
        monkeypatch.setenv("SLURM_JOB_ID", job_id.replace("_", ""))
        starts.append(run(loader, restore(given, job_id))["config"])
    first, second = starts
    folder = tmp_path / "sweep" / "12_0_1"
    assert first == second and submitted.folder_of("12_0") == folder
    assert first["root"] == "/submission" and first["net"] == first["part"]
    assert first["when"] == submitted.checked["when"]
    assert (first["job"], first["folder"]) == ("120", str(folder))
    assert first["path"] == f"{folder}/last.ckpt"
    assert first["text"] == submitted.checked["text"] == "${not} \\1"
    late = {"job", "folder", "path"}
    assert {k: v for k, v in first.items() if k not in late} == {
        k: v for k, v in submitted.checked.items() if k not in {*late, "hydra"}
    }


def test_an_edit_while_jobs_are_composed_changes_none_of_them(app, tmp_path: Path) -> None:
    sweep = SweepLoader(*app())
    widths = []
    for number, net in enumerate("aaba"):
        widths.append(compose(sweep, [f"net={net}"], number).given["net"]["width"])
        (tmp_path / "conf" / "net" / "a.yaml").write_text("width: 0\n")
    assert widths == [97, 97, 98, 97]


# Outside of the sweep's folder, or unknown before the job starts.
@pytest.mark.parametrize("subdir", ["../x", "/elsewhere", "a/../..", "${oc.env:SLURM_JOB_ID,x}"])
def test_a_run_folder_that_the_sweep_could_not_find_is_rejected(app, subdir: str) -> None:
    sweep = SweepLoader(*app(f"hydra.sweep.subdir='{subdir}'"))
    with pytest.raises(InputError) as caught:
        compose(sweep, ["seed=1"], 0)
    assert str(caught.value).startswith(f"hydra.sweep.subdir={subdir}: ")


def test_a_swept_key_in_the_name_of_the_sweep_leaves_its_folder(app, tmp_path: Path) -> None:
    loader, master = app()
    master.hydra.sweep.dir = f"{tmp_path}/${{seed}}"
    sweep = SweepLoader(loader, master)
    folders = [compose(sweep, [f"seed={n}"], n).folder for n in (1, 2)]
    assert folders == [tmp_path / "0" / "1", tmp_path / "0" / "2"]


# Every kind of override that Hydra knows; the last three are errors.
OVERRIDES = [
    ["seed=1"],
    ["seed=2", "model=mlp", "optimizer.lr=1e-3", "data.batch_size=64"],
    ["optimizer=sgd", "optimizer.lr='0.1'", "+optimizer.nesterov=true"],
    ["optimizer.lr=0.5", "optimizer=sgd"],
    ["~callbacks.progress", "~scheduler.warmup_epochs"],
    ["+model.extra={a:[1,{b:${seed}}],c:null}", "++seed=3", "seed=4"],
    ["model={dropout:0.1}", "experiment_name='a b,c=d'"],
    ["hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=5", "model.dropout=0.1"],
    ["experiment=mlp_journal", "debug=fast", "trainer.max_epochs=2"],
    ["~logger", "trainer.devices=[0,1]", "+hydra.job.env_set.X=1"],
    ["optimizer.lrr=1"],
    ["+seed=1"],
    ["~no.such.key"],
]


def test_a_sweep_loader_composes_as_hydra_does() -> None:
    plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = ["hydra/launcher=submitit_slurm", "hydra.sweep.dir=sweep"]
        master = loader.load_configuration("train", given, RunMode.MULTIRUN)
        sweep = SweepLoader(loader, master)
        for overrides in OVERRIDES:
            expected = result(lambda words: loader.load_sweep_config(master, words), overrides)
            # The second time, the composition of these groups is known.
            assert [result(sweep.load, overrides) for _ in range(2)] == [expected] * 2


def result(load: Any, overrides: list[str]) -> Any:
    """Return a composed config with its types and flags, or the exception's text."""
    try:
        cfg = load(list(overrides))
    except Exception as error:
        return type(error), str(error)
    types = [OmegaConf.get_type(cfg, "hydra"), OmegaConf.is_struct(cfg), OmegaConf.get_cache(cfg)]
    return repr(OmegaConf.to_container(cfg)), types, OmegaConf.is_readonly(cfg.hydra)
