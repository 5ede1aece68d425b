import os
import pickle
import threading

import pytest
from ray.exceptions import ActorDiedError

from trainer.config import Config
from trainer.driver.ray_train import ATTEMPT, AttemptNumber
from trainer.driver.recorder import Recorder
from trainer.observe.display import event_sentence
from trainer.storage import logs
from trainer.storage.record import Record

CONFIG = Config(workers=2)  # with a peak learning rate of 0.1


def ready(**changes):
    return {
        "phase": "ready",
        "process_began_at": 1.0,
        "entered_at": 4.0,
        "time": 5.0,
        "device": "cpu",
        "precision": "fp32",
        "precision_reason": "so",
        "threads": 1,
        "workers": 2,
        "data_seconds": 0.1,
        "damaged": [],
        "unfinished": [],
        "step": 0,
        "resumed_from": None,
        "left_out": None,
        "pod": None,
        "outputs": {},
        **changes,
    }


def progress(**changes):
    return {
        "phase": "progress",
        "epoch": 1,
        "step": 7,
        "lr": 0.5,
        "loss_sum": 10.0,
        "samples": 4,
        "seconds": 2.0,
        "saving_seconds": 0.0,
        "outage": None,
        "committed": None,
        **changes,
    }


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path, CONFIG)


def test_reports_become_one_point_weighted_by_samples(recorder, tmp_path):
    recorder.after_report(None, [ready(), ready(time=6.0, data_seconds=0.3)], None)
    recorder.after_report(None, [progress(), progress(loss_sum=2.0, samples=2, seconds=3.0)], None)
    (point,) = Record(tmp_path).points()
    assert point["train_loss"] == pytest.approx(12.0 / 6)
    assert point["samples_per_second"] == pytest.approx(6 / 3.0)
    assert (point["workers"], point["attempt"], point["step"], point["learning_rate"]) == (2, 1, 7, pytest.approx(0.05))


def test_training_starts_when_the_last_worker_is_ready(recorder, tmp_path):
    recorder.after_report(None, [ready(), ready(time=6.0, data_seconds=0.3)], None)
    (event,) = Record(tmp_path).events()
    assert (event["event"], event["started_at"], event["data_seconds"]) == ("training_started", 6.0, 0.3)


def test_the_pods_of_all_workers_are_kept_where_they_are_pods(recorder, tmp_path):
    recorder.after_report(None, [ready(), ready()], None)
    recorder.after_report(None, [ready(pod={"pod": "a"}), ready(pod={"pod": "b"})], None)
    on_a_laptop, on_a_cluster = Record(tmp_path).events()
    assert "pods" not in on_a_laptop
    assert on_a_cluster["pods"] == [{"pod": "a"}, {"pod": "b"}]
    assert on_a_cluster["workers_wanted"] == 2


def test_a_point_has_the_newest_checkpoint_once_there_is_one(recorder, tmp_path):
    recorder.after_report(None, [ready()], None)
    recorder.after_report(None, [progress()], None)
    recorder.after_report(None, [progress(committed=(5, 1000.5)), progress()], None)
    without, with_one = Record(tmp_path).points()
    assert "checkpoint_step" not in without
    assert (with_one["checkpoint_step"], with_one["checkpoint_at"]) == (5, 1000.5)


def test_a_preemption_is_an_event_of_the_newest_attempt(tmp_path):
    recorder = Recorder(tmp_path, CONFIG, attempt=3)
    policys_copy = pickle.loads(pickle.dumps(recorder))  # as Ray hands it to the controller, beside the callbacks
    recorder.after_report(None, [ready()], None)
    policys_copy.note_preemption()
    assert Record(tmp_path).events()[-1]["event"] == "preempted"
    assert Record(tmp_path).events()[-1]["attempt"] == 3


def test_a_record_that_cannot_be_written_ends_no_preempted_run(tmp_path):
    Recorder(tmp_path / "missing", CONFIG).note_preemption()


def test_the_last_output_of_a_killed_worker_is_kept(recorder, tmp_path):
    (tmp_path / "w.err").write_text("Fatal Python error: Segmentation fault\n")
    outputs = {"err": str(tmp_path / "w.err"), "out": "/of/another/node"}
    recorder.after_report(None, [ready(), ready(outputs=outputs)], None)
    recorder.after_exception(None, {1: ActorDiedError()})
    for thread in [each for each in threading.enumerate() if each.name == "keep-output"]:
        thread.join(10)
    assert logs.lines(str(tmp_path), "worker-1") == ["Fatal Python error: Segmentation fault"]


def test_each_start_of_a_worker_group_is_an_attempt(tmp_path):
    recorder = Recorder(tmp_path, CONFIG, attempt=3)
    for _ in range(2):
        recorder.after_report(None, [ready()], None)
        recorder.after_report(None, [progress()], None)
    assert [point["attempt"] for point in Record(tmp_path).points()] == [3, 4]


