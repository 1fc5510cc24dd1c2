"""The import closure finds all that a stage may read, and the fingerprint changes exactly with what counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctm.fingerprint import PACKAGE, fingerprint, import_closure, library_versions, package_digest
from ctm.stage import Profile, Stage
from ctm.stages import JOINS, STAGES


def closure(stage: str) -> set[str]:
    return {file.as_posix() for file in import_closure(STAGES[stage].run.__module__)}


def python(code: str, *arguments: str, path: Path) -> Any:
    """Runs code in a fresh interpreter that finds the package in ``path``; what it prints is read as JSON."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_modules_that_are_imported_when_the_stage_runs_count():
    assert {"ctm/training/loop.py", "ctm/models/gates.py", "ctm/data/loaders.py"} <= closure("train_classifier")
    assert {"ctm/pseudomasks/maps.py", "ctm/pseudomasks/views.py"} <= closure("extract_pseudomasks")
    assert "ctm/data/datasets/dfc2020.py" in closure("preprocess")


def test_a_modules_data_files_come_with_it():
    assert "ctm/evaluation/report.html.j2" in closure("evaluate")


@pytest.mark.parametrize("stage", STAGES)
def test_neither_other_stages_nor_the_command_line_count(stage: str):
    files = closure(stage)
    assert {file for file in files if file.startswith("ctm/stages/")} == {f"ctm/stages/{stage}.py"}
    assert not files & {"ctm/cli.py", "ctm/params.py", "ctm/sync.py", "ctm/execute.py", "ctm/fingerprint.py"}
    assert not any(file.endswith(".pyc") for file in files)


@pytest.mark.parametrize("stage", [*STAGES.values(), *JOINS.values()], ids=[*STAGES, *JOINS])
def test_stages_without_a_gpu_and_no_others_run_in_the_image_without_torch(stage: Stage):
    assert ("torch" in library_versions(stage.run.__module__)) == (stage.profile is Profile.GPU)


def test_what_one_half_of_the_pipeline_uses_does_not_rerun_the_other():
    assert not any(file.startswith(("ctm/models/", "ctm/training/")) for file in closure("preprocess"))
    assert "ctm/models/segmenter.py" not in closure("train_classifier")
    assert not any("/datasets/" in file for stage in STAGES if stage != "preprocess" for file in closure(stage))


LOADED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps([name for name in sys.modules if name.split(".")[0] in ("ctm", "torch")]))
"""


@pytest.mark.parametrize("stage", ["preprocess", "evaluate"])
def test_python_loads_nothing_that_the_closure_lacks(stage: str, tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "ctm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ctm" / "stages" / "__init__.py").write_text("")  # lists all stages, so that it loads them all
    names = [file.removesuffix(".py").replace("/", ".") for file in sorted(closure(stage)) if file.endswith(".py")]
    modules = {name.removesuffix(".__init__") for name in names}
    loaded = set(python(LOADED, json.dumps(sorted(modules)), path=tmp_path))
    packages = {"ctm", *(f"ctm.{file.parent.name}" for file in PACKAGE.glob("*/__init__.py"))}
    assert {name for name in loaded if name.startswith("ctm")} - modules <= packages
    assert ("torch" in loaded) == (stage != "preprocess")


SYNTHETIC = {
    "__init__.py": "",
    "start.py": """
from __future__ import annotations
from typing import TYPE_CHECKING
import ctm.plain
from ctm.folder import leaf, NAME
from ctm.attribute import thing
if TYPE_CHECKING:
    from ctm.typing_only import Kind
def run():
    from ctm.lazy import load
    if True:
        import ctm.deep.leaf as other
