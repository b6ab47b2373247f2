# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF001 (the roadmap writes products with a multiplication sign)
"""The console output: header, breakdown a size, summary and analysis, all computed from the legs.

The shape is the roadmap's. No sentence of the analysis is fixed: each is left out where the run
does not support it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.core import statistics
from benchmark.core.contenders import OWN, ROADMAP_RIVAL
from benchmark.core.ratios import by_point, fastest_rival, find, ratio_words, speedup, times
from benchmark.core.records import Leg, state_bytes

RULE = "=" * 60
METHOD_TITLES = {"parameter-shift": "Parameter-Shift Rule", "adjoint": "Adjoint Method"}
OBSERVABLE_TITLES = {"z0": "<Z0>", "sum-z": "sum of <Z_q> over all qubits"}
# Gradients below this share of the observable's weight count as zero.
ZERO_SHARE = {"double": 1e-12, "single": 1e-6}


Sizes = Mapping[int, Sequence[Leg]]


def short_ms(value: float) -> str:
    """Write milliseconds in a narrow column.

    >>> short_ms(0.01234), short_ms(2.34), short_ms(156.78)
    ('0.012ms', '2.3ms', '157ms')
    """
    digits = 0 if value >= 10 else 1 if value >= 1 else 3
    return f"{value:.{digits}f}ms"


def header(run: Mapping[str, Any], gpu_line: str) -> str:
    """Return the block that says what is measured."""
    case, arguments = run["case"], run["arguments"]
    hardware = run["environment"]
    lines = [
        RULE,
        f"GRADIENT BENCHMARK ({METHOD_TITLES[case['method']]})",
        RULE,
        f"Circuit:    {case['n_qubits']} qubits, {case['n_layers']} layers, "
        f"{len(case['parameters'])} parameters",
        f"Samples:    {arguments['n_samples']}",
        f"GPU:        {gpu_line}",
        f"Warmup:     {arguments['warmup']}, Runs: {arguments['runs']}",
        f"CPU:        {hardware['cpu']}, {case['threads']} of {hardware['cpus_usable']} "
        f"usable {'CPU' if hardware['cpus_usable'] == 1 else 'CPUs'}",
        f"Dataset:    {run['dataset']['name']}: {run['dataset']['description']}",
        f"Observable: {OBSERVABLE_TITLES[case['observable']]}, {case['precision']} precision",
        f"Contenders: {', '.join(arguments['contenders'])}",
        f"Time limit: {arguments['time_limit']:g} s a leg (what is slower runs on fewer rows)",
        RULE,
    ]
    return "\n".join(lines)


def size_block(run: Mapping[str, Any], legs: Sequence[Leg]) -> str:
    """Return one size's breakdown: QDP, PennyLane's path, their ratio, then everyone else."""
    case = run["case"]
    own = next(leg for leg in legs if leg.contender == "qdp")
    rival = next((leg for leg in legs if leg.contender == ROADMAP_RIVAL), None)
    lines = [*_path_lines(own, "QDP Path", case, "encode once")]
    if rival is not None:
        evaluations = 2 * len(case["parameters"]) * rival.n_samples
        note = f"encode per eval: {evaluations} times; {rival.encoding_note}"
        lines += ["", *_path_lines(rival, "PennyLane Path", case, note)]
        if own.ok and rival.ok:
            lines += ["", f"  Speedup: {ratio_words(rival, own)} (QDP vs PennyLane)"]
    others = [leg for leg in legs if leg.contender not in ("qdp", ROADMAP_RIVAL)]
    if others:
        lines += ["", "  Other contenders:", *(_other_line(leg, own) for leg in others)]
    return "\n".join(lines)


def _path_lines(leg: Leg, title: str, case: Mapping[str, Any], encoding: str) -> list[str]:
    lines = [f"  {title}:"]
    if not leg.ok:
        return [*lines, f"    {leg.status}: {leg.reason}"]
    parameters = len(case["parameters"])
    if leg.rule == "parameter-shift":
        circuits = (
            f"{parameters} params × 2 shifts × {leg.n_samples} samples = "
            f"{2 * parameters * leg.n_samples} evals"
        )
    else:
        circuits = f"adjoint: one forward and one backward sweep × {leg.n_samples} samples"
    lines += [
        f"    Encoding time:  {leg.encoding:.2f} ms ({encoding})",
        f"    Circuit time:   {leg.circuit:.2f} ms ({circuits})",
        f"    Total time:     {leg.total.median:.2f} ms{_spread(leg)}",
        f"    Throughput:     {leg.throughput:.1f} samples/sec",
    ]
    if leg.extrapolated:
        lines.append(
            f"    Measured:       the first {leg.rows_measured} of {leg.n_samples} samples; "
            f"times extrapolated from {leg.rows_measured}"
        )
    return lines


def _spread(leg: Leg) -> str:
    total = leg.total
    if total.n_samples < 2:
        return " (single run)"
    return f" (95 % interval {total.low:.2f} to {total.high:.2f}, {total.n_samples} runs)"


def _other_line(leg: Leg, own: Leg) -> str:
    head = f"    {leg.contender:<23}"
    if not leg.ok:
        return f"{head}{leg.status}: {leg.reason}"
    text = f"{head}{leg.total.median:>12.2f} ms  {leg.throughput:>12.1f} samples/sec  {leg.rule}"
    if own.ok and leg.contender not in OWN:
        text += f"; QDP vs this: {ratio_words(leg, own)}"
    if leg.extrapolated:
        text += f"; extrapolated from {leg.rows_measured}"
    return text


def summary(run: Mapping[str, Any], sizes: Sizes) -> str:
    """Return the roadmap's table, then one of all contenders where there are more."""
    lines = [
        RULE,
        "RESULTS SUMMARY",
        RULE,
        "Samples   QDP (ms)    PennyLane (ms)   Speedup   Breakdown (enc/ckt)",
        "-" * 68,
    ]
    for n_samples, legs in sizes.items():
        lines.append(_summary_row(n_samples, legs))
    others = [
        leg for legs in sizes.values() for leg in legs if leg.contender not in ("qdp", "pennylane")
    ]
    if others:
        lines += ["", *_contender_table(sizes)]
    return "\n".join(lines)