def test_workers_get_the_attempt_that_the_record_will_have(tmp_path, monkeypatch):
    monkeypatch.setenv(ATTEMPT, "of another test")
    recorder = Recorder(tmp_path, CONFIG, attempt=3)
    told = AttemptNumber(recorder)
    for started in (3, 4):
        told = pickle.loads(pickle.dumps(told))  # as Ray hands it on
        told.after_init_train_context()
        assert os.environ[ATTEMPT] == str(started)
        told._recorder.after_report(None, [ready()], None)
        assert Record(tmp_path).events()[-1]["attempt"] == started


def test_an_interval_without_samples_has_no_loss(recorder, tmp_path):
    recorder.after_report(None, [ready()], None)
    recorder.after_report(None, [progress(samples=0, loss_sum=0.0)], None)
    assert Record(tmp_path).points()[0]["train_loss"] is None


def test_mistakes_of_all_ranks_are_merged_worst_first(recorder, tmp_path):
    recorder.after_report(None, [ready()], None)
    ends = [
        progress(
            phase="epoch",
            test_loss=0.4,
            test_accuracy=0.9,
            evaluation_seconds=1.0,
            last_save_seconds=waited,
            last_committed_at=8.0,
            time=9.0,
            confusion=[[1]],
            mistakes=[{"confidence": c} for c in confidences],
            weights={"size": 3, "sha256": "abc"},
        )
        for confidences, waited in (([0.9, 0.5], 0.25), ([0.7], 0.0))
    ]
    recorder.after_report(None, ends, None)
    evaluation = Record(tmp_path).evaluation()
    assert [mistake["confidence"] for mistake in evaluation["mistakes"]] == [0.9, 0.7, 0.5]
    (point,) = Record(tmp_path).points()
    assert (point["test_accuracy"], point["last_save_seconds"]) == (0.9, 0.25)
    ended = Record(tmp_path).events()[-1]
    assert (ended["event"], ended["weights"]) == ("training_finished", {"size": 3, "sha256": "abc"})


def test_a_failed_worker_is_an_event_with_its_rank_and_reason(recorder, tmp_path):
    recorder.after_exception(None, {1: ValueError("Traceback ...\n  File x\nValueError: too hot")})
    (event,) = Record(tmp_path).events()
    assert (event["event"], event["rank"], event["error"]) == ("worker_failed", 1, "ValueError: too hot")


def test_follow_up_errors_of_other_ranks_are_not_shown(recorder, tmp_path):
    recorder.after_report(None, [ready(host="pod-a"), ready(host="pod-b")], None)
    gloo = RuntimeError("[/__w/pytorch/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.1]:53372")
    recorder.after_exception(None, {0: gloo, 1: ActorDiedError()})
    (event,) = [event for event in Record(tmp_path).events() if event["event"] == "worker_failed"]
    assert (event["rank"], event["lost"], event["host"]) == (1, True, "pod-b")
    assert event_sentence(event).startswith("worker 1 (pod-b) was lost: its process or node was lost (ActorDiedError)")


def test_begin_and_end_of_an_outage_are_events(recorder, tmp_path):
    recorder.after_report(None, [ready()], None)
    for outage in (None, "storage: away.", "storage: still away.", None, None):
        recorder.after_report(None, [progress(outage=outage)], None)
    seen = [event for event in Record(tmp_path).events() if event["event"].startswith("storage_")]
    assert [event["event"] for event in seen] == ["storage_away", "storage_back"]
    assert seen[0]["message"] == "storage: away."


def test_the_final_wait_for_a_storage_is_an_event_with_its_limit(recorder, tmp_path):
    recorder.after_report(None, [ready()], None)
    recorder.after_report(None, [progress(outage="storage: away.")], None)
    recorder.after_report(None, [{"phase": "saving", "outage": "storage: still away.", "waits_s": 660.0}], None)
    recorder.after_report(None, [progress(outage=None)], None)
    _, first, last, back = Record(tmp_path).events()
    assert [first["event"], last["event"], back["event"]] == ["storage_away", "storage_away", "storage_back"]
    assert event_sentence(first) == "checkpoints are paused, training continues: storage: away."
    assert event_sentence(last) == "storage: still away. Waiting for it for at most 660 s."


def test_skipped_steps_are_an_event(recorder, tmp_path):
    recorder.after_report(None, [ready(left_out=[11, 16])], None)
    assert [event["left_out"] for event in Record(tmp_path).events() if event["event"] == "rolled_back"] == [[11, 16]]


def test_each_bad_checkpoint_is_an_event_with_a_sentence(recorder, tmp_path):
    recorder.after_report(
        None, [ready(damaged=["step-00000008-0001: is cut"], unfinished=["step-00000009-0001"])], None
    )
    damaged, unfinished, _ = Record(tmp_path).events()
    assert event_sentence(damaged) == "quarantined a damaged checkpoint: step-00000008-0001: is cut"
    assert event_sentence(unfinished).startswith("ignored checkpoint step-00000009-0001: no MANIFEST.json")
