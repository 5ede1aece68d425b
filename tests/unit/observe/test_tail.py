import time

from trainer.observe.tail import Tail
from trainer.storage.record import Record


class Seen(list):
    """A display that keeps what it is shown."""

    def event(self, event):
        self.append(event["event"])

    def point(self, point):
        self.append(point["step"])

    def close(self):
        self.append("closed")


def test_a_tail_shows_new_lines_once_and_no_old_ones(tmp_path):
    record = Record(tmp_path)
    record.add_point({"step": 0})
    seen = Seen()
    with Tail(record, seen):
        record.add_event({"event": "began"})
        record.add_point({"step": 1})
        deadline = time.monotonic() + 10
        while seen != ["began", 1] and time.monotonic() < deadline:
            time.sleep(0.01)
        record.add_point({"step": 2})
    assert seen == ["began", 1, 2, "closed"]


def test_a_display_that_fails_does_not_stop_the_run(tmp_path, capsys):
    class Broken(Seen):
        def event(self, event):
            raise ValueError("[/x]")

    record = Record(tmp_path)
    with Tail(record, Broken()):
        record.add_event({"event": "began"})
    assert "The display failed (ValueError: [/x]); the run continues." in capsys.readouterr().err
