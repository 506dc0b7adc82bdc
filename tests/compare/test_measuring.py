"""Which of an ES run's generations stands for it."""

from types import SimpleNamespace

from es_align.compare import measuring


def test_the_run_s_own_export_serves_unless_the_score_ranks_another_one_first(
    tmp_path, monkeypatch
):
    folder, asked = tmp_path / "model", []
    (folder / "adapter").mkdir(parents=True)

    def export(run, out, *, generation):
        asked.append((run, generation, out.exists()))
        out.mkdir()
        return SimpleNamespace(path=str(out))

    monkeypatch.setattr(measuring, "best_generation", lambda run: 3)
    monkeypatch.setattr(measuring, "export", export)
    assert measuring._exported(folder, 3) == folder / "adapter"
    for _ in range(2):  # what a measurement that was broken off left is made anew
        assert measuring._exported(folder, 2) == tmp_path / "best"
    assert asked == [(folder, 2, False)] * 2
    (folder / "adapter").rmdir()
    assert measuring._exported(folder, 3) == folder / "model"  # of a run that moved whole weights