def _summary_row(n_samples: int, legs: Sequence[Leg]) -> str:
    own, rival = find(legs, "qdp"), find(legs, ROADMAP_RIVAL)
    row = f"{n_samples:<10}"
    row += f"{own.total.median:<12.2f}" if own else f"{_status(legs, 'qdp'):<12}"
    row += f"{rival.total.median:<17.2f}" if rival else f"{_status(legs, ROADMAP_RIVAL):<17}"
    row += f"{times(speedup(rival, own).value) if own and rival else '-':<10}"
    parts = [
        f"{short_ms(leg.encoding)}/{short_ms(leg.circuit)}"
        for leg in (own, rival)
        if leg is not None
    ]
    row += " vs ".join(parts)
    for leg, title in ((own, "QDP"), (rival, "PennyLane")):
        if leg and leg.extrapolated:
            row += f" ({title} extrapolated from {leg.rows_measured})"
    return row.rstrip()


def _status(legs: Sequence[Leg], contender: str) -> str:
    return next((leg.status for leg in legs if leg.contender == contender), "not run")


def _contender_table(sizes: Sizes) -> list[str]:
    lines = [
        "Samples   Contender              Rule             Total (ms)    ms/sample    "
        "Samples/s      QDP is      Note",
        "-" * 100,
    ]
    for n_samples, legs in sizes.items():
        own = find(legs, "qdp")
        for leg in sorted(legs, key=lambda leg: leg.total.median if leg.ok else float("inf")):
            row = f"{n_samples:<10}{leg.contender:<23}{leg.rule:<17}"
            if not leg.ok:
                lines.append(f"{row}{leg.status}: {leg.reason}")
                continue
            row += f"{leg.total.median:<14.2f}{leg.total.median / n_samples:<13.4g}"
            row += f"{leg.throughput:<15.1f}"
            compared = own is not None and leg.contender != "qdp"
            row += f"{times(speedup(leg, own).value) if own and compared else '-':<12}"
            notes = []
            if leg.extrapolated:
                notes.append(f"extrapolated from {leg.rows_measured}")
            if own and compared and not speedup(leg, own).significant:
                notes.append("not significant" if len(leg.totals) > 1 else "single run")
            lines.append(f"{row}{', '.join(notes)}".rstrip())
    return lines


