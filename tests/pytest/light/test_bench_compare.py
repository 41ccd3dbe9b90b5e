"""The statistics of bench/compare.py, on made-up measurements."""

import importlib.util
import math
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
SPEC = importlib.util.spec_from_file_location("bench_compare", ROOT / "bench/compare.py")
compare = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare)


def noisy(rng, seconds, count, noise=0.03):
    """As a shared machine gives them: never faster than `seconds`, now and then half as slow again."""
    values = seconds * (1 + np.abs(rng.normal(0, noise, count)))
    return np.where(rng.random(count) < 0.1, values * 1.5, values)


def pairs_of(rng, ratio, count=16, noise=0.03):
    return list(zip(noisy(rng, 1.0, count, noise), noisy(rng, ratio, count, noise)))


def judge_one(pairs):
    return compare.judge({"bench": pairs}, compare.ERROR_RATE)[0]


@pytest.mark.parametrize("count, error_rate, rank", [(10, 0.05, 2), (16, 0.05, 4), (6, 0.05, 1), (20, 0.01, 4)])
def test_ranks_are_those_of_the_sign_test(count, error_rate, rank):
    """Ranks as tables of the sign test give them."""
    assert compare.median_interval(range(1, count + 1), error_rate) == (rank, count + 1 - rank)


def test_too_few_pairs_say_nothing():
    assert compare.median_interval([1.0] * 5, 0.05) == (-math.inf, math.inf)
    assert not judge_one([(1.0, 2.0)] * 5).differs


def test_equal_sides_differ_as_seldom_as_promised():
    """1,000 comparisons of 8 benches each: at most 5 % may name one; the sign test's steps make it fewer."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        verdicts = compare.judge({str(i): pairs_of(rng, 1.0) for i in range(8)}, compare.ERROR_RATE)
        wrong += any(one.differs for one in verdicts)
    # Binomial(1000, 0.05) is above 72 with a chance of 0.1 %.
    assert wrong <= 72


@pytest.mark.parametrize("ratio", [1.1, 0.9])
def test_a_difference_beyond_the_noise_is_found(ratio):
    one = judge_one(pairs_of(np.random.default_rng(2), ratio, count=30))
    assert one.differs
    assert one.is_slower(0.02) == (ratio > 1)
    assert one.low < ratio < one.high


def test_a_slowdown_within_the_tolerance_is_no_failure():
    one = judge_one(pairs_of(np.random.default_rng(3), 1.01, noise=0.001))
    assert one.differs and not one.is_slower(0.02) and one.is_slower(0.005)


def test_noise_alone_is_no_failure():
    """The median is above the tolerance, the interval holds 1."""
    one = judge_one([(1.0, 1.1), (1.0, 0.8)] * 4 + [(1.0, 1.1), (1.0, 1.1)])
    assert one.median_ratio > 1.02 and not one.is_slower(0.02)


def test_benches_share_the_error_rate():
    """What one bench alone may claim, one of a hundred may not."""
    pairs = [(1.0, 1.1)] * 8 + [(1.0, 0.99)]
    assert compare.judge({"alone": pairs}, 0.05)[0].differs
    assert not compare.judge({str(i): pairs for i in range(100)}, 0.05)[0].differs


def test_report_names_each_verdict():
    rng = np.random.default_rng(4)
    verdicts = compare.judge({"slow": pairs_of(rng, 1.2, 30, 0.001), "fast": pairs_of(rng, 0.8, 30, 0.001),
                              "same": [(1.0, 1.1), (1.1, 1.0)] * 8}, 0.05)
    text = compare.report(verdicts, 0.02)
    assert [line.split("|")[-2].strip() for line in text.splitlines()[2:]] == ["SLOWER", "faster", "within the noise"]
