"""From what a run has brought to what is reported: one Measurement, and what a reader must know."""

from __future__ import annotations

import math
from collections import Counter

from lab_tui.load.plan import LoadPlan
from lab_tui.load.probe import Found
from lab_tui.load.record import CANCELLED, Record
from lab_tui.load.sample import (
    SHORTEST_SPAN_S,
    Counted,
    Outcome,
    Sample,
    gathered,
    is_good,
    length,
    seconds_per_token,
    since_ms,
    too_fast,
)
from lab_tui.load.stats import Interval, drift, histogram_percentiles, interval, mean, percentile, percentiles
from lab_tui.load.window import REQUESTS
from lab_tui.model import ClientCost, Measurement, Others, Slo, StreamRate, TokenCounts
from lab_tui.text import plural

TOLERANCE = 0.005  # by how much token counts may differ, as a share
UNSEEN_EACH = 2  # tokens of a request that is cut off, which its server counts and nobody gets
LATE_S = 0.05  # of a load worker's loop, from which it is worth a word
FEW_EACH = 4  # requests an instance: with fewer, no two can have the same share
UNEVEN = 1.25  # an instance with so many times its equal share is worth a word
# Tokens per second, as the middle between what reads as one and as the next: a reader finds 10
# sluggish, 30 smooth, 60 fast and 100 near instant.
FEELS = ((20.0, "sluggish"), (45.0, "smooth"), (80.0, "fast"))


def summarise(plan: LoadPlan, found: Found, record: Record, outcome: Outcome) -> Measurement:
    """The Measurement of a finished run."""
    begin, end = outcome.opened, outcome.closed
    elapsed = end - begin
    sample = gathered(plan, found, record, outcome)
    counted = _counted(record, outcome)
    tokens = counted * sample.ratio
    rates = [rate * sample.ratio for rate in record.rates_between(begin, end)]
    spread = interval(rates)
    by_instance = _by_instance(plan, record, outcome, sample.ratio)
    paces = [pace for answer in sample.paced if (pace := seconds_per_token(answer, sample.ratio))]
    speeds = sorted(1 / pace for pace in paces)
    median_speed = percentile(speeds, 0.5)
    lags = sorted(record.lags_between(begin, end))
    lag = percentile(lags, 0.99)
    good = [answer for answer in sample.ended if is_good(answer, plan.slo, sample.ratio)]
    flags = (
        *found.flags,
        *outcome.flags,
        *_rate_flags(plan, outcome, rates, spread),
        *_lag_flags(lag),
        *_answer_flags(plan, found, sample, elapsed, record),
        *_token_flags(record, outcome, sample),
        *_instance_flags(by_instance, len(sample.ended)),
    )
    return Measurement(
        throughput_tps=tokens / elapsed,
        throughput_ci95_tps=spread.half_width if spread else None,
        prompt_tps=_prompt_tps(found, record, sample, elapsed),
        requests_per_s=len(sample.ended) / elapsed,
        total_tokens=round(tokens),
        elapsed_s=elapsed,
        requests=len(sample.ended),
        concurrency=plan.concurrency,
        rate=plan.workload.rate,
        errors=len(sample.failed),
        errors_by_kind=dict(Counter(answer.kind for answer in sample.failed).most_common()),
        ttft_ms=percentiles((since_ms(answer, answer.first)) for answer in sample.timed),
        itl_ms=histogram_percentiles(record.itl_between(begin, end), 1000.0 / sample.ratio),
        tpot_ms=percentiles(pace * 1000 for pace in paces),
        e2e_ms=percentiles(since_ms(answer, answer.ended) for answer in sample.finished),
        per_stream_tps=StreamRate(p5=percentile(speeds, 0.05), p50=median_speed),
        feels=feels(median_speed),
        goodput_rps=len(good) / elapsed if plan.slo != Slo() else None,
        tokens=_counts(record, outcome, sample),
        tokens_by_instance=by_instance,
        output_tokens_mean=_mean([length(answer) for answer in sample.finished]),
        client=ClientCost(
            cpu_us_per_token=record.cpu_between(begin, end) / counted * 1e6 if counted else None,
            loop_lag_ms_p99=None if lag is None else lag * 1000,
        ),
        others=_others(record, outcome, sample),
        window_closed_by=outcome.closed_by,
        flags=flags,
    )


def _counted(record: Record, outcome: Outcome, upstream: str | None = None) -> float:
    """Tokens the streams counted inside the window; of a set number of requests all there were."""
    if outcome.closed_by == REQUESTS:
        return record.tokens_at(math.inf, upstream)
    return record.tokens_at(outcome.closed, upstream) - record.tokens_at(outcome.opened, upstream)