def analysis(run: Mapping[str, Any], sizes: Sizes) -> str:
    """Return the sentences that this run supports."""
    sentences: list[str] = []
    largest = max(sizes)
    legs = sizes[largest]
    own, rival = find(legs, "qdp"), find(legs, ROADMAP_RIVAL)
    if own and rival:
        sentences += _against_pennylane(run, own, rival)
        sentences += _over_sizes(sizes)
    if own:
        sentences += _against_rivals(legs, own)
        sentences += _fused(legs, own)
        sentences += _zero_gradients(run, own)
    sentences += _agreement(sizes)
    sentences += [
        f"Not timed at {n_samples} samples: {leg.contender} ({leg.status}: {leg.reason})"
        for n_samples, size_legs in sizes.items()
        for leg in size_legs
        if not leg.ok
    ]
    return "\n".join([RULE, "ANALYSIS", RULE, *(f"- {sentence}" for sentence in sentences)])


def _against_pennylane(run: Mapping[str, Any], own: Leg, rival: Leg) -> list[str]:
    evaluations = 2 * len(run["case"]["parameters"])
    share = 100 * rival.encoding / rival.total.median
    own_share = 100 * own.encoding / own.total.median
    sentences = [
        f"Encoding accounts for {share:.1f}% of PennyLane's total time at {rival.n_samples} "
        f"samples ({rival.encoding_note}) and for {own_share:.1f}% of QDP's"
    ]
    encodings = f"QDP encoded each of {own.n_samples} samples once; PennyLane's path embeds "
    encodings += f"{evaluations} × {rival.n_samples} = {evaluations * rival.n_samples} times"
    if rival.extrapolated:
        encodings += (
            f" (of which {evaluations * rival.rows_measured} were measured, on "
            f"{rival.rows_measured} samples)"
        )
    sentences.append(encodings)
    if own.circuit > 0 and rival.circuit > 0:
        faster, slower = ("QDP", "PennyLane")
        factor = rival.circuit / own.circuit
        if factor < 1:
            faster, slower, factor = slower, faster, 1 / factor
        sentences.append(
            f"Circuit execution takes {short_ms(own.circuit)} in QDP ({own.rule}) and "
            f"{short_ms(rival.circuit)} in PennyLane ({rival.rule}): {faster} is {times(factor)} "
            f"faster than {slower} there"
        )
    return sentences


def _over_sizes(sizes: Sizes) -> list[str]:
    found = {}
    for n_samples, legs in sizes.items():
        own, rival = find(legs, "qdp"), find(legs, ROADMAP_RIVAL)
        if own and rival:
            found[n_samples] = speedup(rival, own)
    if len(found) < 2:
        return []
    first, last = min(found), max(found)
    low, high = found[first], found[last]
    if not (low.significant and high.significant):
        trend = "is not significant at every size"
    elif high.low > low.high:
        trend = "grows with the number of samples"
    elif high.high < low.low:
        trend = "falls with the number of samples"
    else:
        trend = "does not change significantly with the number of samples"
    return [
        f"QDP's speedup over PennyLane's path {trend}: {times(low.value)} at {first} samples, "
        f"{times(high.value)} at {last}"
    ]


