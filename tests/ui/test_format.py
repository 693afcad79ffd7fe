"""Numbers as words."""

from __future__ import annotations

import pytest

from lab_tui.model import Best
from lab_tui.ui import format as fmt


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0.0"),
        (8.421, "8.42"),
        (412.66, "412.7"),
        (999.96, "1,000"),
        (1226.4, "1,226"),
        (12345.6, "12,346"),
    ],
)
def test_rate(value: float | None, shown: str) -> None:
    assert fmt.rate(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0B"),
        (512, "512B"),
        (1536, "1.5K"),
        (5.4 * 2**30, "5.4G"),
        (141 * 2**30, "141G"),
        (1023 * 2**20, "1.0G"),
    ],
)
def test_size(value: float | None, shown: str) -> None:
    assert fmt.size(None if value is None else int(value)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.2, "0s"),
        (59.6, "1m00s"),
        (245, "4m05s"),
        (7860, "2h11m"),
        (273600, "3d4h"),
        (-3, "0s"),
    ],
)
def test_duration(value: float | None, shown: str) -> None:
    assert fmt.duration(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0 ms"), (8.44, "8.4 ms"), (310.2, "310 ms"), (9999.6, "10.0 s"), (12300, "12.3 s")],
)
def test_milliseconds(value: float | None, shown: str) -> None:
    assert fmt.milliseconds(value) == shown


def test_unknown_is_never_a_number() -> None:
    assert fmt.percent(None) == "N/A"
    assert fmt.of_total(None, None) == "N/A"
    assert fmt.of_total(None, 2**30) == "-/1.0G"
    assert fmt.of_total(2**30, None) == "1.0G"
    assert fmt.interval_share(None, 100) == "±?"
    assert fmt.interval_share(1, 0) == "±?"
    assert fmt.interval_share(216.1, 100) == "±>100%"


def test_age_only_when_it_matters() -> None:
    assert fmt.age(None) == ""
    assert fmt.age(0.5) == ""
    assert fmt.age(5) == "(5s old)"


def test_best() -> None:
    best = Best(
        cell=9, instances=8, parallel=32, concurrency=256, throughput_tps=1198, throughput_ci95_tps=16.8
    )
    assert fmt.best(best) == "8×32 c=256 1,198 ±1.4%"


def test_cutting_keeps_both_ends() -> None:
    assert fmt.middle("abcdefghij", 5) == "ab…ij"
    assert fmt.middle("abc", 5) == "abc"
    assert fmt.middle("abc", 0) == ""
    assert fmt.clip("abcdef", 4) == "abc…"
    assert fmt.clip("abc", 0) == ""


def test_wide_signs_take_two_cells() -> None:
    for cells in range(13):
        for cut in (fmt.middle("模型 🦙 qwen-四", cells), fmt.clip("模型 🦙 qwen-四", cells)):
            assert max(cells - 2, 0) <= fmt.width(cut) <= cells
    assert fmt.middle("模型-qwen-四", 8) == "模…n-四"
    assert fmt.clip("模型-qwen-四", 8) == "模型-qw…"
    assert fmt.padded("模型", 6) == "模型  "
    assert fmt.model_name("/m/Qwen.Q4.GGUF") == "Qwen.Q4"
    assert (fmt.plural(1, "stream"), fmt.plural(1024, "stream")) == ("1 stream", "1,024 streams")


def test_figures_of_an_axis() -> None:
    values = (0, 0.5, 2.5, 20, 6500, 12_500, 100_000, 1_200_000)
    assert [fmt.short(value) for value in values] == [
        "0", "0.5", "2.5", "20", "6,500", "12.5k", "100k", "1.2M"
    ]  # fmt: skip


def test_uptime_changes_once_a_minute() -> None:
    assert [fmt.uptime(seconds) for seconds in (None, 5, 59.9, 60, 119, 3599)] == [
        "-", "<1m", "<1m", "1m", "1m", "59m",
    ]  # fmt: skip
    assert fmt.uptime(7860) == "2h11m"
