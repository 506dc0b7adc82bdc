"""What a comparison says of jobs with known scores."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from comparisons import GIB, comparison, point, result

from es_align.budget import NOTHING, Spent
from es_align.compare.curves import band
from es_align.compare.jobs import make_jobs
from es_align.compare.records import (
    Point,
    Result,
    Trained,
    as_array,
    as_optional,
    best_step,
    known_score,
)
from es_align.compare.reporting import best_choices, compared, write_report
from es_align.compare.table import table
from es_align.errors import RunFolderError


@pytest.fixture
def done():
    """One seed of each arm; ES is better at its middle evaluation than at its end."""
    es, grpo = make_jobs(comparison(), is_begun=False)
    return [
        (es, result([0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], peak=2)),
        (grpo, result([0, 0, 0, 1], [0, 0, 1, 1], peak=6, kl=0.02)),
    ]


def test_the_best_is_the_earliest_of_equals_after_the_start():
    rates = [point(0, [1, 1]), point(1, [0, 1]), point(2, [1, 0])]
    assert best_step(rates, "pass_rate") == 1
    nothing = Point(3, NOTHING, (None, None), (None, None))
    assert best_step([point(0, [1, 1]), nothing, point(4, [0, 0])], "pass_rate") == 4


def test_the_best_is_that_of_the_score_asked_for_and_the_reward_decides_between_equals():
    start = point(0, [0, 0])
    passes = Point(1, NOTHING, (0.5, 0.0), (1.0, 0.0))
    nears = Point(2, NOTHING, (0.4, 0.4), (0.0, 0.0))
    better = Point(3, NOTHING, (0.6, 0.0), (1.0, 0.0))
    assert best_step([start, passes, nears], "pass_rate") == 1
    assert best_step([start, passes, nears], "reward") == 2
    assert best_step([start, passes, nears, better], "pass_rate") == 3


def test_jobs_survive_their_files(tmp_path, done):
    _, one = done[0]
    one.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == one
    trained = Trained(((0, NOTHING), (2, Spent(1.5, 8, 30))), (), one.footprint, 3.0, one.machine)
    trained.write(tmp_path / "trained.json")
    assert Trained.read(tmp_path / "trained.json") == trained


def test_missing_scores_are_nan_and_back():
    assert as_optional(as_array((0.5, None, 1.0))) == (0.5, None, 1.0)
    without_verdicts = Point(0, NOTHING, (0.5, 0.2), (None, None))
    assert known_score([without_verdicts], "pass_rate") == "reward"
    assert known_score([without_verdicts, point(1, [0, 1])], "pass_rate") == "pass_rate"
    assert np.isnan(without_verdicts.pass_rate)
    unscored = Point(0, NOTHING, (0.5, None), (1.0, None))
    assert np.isnan(unscored.scores("pass_rate")).tolist() == [False, True]


def test_arms_are_compared_by_the_score_that_is_asked_for(done):
    report = compared(comparison(score="reward"), done, {})
    assert report.arms[0].gain == 0.375  # rewards are half of what passes here
    assert report.differences[0].best == 0.25
    assert "| es | 0 | 0.125 | 0.375 | 0.500 | +0.375 [" in table(report)


def test_what_is_told_of_each_arm(done):
    report = compared(comparison(), done, {})
    es, grpo = report.arms
    assert (es.before.pass_rate, es.best.pass_rate, es.final.pass_rate) == (0.25, 1.0, 0.75)
    assert (es.best.step, es.best.seconds, es.train_s) == (1, 60.0, 120.0)
    assert es.gain == 0.75
    assert es.gain_ci95[0] <= 0.75 <= es.gain_ci95[1]
    assert (es.completions, es.tokens, es.device_s) == (16, 200, 240.0)  # two cores for two minutes
    assert (es.num_updates, es.num_evaluations) == (2, 2)
    assert (es.peak_rss_bytes, es.beyond_imports_bytes) == (2 * GIB, GIB)
    assert grpo.beyond_imports_bytes == 5 * GIB
    assert grpo.drift.kl_per_token == 0.02
    (difference,) = report.differences
    assert (difference.es, difference.grpo) == ("es", "grpo")
    assert (difference.best, difference.final) == (0.5, 0.25)
    assert difference.memory_ratio == pytest.approx(0.2)
    lines = table(report).splitlines()
    assert "| es | 0 | 25.0 % | 75.0 % | 100.0 % | +75.0 " in lines[2]
    assert "25.0 to 50.0 %" in lines[2]
    assert lines[-3].startswith("Before, final and best are held-out pass rates")
    assert lines[-2].startswith("es less grpo: best +50.0 points [")
    assert lines[-2].endswith("over prompts, 1 seed.")
    assert (es.budget_share, grpo.budget_share) == (1.0, 0.5)
    assert lines[-1] == "grpo,seed=0 ended with 50 % of its budget spent."


def test_an_arm_that_has_not_begun_is_compared_with_nothing(done):
    report = compared(comparison(), done[:1], {})
    assert ([arm.arm for arm in report.arms], report.differences) == (["es"], ())


def test_a_sweep_is_represented_by_its_best_of_the_first_seed():
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["grpo"]["sweep"] = {"learning_rate": [1e-5, 1e-4]}
    config = comparison(arms=arms, seeds=[0, 1])
    jobs = {job.name: job for job in make_jobs(config, is_begun=False)}
    done = [
        (jobs["es,seed=0"], result([0, 1], [1, 1])),
        (jobs["es,seed=1"], result([0, 1], [0, 1])),
        (jobs["grpo,learning_rate=1e-05,seed=0"], result([0, 1], [0, 0])),
        (jobs["grpo,learning_rate=0.0001,seed=0"], result([0, 1], [0, 1])),
        (jobs["grpo,learning_rate=0.0001,seed=1"], result([0, 1], [1, 1])),
    ]
    best = best_choices(done, "pass_rate")
    assert best["grpo"] == {0: done[3][1], 1: done[4][1]}
    (difference,) = compared(config, done, {}).differences
    assert difference.num_seeds == 2
    assert difference.best == pytest.approx(0.0)  # +.5 on one seed, -.5 on the other
    assert difference.best_ci95 == (-1.0, 1.0)  # either seed twice, and its prompt that differs
    assert difference.best_by_seed == {0: 0.5, 1: -0.5}
    report = compared(config, done, {})
    assert "over prompts and 2 seeds, best seed by seed +50.0, -50.0." in table(report)
    edge = "grpo: learning_rate 0.0001 is best and at the edge of its sweep, so a better one may "
    assert any(note.startswith(edge) for note in report.notes)
    assert not any("edge" in note for note in compared(config, done[:3], {}).notes)  # not all yet
    arms["grpo"]["sweep"] = {"learning_rate": [1e-5, 1e-4, 1e-3]}
    wider = comparison(arms=arms, seeds=[0, 1])
    (last,) = (j for j in make_jobs(wider, is_begun=False) if j.name.endswith("0.001,seed=0"))
    tried = [*done, (last, result([0, 1], [0, 0]))]
    assert not any("edge" in note for note in compared(wider, tried, {}).notes)


def test_seeds_of_an_arm_are_told_together():
    config = comparison(seeds=[0, 1])
    jobs = {job.name: job for job in make_jobs(config, is_begun=False)}
    done = [
        (jobs["es,seed=0"], result([0, 0], [1, 1], [0, 1])),
        (jobs["es,seed=1"], result([0, 0], [0, 1], [0, 0])),
    ]
    report = compared(config, done, {"grpo,seed=0": "grpo,seed=0 failed"})
    (es,) = report.over_seeds
    assert (es.num_seeds, es.best, es.best_range) == (2, 0.75, (0.5, 1.0))
    assert (es.final, es.final_range) == (0.25, (0.0, 0.5))
    lines = table(report).splitlines()
    assert "es, 2 seeds: final 25.0 % (0.0 % to 50.0 %), best 75.0 % (50.0 % to 100.0 %)." in lines
    assert lines[-2:] == ["Failed: grpo,seed=0 failed", "1 job(s) are still to come."]


def test_a_reward_without_verdicts_is_told_as_it_is(tmp_path):
    (job, *_) = make_jobs(comparison(), is_begun=False)
    points = tuple(Point(n, NOTHING, (-3.0 - n, None), (None, None)) for n in range(2))
    done = [(job, replace(result([0], [1]), points=points))]
    report = compared(comparison(), done, {})
    assert report.score == "reward"
    assert "| -3.000 | -4.000 | -4.000 | -1.000 [-1.000, -1.000] |" in table(report)
    assert table(report).splitlines()[2].endswith("|  |")  # nothing has a pass rate
    assert report.arms[0].best.num_unscored == 1
    (told,) = (note for note in report.notes if "no score" in note)
    assert told.startswith(f"{job.name}: up to 1 held-out prompts have no score")
    write_report(report, done, tmp_path)


def test_a_sweep_over_names_has_labels_too():
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["grpo"]["sweep"] = {"loss_type": ["grpo", "dapo"], "beta": [0.001]}
    config = comparison(arms=arms)
    done = [(job, result([0, 1], [1, 1])) for job in make_jobs(config, is_begun=False)]
    assert done[1][0].name == "grpo,loss_type=grpo,beta=0.001,seed=0"
    assert "| grpo loss_type dapo beta 0.001 | 0 |" in table(compared(config, done, {}))


def test_curves_are_straight_between_evaluations_and_end_with_the_shortest():
    one = result([0, 0], [1, 0], seconds=10.0)
    other = result([0, 0], [1, 1], seconds=20.0)
    drawn = band([one, other], lambda at: at.spent.seconds, "pass_rate")
    assert drawn.x_X[-1] == 10.0
    assert drawn.mean_X[0] == 0.0
    assert drawn.mean_X[-1] == pytest.approx((0.5 + 0.5) / 2)  # the other is half way
    assert (drawn.low_X <= drawn.mean_X).all() and (drawn.mean_X <= drawn.high_X).all()


def test_records_of_an_older_release_are_refused(tmp_path, done):
    tree = asdict(done[0][1])
    del tree["machine"]
    (tmp_path / "result.json").write_text(json.dumps(tree))
    with pytest.raises(RunFolderError, match=r"older release of es-align.*name another --out"):
        Result.read(tmp_path / "result.json")


def test_the_report_is_three_kinds_of_files(done, tmp_path):
    write_report(compared(comparison(), done, {}), done, tmp_path)
    tree = json.loads((tmp_path / "comparison.json").read_text())
    assert [arm["arm"] for arm in tree["arms"]] == ["es", "grpo"]
    assert tree["arms"][0]["curve"][1]["completions"] == 8
    assert (tmp_path / "comparison.md").read_text().startswith("| arm | seed |")
    assert (tmp_path / "plots" / "comparison.png").stat().st_size > 10_000
