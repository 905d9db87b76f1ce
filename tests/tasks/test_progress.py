"""Progress reaches its listeners, in order and with sensible shares."""

from __future__ import annotations

from tasks.progress import Progress, current_listeners, listening


class Recorder:
    def __init__(self):
        self.seen = []

    def on_change(self, progress, changed):
        self.seen.append((progress.note, round(progress.fraction, 3), changed and (changed.stage, changed.status)))


def test_listeners_are_registered_for_a_block_only():
    recorder = Recorder()
    with listening(recorder):
        assert current_listeners() == (recorder,)
    assert current_listeners() == ()


def test_progress_grows_to_one():
    recorder = Recorder()
    progress = Progress(listeners=(recorder,))
    progress.expect(["a", "b"])
    for scenario in ("a", "b"):
        progress.stage(scenario, "fetch")
        progress.stage(scenario, "generate")
        for step in range(1, 5):
            progress.step(scenario, "denoise", step, 4)
        progress.stage(scenario, "check")
        progress.stage(scenario, "publish")
        progress.finish(scenario, "published", "")
    fractions = [fraction for _, fraction, _ in recorder.seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert recorder.seen[-1][2] == ("done", "published")


def test_a_scenario_that_ends_without_having_been_announced_is_counted():
    progress = Progress()
    progress.finish("x", "invalid", "no input")
    assert progress.scenarios["x"].reason == "no input"
    assert progress.fraction == 1.0