def feels(stream_tps: float | None) -> str:
    """How a stream of so many tokens a second reads; "" when it is not known."""
    if stream_tps is None:
        return ""
    return next((word for below, word in FEELS if stream_tps < below), "near instant")


def _mean(values: list[int]) -> float | None:
    return mean(values) if values else None


def _prompt_tps(found: Found, record: Record, sample: Sample, elapsed: float) -> float | None:
    """Prompt tokens worked off a second: prompts whose first token came, times their mean length."""
    known = [answer.prompt_tokens for answer in record.answers if answer.prompt_tokens is not None]
    length = _mean(known) if known else found.prompt_tokens
    return None if length is None else len(sample.first) * length / elapsed


def _counts(record: Record, outcome: Outcome, sample: Sample) -> TokenCounts:
    """The three counts over the whole run.

    A response that was cut off has no `timings`: for it the stream's own count stands in, so that the
    three can be compared.
    """
    said = [answer for answer in record.answers if answer.said is not None]
    timings = None
    if said:
        rest = sum(answer.tokens for answer in record.answers if answer.said is None)
        timings = sum(length(answer) for answer in said) + round(rest * sample.ratio)
    return TokenCounts(
        stream=round(record.tokens * sample.ratio),
        timings=timings,
        metrics=None if outcome.metrics is None else round(outcome.metrics.tokens),
    )


def _by_instance(plan: LoadPlan, record: Record, outcome: Outcome, ratio: float) -> dict[int, int]:
    """Tokens inside the window by instance; empty when answers do not say whose they are."""
    backends = plan.target.backends
    index = {backend.address: backend.index for backend in backends}
    if len(backends) == 1 and record.upstreams() <= {""}:
        index = {"": backends[0].index}
    counts = {backend.index: 0 for backend in backends}
    named = record.upstreams() & index.keys()
    for address in named:
        counts[index[address]] += round(_counted(record, outcome, address) * ratio)
    return counts if named else {}


# --- what a reader must know ---------------------------------------------------------------


def _rate_flags(plan: LoadPlan, outcome: Outcome, rates: list[float], spread: Interval | None) -> list[str]:
    flags = []
    if change := drift(rates):
        before, after = change
        word = "rose" if after > before else "fell"
        flags.append(f"drift: tok/s {word} from {before:,.0f} to {after:,.0f} inside the window")
    asked = plan.window.ci_half_width
    if outcome.closed_by == REQUESTS:
        return flags
    if spread is None:
        flags.append("no interval: the window is too short for one, a longer one (--seconds) has it")
    elif spread.relative > asked:
        found = f"±{spread.relative:.1%} after {outcome.closed - outcome.opened:.1f} s"
        flags.append(
            f"wide: the interval is {found}, not ±{asked:.1%}: a longer window (--seconds) narrows it"
        )
    return flags


def _lag_flags(lag_s: float | None) -> list[str]:
    if lag_s is None or lag_s <= LATE_S:
        return []
    return [f"late: load workers came round {lag_s * 1000:.0f} ms late (p99), times are that uncertain"]


def _answer_flags(plan: LoadPlan, found: Found, sample: Sample, elapsed: float, record: Record) -> list[str]:
    flags = []
    finished = sample.finished
    if not finished:
        paced = any(seconds_per_token(answer, sample.ratio) for answer in sample.paced)
        what = "TPOT is of unfinished ones" if paced else "there is no TPOT"
        flags.append(f"no whole request ended inside the window of {elapsed:.1f} s: {what}")
    if fast := sum(map(too_fast, sample.paced)):
        flags.append(
            f"pace: {fast} of {len(sample.paced)} answers came within {SHORTEST_SPAN_S * 1000:g} ms of their "
            "first token: TPOT and per-stream tok/s leave them out"
        )
    asked, got = sum(answer.asked for answer in finished), sum(map(length, finished))
    if got < 0.98 * asked and plan.workload.ignore_eos:
        count = len(finished)
        flags.append(f"short: answers are {got / count:.1f} tokens long, {asked / count:.1f} were asked")
    prompts = [answer.prompt_tokens for answer in record.answers if answer.prompt_tokens is not None]
    wanted = plan.workload.prompt_tokens
    if prompts and not plan.workload.prompt_file and abs(mean(prompts) - wanted) > max(2, 0.05 * wanted):
        flags.append(f"prompts are {mean(prompts):.0f} tokens long, {wanted} were asked")
    cached = sum(answer.cached_tokens or 0 for answer in record.answers)
    if not plan.workload.cache_prompt and prompts and cached > 0.02 * sum(prompts):
        flags.append(f"cache: {cached / sum(prompts):.0%} of the prompt tokens came from a cache")
    flags += _error_flags(sample, record)
    if not found.recipe.exact and all(answer.said is None for answer in record.answers):
        flags.append("the server counts no tokens: every chunk is taken for one")
    return flags