""",
    "plain.py": "import ctm.start",
    "attribute.py": "thing = 1",
    "lazy.py": "from ctm import second",
    "second.py": "",
    "second.txt": "data",
    "typing_only.py": "",
    "unused.py": "",
    "folder/__init__.py": "NAME = 1",
    "folder/leaf.py": "",
    "folder/other.py": "",
    "deep/__init__.py": "raise RuntimeError",
    "deep/leaf.py": "",
}


def test_every_form_of_import_is_followed(tmp_path: Path):
    files = SYNTHETIC | {name: (PACKAGE / name).read_text() for name in ("fingerprint.py", "stage.py")}
    for name, text in files.items():
        (tmp_path / "ctm" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ctm" / name).write_text(text)
    code = "import json, ctm.fingerprint as f; print(json.dumps([str(p) for p in f.import_closure('ctm.start')]))"
    unread = {"__init__.py", "typing_only.py", "unused.py", "folder/other.py", "deep/__init__.py"}
    assert python(code, path=tmp_path) == sorted(f"ctm/{name}" for name in SYNTHETIC.keys() - unread)


CHANGES = """
import json, sys
import ctm.fingerprint as f
from ctm.stages import STAGES
assert f.PACKAGE.parent.samefile("."), f.PACKAGE
def all_fingerprints():
    f.import_closure.cache_clear()
    f._imports.cache_clear()
    return {name: f.fingerprint(stage, {}, {}) for name, stage in STAGES.items()}
before, changed = all_fingerprints(), {}
assert all_fingerprints() == before
for file in json.loads(sys.argv[1]):
    path = f.PACKAGE.parent / file
    data = path.read_bytes()
    path.write_bytes(data + b"\\n# changed\\n")
    changed[file] = [name for name, value in all_fingerprints().items() if value != before[name]]
    path.write_bytes(data)
assert all_fingerprints() == before
print(json.dumps(changed))
"""


def test_a_change_of_code_changes_the_stages_that_use_it(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "ctm", ignore=shutil.ignore_patterns("__pycache__"))
    expected = {
        "ctm/training/loop.py": ["train_classifier", "train_segmenter"],
        "ctm/evaluation/report.html.j2": ["evaluate"],
        "ctm/stages/prune_heads.py": ["prune_heads"],
        "ctm/models/pruning.py": ["prune_heads"],
        "ctm/data/datasets/dfc2020.py": ["preprocess"],
        "ctm/data/shards.py": list(STAGES),
        "ctm/stages/__init__.py": [],
        "ctm/cli.py": [],
        "ctm/presets/demo.yaml": [],
    }
    assert python(CHANGES, json.dumps(list(expected)), path=tmp_path) == expected


def test_config_and_inputs_change_the_fingerprint_and_their_order_does_not():
    stage = STAGES["prune_heads"]
    config = {"prune_heads": {"tolerance": 1e-4, "check_images": 32}}
    inputs = {"shards": "a", "classifier": "b"}
    base = fingerprint(stage, config, inputs)
    assert len(base) == 64
    assert int(base, 16) >= 0
    assert fingerprint(stage, {"prune_heads": dict(reversed(config["prune_heads"].items()))}, inputs) == base
    assert fingerprint(stage, config, dict(reversed(inputs.items()))) == base
    others = [
        fingerprint(stage, {"prune_heads": {"tolerance": 1e-3, "check_images": 32}}, inputs),
        fingerprint(stage, config, {**inputs, "classifier": "c"}),
        fingerprint(stage, config, {"shards": "b", "classifier": "a"}),
        fingerprint(STAGES["extract_pseudomasks"], config, inputs),
    ]
    assert len({base, *others}) == 5


def test_the_libraries_are_those_that_the_stage_imports():
    assert {"numpy", "pillow", "rasterio"} <= set(library_versions("ctm.stages.preprocess"))
    assert {"torch", "timm", "lightning-fabric"} <= set(library_versions("ctm.stages.train_classifier"))
    assert "ctm" not in library_versions("ctm.stages.evaluate")
    assert all(value[0].isdigit() for value in library_versions("ctm.stages.evaluate").values())


def test_the_package_is_what_a_wheel_of_it_holds(tmp_path: Path):
    def digest() -> Any:
        code = "import json; from ctm.fingerprint import package_digest; print(json.dumps(package_digest()))"
        return python(code, path=tmp_path)

    shutil.copytree(PACKAGE, tmp_path / "ctm")
    before = digest()
    assert before == package_digest()
    (tmp_path / "ctm" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "ctm" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "ctm" / ".ipynb_checkpoints" / "cli.py").write_bytes(b"x")
    assert digest() == before
    (tmp_path / "ctm" / "presets" / "more.yaml").write_bytes(b"x")
    assert digest() != before