def _against_rivals(legs: Sequence[Leg], own: Leg) -> list[str]:
    fastest, same = fastest_rival(legs), fastest_rival(legs, own.rule)
    sentences = []
    for leg, what in ((fastest, "rival"), (same, f"rival by {own.rule}")):
        if leg is None or (what != "rival" and leg is fastest):
            continue
        n_rivals = sum(1 for item in legs if item.ok and item.contender not in OWN)
        among = f" among {n_rivals} timed" if what == "rival" else ""
        sentence = (
            f"Fastest {what}{among} at {leg.n_samples} samples: {leg.contender} ({leg.title}, "
            f"{leg.rule}), {short_ms(leg.total.median)}"
        )
        found = speedup(leg, own)
        if found.significant and found.value < 1:
            sentence += f"; it is {times(1 / found.value)} faster than QDP ({own.rule})"
        else:
            sentence += f"; QDP ({own.rule}) against it: {ratio_words(leg, own)}"
        sentences.append(sentence)
    return sentences


def _fused(legs: Sequence[Leg], own: Leg) -> list[str]:
    fused = find(legs, "qdp-fused")
    if fused is None:
        return []
    found = statistics.ratio(own.totals, fused.totals)
    if not found.significant:
        words = "makes no significant difference to QDP's time"
    elif found.value > 1:
        words = f"makes QDP {times(found.value)} faster"
    else:
        words = f"makes QDP {times(1 / found.value)} slower"
    return [f"Fusing the encoding into the engine {words} at {own.n_samples} samples"]


def _zero_gradients(run: Mapping[str, Any], own: Leg) -> list[str]:
    if own.result is None:
        return []
    case = run["case"]
    count = count_nonzero(own.result, case["precision"])
    return [
        f"{count} of the {own.result.shape[1]} gradients of "
        f"{OBSERVABLE_TITLES[case['observable']]} are not zero for some sample"
    ]


def count_nonzero(gradients: Any, precision: str) -> int:
    """Return how many parameters have a gradient that is not zero for at least one row."""
    largest = np.max(np.abs(np.asarray(gradients)), axis=0, initial=0.0)
    return int(np.sum(largest > ZERO_SHARE[precision]))


def _agreement(sizes: Sizes) -> list[str]:
    checked = [
        leg
        for legs in sizes.values()
        for leg in legs
        if leg.ok and leg.max_difference is not None and leg.tolerance is not None
    ]
    if not checked:
        return []
    worst = max(checked, key=lambda leg: leg.max_difference or 0.0)
    return [
        f"Before timing, all gradients of the checked samples agreed with the reference backend: "
        f"largest difference {worst.max_difference:.1e} ({worst.contender}), "
        f"tolerance {worst.tolerance:.1e}"
    ]


def scaling_header(run: Mapping[str, Any]) -> str:
    """Return the head of a scaling run."""
    arguments, machine = run["arguments"], run["environment"]
    lines = [
        RULE,
        "SCALING BENCHMARK",
        RULE,
        f"Sweeps:     {', '.join(arguments['sweeps'])}",
        f"Tasks:      {', '.join(arguments['tasks'])}",
        f"Data:       {run['dataset']['name']} ({run['dataset']['description']})",
        f"CPU:        {machine['cpu']}, {machine['cpus_usable']} usable",
        f"GPU:        {', '.join(machine['gpus']) or 'none'}",
        f"Warmup:     {arguments['warmup']}, Runs: {arguments['runs']}, "
        f"limit {arguments['time_limit']:g} s a leg",
    ]
    if arguments["runs"] < statistics.LEAST_FOR_INTERVAL:
        lines.append(
            f"            (with fewer than {statistics.LEAST_FOR_INTERVAL} runs an interval is "
            "little more than their range, not 95 %)"
        )
    return "\n".join([*lines, RULE])


def megabytes(value: float | None) -> str:
    """Write bytes as MB in a column, or a dash.

    >>> megabytes(3 * 2**20), megabytes(None)
    ('3.0', '-')
    """
    return "-" if value is None else f"{value / 2**20:.1f}"


