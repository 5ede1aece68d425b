"""Names and links that no run makes: each is refused or left out with a sentence; nothing outside is touched."""

import json
import os

import boto3
import pytest
from support.object_store import BUCKET, s3_server

from trainer import resolve
from trainer.cli import main
from trainer.cluster import records
from trainer.driver import fork
from trainer.errors import CheckpointError, OutageError, StorageError, UnusableNameError
from trainer.observe import page
from trainer.storage import bucket as buckets
from trainer.storage import checkpoints, layout, lease, logs, manifest, mirror, seal, skipped_steps, store
from trainer.storage.checkpoints import Best, Checkpoint
from trainer.storage.record import Record
from trainer.storage.store_errors import sentences

FILES = dict.fromkeys(checkpoints.FILES, b"x")
SECRET = b"not for others"
INSIDE = Checkpoint(8, 1)


@pytest.fixture
def outside(tmp_path):
    """A folder outside the storage; what is in there must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("secret", "model.safetensors", "loss.png", "config.yaml", "000001.json"):
        (folder / name).write_bytes(SECRET)
    before = {entry.name for entry in folder.iterdir()}
    yield folder
    assert {entry.name for entry in folder.iterdir()} == before
    assert all(entry.read_bytes() == SECRET for entry in folder.iterdir())


@pytest.fixture
def run(tmp_path):
    record = Record(tmp_path / "runs" / "r1")
    record.create(resolve.load("seed"), {})
    checkpoints.commit(record.place, INSIDE, FILES, {})
    return record


def forge(run, **changed):
    """Replace the manifest of a checkpoint by a well-sealed one that says something else."""
    file = run.folder / layout.CHECKPOINTS / INSIDE.name / layout.MANIFEST
    content = manifest.unseal(file.read_bytes()) | changed
    file.write_bytes(manifest.seal({key: value for key, value in content.items() if value is not ...}))


def names(outside):
    return [str(outside / "secret"), "../../../../outside/secret", "../step-00000008-0001/model.safetensors", "x"]


@pytest.mark.parametrize("which", range(4), ids=["absolute", "upwards", "sideways", "unknown"])
def test_a_manifest_that_names_another_file_is_damaged(run, outside, which):
    name = names(outside)[which]
    forge(run, files={**{each: manifest.facts(b"x") for each in FILES}, name: manifest.facts(SECRET)})
    assert "is not a file of a checkpoint" in checkpoints.verify(run.place, INSIDE)
    with pytest.raises(CheckpointError, match="is damaged"):
        fork.plan(run, resolve.load("seed"), None)
    assert checkpoints.described(run.place, read_all=True)[0].damaged
    damages = []
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints is intact"):
        checkpoints.newest_valid(run.place, lambda _, damage: damages.append(damage))
    assert "is not a file of a checkpoint" in damages[0]


WRONG = {"files": ["model.safetensors"], "attempt": "1", "format": None, "name": 7, "step": "8"}
WRONG_FACTS = [None, {}, {"size": "1", "sha256": ""}, {"size": 1}]


@pytest.mark.parametrize(
    "changed",
    [
        *({key: value} for key, value in WRONG.items()),
        *({key: ...} for key in WRONG if key != "attempt"),
        *({"files": {**{name: manifest.facts(b"x") for name in FILES}, "rng.safetensors": f}} for f in WRONG_FACTS),
        {"files": {"model.safetensors": manifest.facts(b"x")}},
    ],
    ids=str,
)
def test_a_manifest_with_fields_that_make_no_sense_is_damaged(run, changed):
    forge(run, **changed)
    assert checkpoints.verify(run.place, INSIDE) != checkpoints.INTACT
    assert [row.attempt for row in checkpoints.described(run.place, read_all=True)] == [None]


DEEP = b"[" * 100_000
NOT_A_MANIFEST = [DEEP, b"", b"7", b'{"manifest": ' + DEEP, manifest.seal({}), b'{"manifest": 7}', b"\xff\xfe"]


@pytest.mark.parametrize("content", [*NOT_A_MANIFEST, manifest.seal([1])], ids=lambda content: content[:30])  # type: ignore[arg-type]
def test_every_sealed_file_that_makes_no_sense_is_damage(run, content):
    place = run.folder / layout.CHECKPOINTS
    (place / INSIDE.name / layout.MANIFEST).write_bytes(content)
    (place / checkpoints.BEST).write_bytes(content)
    (place / skipped_steps.FILE).write_bytes(content)
    run.file(layout.MANIFEST).write_bytes(content)
    assert checkpoints.verify(run.place, INSIDE) != checkpoints.INTACT
    assert checkpoints.best(run.place) is None
    with pytest.raises(CheckpointError):
        skipped_steps.read(run.place)
    assert list(seal.verify(run)) == [layout.MANIFEST]


def test_a_finished_runs_manifest_reads_nothing_outside(run, outside):
    upwards = "../../outside/secret"
    files = {name: manifest.facts(SECRET) for name in (upwards, str(outside / "secret"))}
    run.file(layout.MANIFEST).write_bytes(manifest.seal({"format": 1, "files": files}))
    assert seal.verify(run) == dict.fromkeys(files, "is not a file of a run")


@pytest.mark.parametrize(
    "name",
    ["step-00000009-0001-01", "step-00000009-0001-0", "step-0000000\u0669-0001", "step-0000000009-0001", "step-9-1"],
)
def test_a_folder_with_another_spelling_is_no_checkpoint(run, name):
    store.write(store.join(run.place, layout.CHECKPOINTS, name, layout.MANIFEST), b"")
    listed = checkpoints.list_checkpoints(run.place)
    assert listed == checkpoints.CheckpointList([INSIDE], [], [])
    assert checkpoints.newest_valid(run.place, None)[0] == INSIDE


def test_a_checkpoint_of_the_ten_thousandth_lease_is_one(run):
    late = Checkpoint(9, 10_000)
    checkpoints.commit(run.place, late, FILES, {})
    assert checkpoints.newest_valid(run.place, None)[0] == late


@pytest.mark.parametrize(
    "name", ["\u00b2.json", "\u0661.json", "7.json", "-1.json", "000002.json.json", "0000003.json"]
)
def test_a_claim_with_another_spelling_is_none(run, name):
    store.write(store.join(run.place, layout.LEASE, name), b"{}")
    assert lease.newest_claim(run.place) == 0
    assert not lease.is_held(run.place)


@pytest.mark.parametrize("content", [DEEP, b"[]", b'{"time": 1e999}', b'{"pid": [], "host": {}}', b"\xff"])
def test_a_claim_that_makes_no_sense_expires(run, content):
    store.write(store.join(run.place, layout.LEASE, "000001.json"), content)
    assert not lease.is_held(run.place)


LINKED = {
    layout.CHECKPOINTS: lambda run: checkpoints.list_checkpoints(run.place),
    f"{layout.CHECKPOINTS}/{INSIDE.name}": lambda run: checkpoints.remove(run.place, INSIDE),
    f"{layout.CHECKPOINTS}/{INSIDE.name}/model.safetensors": lambda run: checkpoints.read(run.place, INSIDE),
    f"{layout.CHECKPOINTS}/{INSIDE.name}/rng.safetensors": lambda run: checkpoints.remove(run.place, INSIDE),
    f"{layout.CHECKPOINTS}/{checkpoints.BEST}": lambda run: checkpoints.write_best(run.place, Best(8, 0.5)),
    layout.LEASE: lambda run: lease.Lease(run.place, lambda: None),
    layout.LOGS: lambda run: logs.lines(run.place, "driver"),
    f"{layout.LOGS}/attempt-1": lambda run: logs.prune(run.place, 99),
    layout.METRICS: lambda run: run.add_point({"step": 1}),
    layout.EVENTS: lambda run: run.events(),
    layout.RESULT: lambda run: run.write_result({}),
    layout.CONFIG: lambda run: run.config(),
    layout.WEIGHTS: lambda run: run.weights,
    layout.MANIFEST: lambda run: seal.verify(run),
    layout.PLOTS: lambda run: page.write(run),
    f"{layout.PLOTS}/loss.png": lambda run: page.write(run),
    layout.REPORT: lambda run: page.write(run),
}


@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_runs_folder_is_refused_and_named(run, outside, name):
    place = run.folder / name
    if place.is_dir():
        place.rename(run.folder.with_name("moved"))
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    target = outside if "." not in place.name else outside / "secret"
    place.symlink_to(target, target_is_directory=target.is_dir())
    with pytest.raises(UnusableNameError, match="is a symbolic link") as caught:
        LINKED[name](run)
    assert str(place) in caught.value.problem
    assert "remove it" in caught.value.fix


def test_a_pipe_in_a_runs_folder_is_refused_and_not_waited_for(run):
    os.mkfifo(run.folder / layout.METRICS)
    with pytest.raises(UnusableNameError, match="neither a file nor a folder"):
        run.points()


def test_a_storage_that_is_reached_through_a_link_works(run, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(run.folder.parent, target_is_directory=True)
    linked = mirror.open_record(str(link / "r1"))
    assert linked.config() == run.config()
    checkpoints.commit(linked.place, Checkpoint(9, 1), FILES, {})
    assert checkpoints.newest_valid(run.place, None)[0].step == 9
    page.write(linked)
    assert run.file(layout.REPORT).exists()


def test_a_link_at_the_place_of_a_partial_file_is_not_followed(tmp_path, outside, monkeypatch):
    monkeypatch.setattr("trainer.storage.folder.secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.part").symlink_to(outside / "secret")
    with pytest.raises(StorageError, match="cannot be written"):
        store.write(str(tmp_path / "x"), b"theirs")


def test_a_run_with_a_link_is_damaged_in_the_list_and_the_others_are_shown(run, outside):
    other = run.folder.with_name("r2")
    other.mkdir()
    (other / layout.CONFIG).symlink_to(outside / "config.yaml")
    listed = {row.run: row.state for row in records.rows(str(run.folder.parent))}
    assert listed == {"r1": "stopped", "r2": "damaged"}
    (warning,) = store.take_passed_over()
    assert f"{other / layout.CONFIG} is a symbolic link" in warning


# What a bucket may hold, and the client has no name for: below the storage, and below its run r1.
ODD = ["/x", "//", "../x", "./x", "\x01/x", "\x1b]0;title\x07/x", "."]


@pytest.fixture(scope="module")
def s3():
    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        buckets.client.cache_clear()
        yield boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
        buckets.client.cache_clear()


@pytest.fixture
def put(s3):
    """Put objects under any key into the bucket; they are removed at the end."""
    made = []

    def put(key, content=b""):
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)
        made.append(key)

    yield put
    store.take_passed_over()
    for key in made:
        s3.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def storage(put, run, request):
    """A storage in a bucket that holds one run with a checkpoint."""
    place = f"{request.node.name.partition('[')[0][-20:].strip('_').replace('_', '-')}{os.getpid()}"
    for file in run.folder.rglob("*"):
        if file.is_file():
            put(f"{place}/r1/{file.relative_to(run.folder).as_posix()}", file.read_bytes())
    return f"s3://{BUCKET}/{place}"


def key_of(storage, *below):
    return "/".join([storage.removeprefix(f"s3://{BUCKET}/"), *below])


@pytest.mark.server
@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_an_odd_name_in_a_storage_stops_no_run_and_is_named(storage, put, odd):
    put(key_of(storage, odd))
    assert [row.run for row in records.rows(storage)] == ["r1"]
    (warning,) = store.take_passed_over()
    assert "holds an object named " in warning
    assert "remove that object" in warning
    assert not {"\x1b", "\x01", "\x07"} & set(warning)


@pytest.mark.server
@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_an_odd_name_in_a_run_stops_nothing_and_is_named(storage, put, odd):
    for part in ("", layout.CHECKPOINTS, layout.LEASE, layout.LOGS, layout.PLOTS):
        put(key_of(storage, *filter(None, ["r1", part]), odd))
    assert [row.run for row in records.rows(storage)] == ["r1"]
    assert checkpoints.newest_valid(f"{storage}/r1", None)[0] == INSIDE
    assert lease.newest_claim(f"{storage}/r1") == 0
    assert logs.attempts(f"{storage}/r1") == []
    assert mirror.find_run("r1", storage).config().seed == 0
    store.check(storage)
    warnings = store.take_passed_over()
    assert warnings
    assert all("holds an object named " in warning and "remove that object" in warning for warning in warnings)
    assert not any("\x1b" in warning or "\x01" in warning for warning in warnings)


@pytest.mark.server
@pytest.mark.parametrize("odd", ["r2\x1b[2J/config.yaml", "r2/..\x7f/x"], ids=ascii)
def test_an_odd_name_among_ours_is_named_at_once_and_never_an_outage(storage, put, odd):
    put(key_of(storage, "r1", layout.CHECKPOINTS, odd))
    with pytest.raises(UnusableNameError) as caught:
        checkpoints.list_checkpoints(f"{storage}/r1")
    assert not isinstance(caught.value, OutageError)
    assert "there is an object named" in caught.value.problem
    assert mirror.find_run("r1", storage).config().seed == 0  # its record is read all the same


@pytest.mark.server
def test_a_bucket_with_other_objects_gives_the_record_alone(storage, put):
    for name in ("big.bin", "x" * 900, "plots/../../up", "config.yaml/x"):
        put(key_of(storage, "r1", name), b"theirs")
    record = mirror.find_run("r1", storage)
    assert sorted(file.name for file in record.folder.rglob("*")) == ["config.yaml", "environment.json"]


@pytest.mark.server
def test_the_command_line_warns_of_odd_names_after_its_output(storage, put, capsys, monkeypatch):
    put(key_of(storage, "../x"))
    monkeypatch.setattr("sys.argv", ["trainer", "list", "--storage", storage, "--json"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert [row["run"] for row in json.loads(out)] == ["r1"]
    assert "warning: storage:" in err
    assert "remove that object" in err


@pytest.mark.parametrize("name", ["a\x1bb", "a\x00"])
def test_a_name_that_no_client_takes_is_a_sentence(name):
    with pytest.raises(UnusableNameError), sentences("s3://bucket/x", "read"):
        raise ValueError(f'Could not parse path: Error parsing Path "{name}"')
