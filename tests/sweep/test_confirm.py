"""Who is measured again, in which order, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lab_tui.model import CellStatus, CellView, Others, Slo
from lab_tui.sweep import confirm, summary
from lab_tui.sweep.verdict import UNSTABLE, WIDE
from tests.store.helpers import measurement, sweep_spec, viewed

Rate = Callable[[int], float]


def confirmed(cells: list[CellView], rate: Rate, most: int = 99) -> list[int]:
    """The order in which cells are measured again; they are changed in place."""
    order: list[int] = []
    while len(order) < most and (index := confirm.again(cells, Slo())) is not None:
        order.append(index)
        run = measurement(rate(index))
        cells[index] = msgspec.structs.replace(cells[index], repeats=(*cells[index].repeats, run))
    return order


def test_those_that_tie_are_measured_in_turn() -> None:
    cells = list(viewed(sweep_spec(), 100.0, 50.0, 101.0, 60.0, 102.0))
    assert confirmed(cells, lambda index: 100.0 + index % 2) == [0, 2, 4, 0, 2, 4]
    found = summary.amount(cells, Slo())
    assert found.best is not None and (found.best.runs, found.best.confirmed) == (3, True)
    assert [(b.instances, b.parallel) for b in found.tied] == [
        (1, 1),
        (2, 1),
        (1, 4),
    ]  # least resources first


def test_at_most_four_take_part() -> None:
    cells = list(viewed(sweep_spec(), *[100.0] * 8))
    assert len(set(confirmed(cells, lambda _: 100.0))) == confirm.MOST


def test_one_turn_is_enough_where_that_tells_them_apart() -> None:
    cells = list(viewed(sweep_spec(), 100.0, 10.0, 98.0))
    truth = {0: 100.0, 2: 60.0}
    assert confirmed(cells, lambda index: truth[index])[:2] == [0, 2]
    alone = list(viewed(sweep_spec(), 100.0, 10.0, 50.0))
    order = confirmed(alone, lambda index: {0: 100.0, 2: 50.0}[index])
    assert order == [0, 2]  # the next best too, for the spread
    found = summary.amount(alone, Slo())
    assert (found.best is not None and found.best.confirmed, found.tied) == (True, ())


def test_a_lucky_first_run_does_not_win() -> None:
    cells = list(viewed(sweep_spec(), 103.0, 100.0, 100.0, ci=3.0))
    truth = {0: 94.0, 1: 100.0, 2: 101.0}
    confirmed(cells, lambda index: truth[index])
    found = summary.amount(cells, Slo())
    assert found.best is not None and found.best.throughput_tps < 103.0
    assert (found.best.instances, found.best.concurrency) == (2, 1)


def test_it_goes_on_where_it_was() -> None:
    """Whatever was measured when it stopped, the rest of the order is the same."""
    start = list(viewed(sweep_spec(), 100.0, 50.0, 101.0, 60.0, 102.0))
    whole = confirmed(list(start), lambda index: 100.0 + index)
    for stop in range(len(whole)):
        cells = list(start)
        before = confirmed(cells, lambda index: 100.0 + index, most=stop)
        assert before + confirmed(cells, lambda index: 100.0 + index) == whole


def test_who_cannot_win_does_not_take_part() -> None:
    cells = list(viewed(sweep_spec(), 100.0, 100.0, 100.0, 100.0))
    unsound = measurement(100.0, verdict="unstable")
    cells[0] = msgspec.structs.replace(cells[0], result=unsound)
    cells[1] = msgspec.structs.replace(cells[1], status=CellStatus.FAILED, result=None, reason="no")
    assert set(confirmed(cells, lambda _: 100.0)) == {2, 3}
    assert confirmed(list(viewed(sweep_spec(), 100.0)), lambda _: 1.0) == []  # nothing to compare
    assert confirmed(list(viewed(sweep_spec())), lambda _: 1.0) == []


def test_one_that_was_skipped_by_hand_is_not_asked_for_again() -> None:
    cells = list(viewed(sweep_spec(), 100.0, 100.0))
    cells[0] = msgspec.structs.replace(cells[0], reason="not measured again: skipped by hand")
    assert confirmed(cells, lambda _: 100.0) == [1, 1]


def test_the_best_does_not_jump_while_the_first_turn_runs() -> None:
    cells = list(viewed(sweep_spec(), 100.0, 102.0))
    confirmed(cells, lambda _: 99.0, most=1)  # the first alone was measured again
    assert confirm.best(cells, Slo()) == 1


def test_a_cell_that_fails_when_it_is_measured_again_does_not_win() -> None:
    cells = list(viewed(sweep_spec(), 130.0, 100.0, 101.0))
    cells[0] = msgspec.structs.replace(cells[0], repeats=(measurement(130.0, verdict="failing"),))
    found = summary.amount(cells, Slo())
    assert found.best is not None and found.best.cell == 3


def test_numbers_and_words_on_one_axis() -> None:
    """As in --axis arg:--temp=0,0.7: what is no whole number is a word."""
    cells = list(viewed(sweep_spec(axes={"arg:--temp": (0, "0.7"), "concurrency": (1, 8)}), 90.0, 95.0, 99.0))
    assert confirm.again(cells, Slo()) is not None


def test_a_widely_known_cell_is_settled_by_more_runs_or_does_not_win() -> None:
    cells = list(viewed(sweep_spec(), 100.0, 110.0, 50.0))
    wide = measurement(110.0, verdict="unstable")
    cells[1] = msgspec.structs.replace(
        cells[1], result=msgspec.structs.replace(wide, throughput_ci95_tps=15.0, flags=("wide: it is",))
    )
    assert confirm.best(cells, Slo()) == 0
    assert set(confirmed(cells, lambda index: 100.0 + 10 * index)) == {0, 1}
    assert confirm.best(cells, Slo()) == 1
    moved = msgspec.structs.replace(cells[1].result or wide, flags=("drift: it went on",))
    cells[1] = msgspec.structs.replace(cells[1], result=moved, repeats=())
    assert 1 not in confirmed(cells, lambda _: 100.0)


def test_the_best_stays_while_only_it_was_measured_again() -> None:
    """Two runs that differ a little know their spread badly (Student's t of one degree of freedom)."""
    cells = list(viewed(sweep_spec(), 100.0, 158.0, 130.0))
    cells[1] = msgspec.structs.replace(cells[1], repeats=(measurement(154.0),))
    assert confirm.best(cells, Slo()) == 1


def test_runs_that_are_far_apart_settle_nothing() -> None:
    wide = msgspec.structs.replace(measurement(16.0, verdict="unstable"), throughput_ci95_tps=7.5)
    cells = list(viewed(sweep_spec(), 16.0))
    again = tuple(msgspec.structs.replace(wide, throughput_tps=tps) for tps in (140.0, 15.0))
    cells[0] = msgspec.structs.replace(cells[0], result=wide, repeats=again)
    found = summary.amount(cells, Slo())
    assert found.best is not None and not found.best.confirmed
    assert "unstable" in found.remark


def test_the_highest_figure_takes_part_though_its_neighbours_level_it() -> None:
    """A real grid of SmolLM2 on two cores: one setting stands out of a plateau, and is known widely."""
    axes = {"instances": (1, 2, 4), "parallel": (1, 2, 4), "concurrency": (1, 2, 4, 8)}
    measured = (
        (69.4, 2.1), (67.7, 2.3), (64.8, 9.1), (61.9, 11.3), (65.1, 4.1), (130.3, 6.7),
        (130.4, 2.7), (129.8, 21.7), (67.6, 3.8), (131.0, 1.3), (127.9, 9.3), (119.1, 22.2),
        (69.0, 1.8), (70.1, 3.3), (70.8, 25.6), (65.3, 11.6), (67.6, 4.2), (124.6, 10.3),
        (133.0, 18.0), (133.0, 53.6), (70.6, 3.8), (131.5, 4.2), (133.7, 7.3), (132.6, 14.8),
        (67.1, 3.2), (69.5, 3.5), (79.7, 4.6), (79.5, 12.2), (66.6, 3.5), (128.7, 10.4),
        (130.4, 9.1), (156.5, 13.8), (66.9, 2.4), (128.4, 6.7), (125.9, 10.9), (129.5, 19.0),
    )  # fmt: skip
    cells = list(viewed(sweep_spec(axes=axes), *(tps for tps, _ in measured)))
    for index, (tps, half_width) in enumerate(measured):
        wide = {"verdict": UNSTABLE} if half_width > WIDE * tps else {}
        cells[index] = msgspec.structs.replace(cells[index], result=measurement(tps, half_width, **wide))
    field = confirm.field(cells, Slo())
    assert 31 in field and len(field) <= confirm.MOST
    confirmed(cells, lambda index: measured[index][0])
    best = summary.amount(cells, Slo()).best
    assert best is not None and (best.instances, best.parallel, best.concurrency) == (2, 4, 8)


def test_a_cell_that_others_disturbed_is_measured_again() -> None:
    """It would win alone. The one that is far behind is not worth the time."""
    disturbed = Others(requests=9, tokens=900, share=0.3)
    cells = list(viewed(sweep_spec(), 100.0, 80.0, 95.0, 20.0))
    for index in (1, 3):
        run = measurement(80.0 if index == 1 else 20.0, verdict=UNSTABLE, others=disturbed)
        cells[index] = msgspec.structs.replace(cells[index], result=run)
    assert confirm.best(cells, Slo()) == 0
    assert "1 cell may make more: others asked" in summary.amount(cells, Slo()).remark
    left = confirm.to_go(cells)
    order = confirmed(cells, {0: 100.0, 1: 120.0, 2: 95.0}.__getitem__)
    assert order[0] == 1 and 3 not in order and len(order) <= left
    best = summary.amount(cells, Slo())
    assert best.best is not None and (best.best.cell, best.best.throughput_tps, best.remark) == (2, 120.0, "")
    again = msgspec.structs.replace(cells[1].result or measurement(1.0), throughput_tps=99.0)
    cells[1] = msgspec.structs.replace(cells[1], repeats=(again,))  # again not alone
    assert confirm.best(cells, Slo()) == 0 and confirm.shared(cells, Slo()) == []
