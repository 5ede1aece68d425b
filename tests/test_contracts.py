"""What the parts of the repository promise each other."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import trainer
from trainer import __version__, config, resolve
from trainer.cli.main import app
from trainer.errors import EXIT_CODE_MEANING, ExitCode
from trainer.observe.metrics import METRICS

ROOT = Path(__file__).parent.parent
# Which rooms of ours each room may import, besides config, resolve and errors; as in docs/architecture.md.
ROOMS = {
    "storage": set(),
    "training": {"storage"},
    "observe": {"storage"},
    "driver": {"training", "observe", "storage"},
    "cluster": {"observe", "storage"},
    "doctor": {"cluster", "driver", "storage", "training"},
    "cli": {"cluster", "doctor", "driver", "observe", "storage", "training"},
}
# What the processes of a room must not load: a submitter has no PyTorch, a worker draws no page.
FOREIGN = {
    "training": {"rich", "kubernetes", "jinja2", "matplotlib"},
    "observe": {"torch"},
    "cluster": {"torch", "ray"},
}
PACKAGE = Path(trainer.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imports(file):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def in_rooms():
    """Every module that is in a room, with that room and what it imports."""
    for module in MODULES:
        if len(module.parts) > 1:
            yield module.parts[0], module, set(imports(PACKAGE / module))


def test_every_folder_is_a_room():
    assert {path.parent.name for path in PACKAGE.rglob("*.py")} == {PACKAGE.name, *ROOMS}


def test_rooms_import_only_the_rooms_that_they_may():
    forbidden = []
    for room, module, names in in_rooms():
        rooms = {name.split(".")[1] for name in names if name.startswith("trainer.")} & set(ROOMS)
        forbidden += [f"{module} imports {other}" for other in rooms - ROOMS[room] - {room}]
    assert forbidden == []


def test_the_foundations_import_no_room():
    for name in ("config", "resolve", "errors"):
        rooms = {imported.split(".")[1] for imported in imports(PACKAGE / f"{name}.py") if imported.count(".") > 1}
        assert not rooms & set(ROOMS), name


def test_rooms_load_no_foreign_library():
    forbidden = []
    for room, module, names in in_rooms():
        forbidden += [f"{module} imports {name}" for name in names if name.split(".")[0] in FOREIGN.get(room, ())]
    assert forbidden == []


def test_the_doctor_uses_only_device_and_fetch_of_training():
    used = {name for room, _, names in in_rooms() if room == "doctor" for name in names}
    assert {name.split(".")[2] for name in used if name.startswith("trainer.training.")} <= {"device", "fetch"}


def test_every_module_has_a_test_file_of_its_name():
    tests = ROOT / "tests" / "unit"
    missing = [str(module) for module in MODULES if not (tests / module.with_name(f"test_{module.name}")).exists()]
    assert [name for name in missing if name != "__main__.py"] == []


def test_the_architecture_page_has_the_table_of_rooms():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    table = {room: set(re.findall(r"`(\w+)`", allowed)) & set(ROOMS) for room, allowed in rows if room in ROOMS}
    assert table == ROOMS


@pytest.mark.server
@pytest.mark.parametrize("module", ["data", "model", "fetch", "optimizer"])
def test_what_we_compute_does_not_import_ray(module):
    assert [name for name in imports(PACKAGE / "training" / f"{module}.py") if name.split(".")[0] == "ray"] == []


def run_without(modules, code):
    """What a program prints in an environment without some packages."""
    hidden = "".join(f"sys.modules[{module!r}] = None\n" for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{hidden}{code}"], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.server
@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("submit --help", ["torch", "ray", "matplotlib", "numpy", "safetensors", "jinja2"]),
        ("list --storage .", ["torch", "ray", "matplotlib", "numpy", "safetensors", "jinja2"]),
        ("config", ["torch", "ray", "matplotlib", "numpy", "safetensors", "jinja2", "kubernetes"]),
        ("doctor --help", ["torch", "ray", "matplotlib", "numpy", "safetensors", "jinja2"]),
    ],
)
def test_a_submitter_needs_neither_pytorch_nor_ray(command, absent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = f"sys.argv = ['trainer', *{command.split()!r}]\nfrom trainer.cli.main import main\nmain()"
    status, printed = run_without(absent, code)
    assert status == 0, printed


@pytest.mark.server
@pytest.mark.parametrize(("package", "extra"), [("ray", "train"), ("torch", "train"), ("matplotlib", "report")])
def test_a_missing_extra_is_named(package, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        f"import importlib\nfrom trainer.cli import main, runs\n"
        f"main.app = lambda **_: importlib.import_module({package!r})\nmain.main()"
    )
    status, printed = run_without([package], code)
    assert status == ExitCode.CONFIG
    assert f"pip install 'fashion-mnist-on-ray[{extra}]'" in printed


@pytest.mark.server
@pytest.mark.parametrize("folder", ["tests/faults", "tests/cluster"])
def test_tests_that_need_hours_or_a_cluster_can_be_imported(folder):
    # they run seldom, and what they import moves
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout


def test_every_imported_package_is_declared():
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[\[<>=]", line)[0].lower().replace("-", "_") for line in declared}
    modules = {"yaml": "pyyaml"}
    imported = {name.split(".")[0] for module in MODULES for name in imports(PACKAGE / module)}
    third_party = imported - set(sys.stdlib_module_names) - {"trainer"}
    assert {modules.get(name, name) for name in third_party} - names == set()


@pytest.mark.server
def test_no_module_of_the_trainer_imports_torchvision():
    # it costs seconds at each start of a worker; it is there for the benchmarks
    assert [str(m) for m in MODULES if any(n.startswith("torchvision") for n in imports(PACKAGE / m))] == []


@pytest.mark.server
def test_a_worker_that_runs_the_loop_has_not_loaded_torchvision():
    code = "import sys, trainer.training.loop; print(sorted({'torchvision', 'matplotlib', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_command_line_is_this_and_no_more():
    commands = get_command(app).commands
    surface = {
        name: sorted(o for p in command.params for o in p.opts if o.startswith("--"))
        for name, command in commands.items()
    }
    common, place = ["--config", "--recipe", "--set"], ["--context", "--namespace"]
    assert surface == {
        "train": sorted(
            [
                *common,
                "--cpus-per-worker",
                "--data",
                "--dry-run",
                "--gpu",
                "--log-format",
                "--name",
                "--storage",
                "--workers",
            ]
        ),
        "fork": sorted(
            [
                "--config",
                "--cpus-per-worker",
                "--data",
                "--dry-run",
                "--from",
                "--gpu",
                "--log-format",
                "--set",
                "--storage",
                "--workers",
            ]
        ),
        "evaluate": sorted([*common, "--data", "--json", "--storage", "--tasks"]),
        "report": ["--all", "--context", "--namespace", "--output", "--storage"],
        "checkpoints": ["--keep", "--storage"],
        "config": sorted([*common, "--schema"]),
        "submit": sorted(
            [
                *[*common, *place],
                *[
                    "--cluster",
                    "--cpus-per-worker",
                    "--dry-run",
                    "--gpu",
                    "--log-format",
                    "--name",
                    "--storage",
                    "--wait",
                    "--workers",
                ],
            ]
        ),
        "status": ["--context", "--json", "--namespace", "--storage"],
        "logs": [
            "--attempt",
            "--context",
            "--follow",
            "--namespace",
            "--raw",
            "--since",
            "--storage",
            "--tail",
            "--worker",
        ],
        "stop": [*place, "--storage", "--wait"],
        "bundle": sorted([*place, "--output", "--prometheus", "--storage"]),
        "list": ["--context", "--json", "--namespace", "--storage"],
        "doctor": sorted([*place, "--cluster", "--data", "--json", "--nodes", "--storage"]),
    }


def test_the_settings_are_these_and_no_more():
    assert sorted(config.keys()) == sorted(
        [
            *[
                "seed",
                "epochs",
                "global_batch_size",
                "workers",
                "cpus_per_worker",
                "gpu",
                "precision",
                "report_every_s",
            ],
            *[f"model.{key}" for key in ("name", "hidden", "blocks", "dropout", "relu_output")],
            *[f"optimizer.{key}" for key in ("name", "lr", "muon_lr", "momentum", "nesterov", "weight_decay")],
            *[f"optimizer.{key}" for key in ("schedule", "warmup", "grad_clip_norm", "label_smoothing")],
            *[f"checkpoint.{key}" for key in ("every_s", "keep", "max_outage_s")],
            *[f"data.{key}" for key in ("mean", "std", "flip", "shift_pixels", "validation_samples")],
        ]
    )


def test_the_exit_codes_are_these_and_each_is_explained():
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "INTERNAL": 1,
        "CONFIG": 2,
        "DATA": 3,
        "STORAGE": 4,
        "CONFLICT": 5,
        "TRAINING": 6,
        "RESOURCES": 7,
        "CHECKPOINT": 8,
        "DIVERGED": 9,
        "CLUSTER": 10,
        "BUDGET": 11,
        "INTERRUPTED": 130,
    }
    assert set(EXIT_CODE_MEANING) == set(ExitCode)


def test_the_documentation_names_every_setting_and_exit_code():
    page = (ROOT / "docs" / "configuration.md").read_text()
    undocumented = [key for key in config.keys() if f"| `{key}` |" not in page]  # noqa: SIM118 # a function, no dict
    assert undocumented == []
    assert [code.name for code in ExitCode if f"| {int(code)} | {code.name} |" not in page] == []
    assert json.loads((ROOT / "docs" / "config.schema.json").read_text()) == config.schema()


def test_the_documentation_names_every_metric():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert [each.exported for each in METRICS if f"| `{each.exported}` | {each.unit} |" not in page] == []


def test_the_readmes_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert used
    assert used <= targets


def test_every_path_in_back_ticks_exists():
    # a file that a comment or page names must be there: `docs/image.md` was not
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"), ROOT / "Dockerfile"]
    texts += [*ROOT.glob("trainer/**/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("k8s/**/*"), *ROOT.glob("helm/**/*")]
    folders, kinds = "docs|tests|trainer|helm|k8s|tools|benchmarks", "md|py|yaml|json|html|sh|tpl|svg|png"
    pattern = rf"(?<![\w./-])(?:{folders})/[\w./-]*\w\.(?:{kinds})\b"
    broken = [
        f"{text.relative_to(ROOT)}: {path}"
        for text in texts
        if text.is_file() and text.suffix not in (".json", ".png") and "results" not in text.parts
        for path in re.findall(pattern, text.read_text())
        if not (ROOT / path).exists()
    ]
    assert broken == []


def test_every_link_in_the_documentation_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)", page.read_text())]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page, link in links
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_requirement_is_pinned_with_hashes_and_no_registry_is_named():
    for file in ROOT.glob("requirements*.txt"):
        text = file.read_text()
        pins = re.findall(r"^[A-Za-z0-9_.\[\]-]+==", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[A-Za-z0-9_.\[\]-]+[ =<>~]", text, re.MULTILINE)), file.name
        assert text.count("--hash=sha256:") >= len(pins), file.name
        assert "://" not in text, file.name


def test_the_version_is_the_changelogs_and_the_recipes_load():
    assert __version__ != "0+unknown"
    assert resolve.recipes() == ["accurate", "fast", "seed"]