def _error_flags(sample: Sample, record: Record) -> list[str]:
    """Failed requests of the window, as they are counted, and those before and after it."""
    failed, outside = len(sample.failed), record.error_count - len(sample.failed)
    if not record.error_count:
        return []
    kind, count = (Counter(answer.kind for answer in sample.failed) or record.errors).most_common(1)[0]
    words = f" ({record.details[kind]})" if kind in record.details else ""
    most = f"most often {kind} ({count}){words}"
    if not failed:
        return [f"errors: none inside the window, {outside} outside of it, {most}"]
    more = f"; {outside} more outside the window" if outside else ""
    return [f"errors: {failed} of {plural(failed + len(sample.ended), 'request')}, {most}{more}"]


def _token_flags(record: Record, outcome: Outcome, sample: Sample) -> list[str]:
    """Where the three counts disagree by more than they may."""
    counts = _counts(record, outcome, sample)
    assert counts.stream is not None
    flags = []
    if counts.timings is not None and abs(counts.timings - counts.stream) > TOLERANCE * counts.stream:
        flags.append(f"tokens do not reconcile: stream {counts.stream}, timings {counts.timings}")
    if outcome.metrics is not None:
        apart, allowed = outcome.metrics.tokens - counts.stream, _allowed(outcome.metrics, counts.stream)
        unseen = _unseen(record)
        if apart < -allowed or apart > allowed + unseen:
            flags.append(f"tokens do not reconcile: stream {counts.stream}, /metrics {counts.metrics}")
        elif apart > allowed:
            cut = unseen // UNSEEN_EACH
            were = "was" if cut == 1 else "were"
            flags.append(
                f"/metrics has {apart:.0f} tokens more: {plural(cut, 'request')} {were} cut off in decoding"
            )
    return flags


def _unseen(record: Record) -> int:
    """Tokens at most that were decoded while requests were being cancelled: counted there, never here."""
    return UNSEEN_EACH * sum(answer.kind == CANCELLED for answer in record.answers)


def _allowed(counted: Counted, ours: float) -> float:
    """How far two counts of the same tokens may be apart."""
    return TOLERANCE * ours + counted.error


def _others(record: Record, outcome: Outcome, sample: Sample) -> Others | None:
    """What /metrics counts that the load did not bring about; None where that is too little to be told.

    The load's own prompts are known of answers that were whole; the rest has their mean. One that was cut
    off before its first token may have been worked off or not.
    """
    stream = _counts(record, outcome, sample).stream or 0
    tokens = _more(outcome.metrics, stream, _unseen(record))
    known = [
        answer.prompt_tokens - (answer.cached_tokens or 0)
        for answer in record.answers
        if answer.prompt_tokens is not None
    ]
    prompts, prompt_tokens = 0.0, 0.0
    if known:
        prompts = mean(known) * len(record.answers)
        untold = [a for a in record.answers if a.prompt_tokens is None and a.first is None]
        spread = max(known) - min(known)  # of prompts of a file
        vague = mean(known) * len(untold) + spread * (len(record.answers) - len(known))
        prompt_tokens = _more(outcome.prompts, prompts, vague)
    if not tokens and not prompt_tokens:
        return None
    share = max(tokens / max(tokens + stream, 1), prompt_tokens / max(prompt_tokens + prompts, 1))
    return Others(tokens=round(tokens), prompt_tokens=round(prompt_tokens), share=share)


def _more(counted: Counted | None, ours: float, vague: float) -> float:
    """How many tokens were counted beyond ours; 0 where that may be how exact the counts are."""
    if counted is None:
        return 0.0
    apart = counted.tokens - ours
    return apart if apart > _allowed(counted, ours) + vague else 0.0


def _instance_flags(by_instance: dict[int, int], requests: int) -> list[str]:
    total = sum(by_instance.values())
    if len(by_instance) < 2 or not total or requests < FEW_EACH * len(by_instance):
        return []
    busiest = max(by_instance, key=lambda index: by_instance[index])
    share = by_instance[busiest] / total
    if share * len(by_instance) < UNEVEN:
        return []
    return [f"uneven: instance {busiest} made {share:.0%} of the tokens"]