def scaling_table(legs: Sequence[Leg]) -> str:
    """Return the table of one point: time, throughput, memory, and QDP's speedup."""
    own = find(legs, "qdp")
    head = (
        f"  {'Contender':<23}{'Total (ms)':>12}{'Samples/s':>14}{'Peak MB':>10}{'CPU s':>9}  QDP is"
    )
    lines = [head]
    for leg in sorted(legs, key=lambda leg: leg.total.median if leg.ok else float("inf")):
        if not leg.ok:
            lines.append(f"  {leg.contender:<23}{leg.status}: {leg.reason}")
            continue
        notes = []
        if own is not None and leg.contender not in OWN:
            notes.append(ratio_words(leg, own))
        if leg.extrapolated:
            notes.append(f"extrapolated from {leg.rows_measured}")
        if leg.noisy:
            notes.append(f"noisy: interval of {leg.total.relative_spread:.0%} to either side")
        if leg.gpu:
            notes.append(gpu_words(leg.gpu))
        cpu = "-" if leg.cpu_seconds is None else f"{leg.cpu_seconds * leg.factor:.3g}"
        lines.append(
            f"  {leg.contender:<23}{leg.total.median:>12.4g}{leg.throughput:>14.1f}"
            f"{megabytes(leg.peak_memory_bytes):>10}{cpu:>9}  {'; '.join(notes)}".rstrip()
        )
    bytes_of_states = state_bytes(legs[0]) if legs else None
    if bytes_of_states is not None:
        lines.append(f"  States of all samples: {megabytes(bytes_of_states)} MB")
    return "\n".join(lines)


def gpu_words(readings: Mapping[str, float]) -> str:
    """Say what a GPU did during the timed region.

    >>> gpu_words({"utilization_percent": 87.4, "memory_bytes": 3 * 2**30, "power_w": 312.2})
    'GPU: 87 % busy, 3072 MB in use, 312 W'
    """
    forms = {
        "utilization_percent": ("{:.0f} % busy", 1.0),
        "memory_bytes": ("{:.0f} MB in use", 2.0**-20),
        "power_w": ("{:.0f} W", 1.0),
        "clock_mhz": ("{:.0f} MHz", 1.0),
    }
    words = [
        form.format(readings[name] * scale)
        for name, (form, scale) in forms.items()
        if name in readings
    ]
    return f"GPU: {', '.join(words)}"


def scaling_summary(legs: Sequence[Leg]) -> str:
    """Return what the points say together: QDP against the fastest rival of each."""
    lines = [RULE, "RESULTS SUMMARY", RULE]
    points = by_point(legs)
    lines.append(f"{'Sweep':<9}{'Point':<58}{'Samples/s':>12}  against the fastest rival")
    for found in points:
        sweep, _, n_samples = found[0].point
        own, rival = find(found, "qdp"), fastest_rival(found)
        case = found[0].case
        what = case.get("encoding") or f"{case['method']} L={case['n_layers']}"
        plural = "s" if case["threads"] > 1 else ""
        point = (
            f"{what} n={case['n_qubits']}, {n_samples} samples, {case['threads']} thread{plural}"
        )
        rate = "-" if own is None else f"{own.throughput:.0f}"
        words = (
            f"{ratio_words(rival, own)} {rival.contender}"
            if own and rival
            else "nothing to compare"
        )
        lines.append(f"{sweep:<9}{point:<58}{rate:>12}  {words}")
    return "\n".join([*lines, *_verdict(points)])


def _verdict(points: Iterable[Sequence[Leg]]) -> list[str]:
    """Say at how many points QDP won and lost, each counted once where sweeps cross."""
    words = {"won": 0, "lost": 0, "unclear": 0, "not compared": 0}
    for found in {leg[0].point[1:]: leg for leg in points}.values():
        own, rival = find(found, "qdp"), fastest_rival(found)
        if own is None or rival is None:
            words["not compared"] += 1
            continue
        ratio = speedup(rival, own)
        words["unclear" if not ratio.significant else "won" if ratio.value > 1 else "lost"] += 1
    return [
        f"Against the fastest rival of each of {sum(words.values())} different points QDP won at "
        f"{words['won']} and lost at {words['lost']}; {words['unclear']} not significant, "
        f"{words['not compared']} without a comparison."
    ]
