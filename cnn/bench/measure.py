"""Timing training steps, numbers of threads, busy machines and single kernels.

Contenders are timed in turn, round by round, so that a machine that changes its speed changes all of them.
"""
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from cnn import _ext, runtime
from cnn.bench.contenders import check_gradients, has_bfloat16, macs, our_step, torch_step
from cnn.engine.inspecting import operations, run_operation
from cnn.engine.memory import LANES
from cnn.engine.program import Program
from cnn.streams import say


def median_spread(values):
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def show(figures, unit):
    return f"{figures['median']:>9,.0f} {unit} ({figures['low']:,.0f} to {figures['high']:,.0f})"


def show_ratio(figures):
    return f"{figures['median']:.2f} ({figures['low']:.2f} to {figures['high']:.2f})"


def peak_program(n_threads):
    program = Program(np.float32, 1)
    out = np.zeros((n_threads, LANES), np.float32)
    program.before("fma_peak", lambda: dict(out=out, rounds=2_000_000), n_threads)
    return program


def measure_peak(program, n_threads):
    """Multiply-adds per second of all threads together, in GFLOPS (a multiply-add counts as two)."""
    start = time.perf_counter()
    program.run(0)
    seconds = time.perf_counter() - start
    return n_threads * 2_000_000 * _ext.kernels(np.dtype(np.float32)).update.PEAK_FLOPS / seconds / 1e9


def time_steps(steps, seconds):
    """Steps per second over about so many seconds."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += steps(1)
    return done / (time.perf_counter() - start)


def bench_net(net, batch, rounds, seconds, with_torch):
    n_threads = runtime.get_num_threads()
    contenders = {"cnn": our_step(net, batch)[0]}
    result = {"net": net, "batch": batch, "threads": n_threads, "rounds": rounds}
    if with_torch:
        import torch
        torch.set_num_threads(n_threads)
        result["gradients_differ_by"] = check_gradients(net, min(batch, 64))
        say("gradients of one step differ from PyTorch's by "
            + ", ".join(f"{d:.0e} in {name}" for name, d in result["gradients_differ_by"].items()))
        contenders["eager"] = torch_step(net, batch, False)
        contenders["channels_last"] = torch_step(net, batch, True)
        if has_bfloat16():
            contenders["bfloat16"] = torch_step(net, batch, True, True)
    peak = peak_program(n_threads)
    rates, peaks = {name: [] for name in contenders}, []
    for steps in contenders.values():
        steps(1)
    for _ in range(rounds):
        for name, steps in contenders.items():
            rates[name].append(batch * time_steps(steps, seconds))
        peaks.append(measure_peak(peak, n_threads))
    flops = 2 * macs(net)
    result["peak_gflops"] = median_spread(peaks)
    result["cnn"] = median_spread(rates["cnn"])
    share = [rate * flops / 1e9 / top for rate, top in zip(rates["cnn"], peaks, strict=True)]
    result["share_of_peak"] = median_spread(share)
    say(f"{net}, batch {batch}, {n_threads} threads, {rounds} rounds: median (lowest to highest)")
    say(f"  {'cnn':<20s}{show(result['cnn'], 'images/s')}, by the plain formulas "
        f"{result['share_of_peak']['median']:.0%} of the multiply-add peak of "
        f"{result['peak_gflops']['median']:,.0f} GFLOPS")
    if with_torch:
        best = [max(pair) for pair in zip(rates["eager"], rates["channels_last"], strict=True)]
        ratios = [a / b for a, b in zip(rates["cnn"], best, strict=True)]
        for name in ("eager", "channels_last"):
            result[name] = median_spread(rates[name])
            say(f"  {'torch ' + name:<20s}{show(result[name], 'images/s')}")
        result["ratio"] = median_spread(ratios)
        say(f"  ratio to PyTorch's better {show_ratio(result['ratio'])}")
        if "bfloat16" in rates:
            result["bfloat16"] = median_spread(rates["bfloat16"])
            say(f"  {'torch bfloat16':<20s}{show(result['bfloat16'], 'images/s')}, channels_last under autocast")
            result["ratio_to_bfloat16"] = median_spread(
                [a / b for a, b in zip(rates["cnn"], rates["bfloat16"], strict=True)])
            say(f"  ratio to that {show_ratio(result['ratio_to_bfloat16'])}")
    return result


def bench_scaling(net, batch, rounds, seconds):
    """Time a training step with one thread and with all, in turn."""
    most = runtime.get_num_threads()
    steps = our_step(net, batch)[0]
    rates = {1: [], most: []}
    for turn in range(rounds + 1):
        for number in rates:
            runtime.set_num_threads(number)
            steps(1)
            rate = batch * time_steps(steps, seconds)
            if turn:        # the first one warms up
                rates[number].append(rate)
    runtime.set_num_threads(most)
    ratio = median_spread([b / a for a, b in zip(rates[1], rates[most], strict=True)])
    figures = {number: median_spread(values) for number, values in rates.items()}
    say(f"{net}, batch {batch}, {rounds} rounds: median (lowest to highest)")
    for number, value in figures.items():
        say(f"  {number:>3d} thread{'s' if number > 1 else ' '}          {show(value, 'images/s')}")
    say(f"  ratio {show_ratio(ratio)}")
    return {"net": net, "batch": batch, "rounds": rounds, "ratio": ratio,
            "images_per_second": figures}


def bench_busy(net, batch, rounds, seconds, others):
    """Time a training step alone and beside processes that take all they get, in turn: what part of its fair share of
    the cores it makes use of."""
    count = runtime.get_num_threads()
    steps = our_step(net, batch)[0]
    steps(1)
    figures = {"alone": [], "beside": []}
    for _ in range(rounds):
        figures["alone"].append(batch * time_steps(steps, seconds))
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            time.sleep(0.2)     # they have begun
            figures["beside"].append(batch * time_steps(steps, seconds))
        finally:
            for process in busy:
                process.kill()
                process.wait()
    cores = min(count, os.cpu_count())
    fair = min(1, os.cpu_count() / (cores + others))
    share = median_spread([b / a / fair for a, b in zip(figures["alone"], figures["beside"], strict=True)])
    say(f"{net}, batch {batch}, {count} threads, {others} busy processes, {rounds} rounds: median (lowest to "
        f"highest)")
    result = {"net": net, "batch": batch, "threads": count, "rounds": rounds, "busy": others, "share_of_fair": share}
    for name, rates in figures.items():
        result[name] = median_spread(rates)
        say(f"  {name:<20s}{show(result[name], 'images/s')}")
    say(f"  share of the fair {fair:.0%}: {show_ratio(share)}")
    return result


def bench_kernels(net, batch):
    """Time every operation of a training step by itself, on one thread: GFLOPS by the plain formulas (Winograd's
    algorithm may exceed the peak), GB/s of the tensors that the others read and write."""
    steps, trainer = our_step(net, batch)
    steps(1)
    program = next(p for p in trainer._programs.resting() if p.made_from[0] == "step")
    dataset = trainer._loader.dataset
    arrays = {"images": dataset.images, "chosen": np.arange(batch)[None], "target": dataset.labels}
    peak = statistics.median(measure_peak(peak_program(1), 1) for _ in range(5))
    say(f"{net}, batch {batch}, 1 thread, peak {peak:.0f} GFLOPS: every operation of a step by itself")
    rows = []
    for op in operations(program, "forward"):
        times = []
        while len(times) < 5 or (len(times) < 30 and sum(times) < 0.1):
            start = time.perf_counter()
            run_operation(program, op, batch, **arrays)
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        flops = 2 * op["macs"] * -(-batch // LANES) * LANES
        row = {"kernel": op["kernel"], "shape": op["shape"], "microseconds": seconds * 1e6}
        text = f"  {op['kernel']:<20s}{op['shape']:<38s}{seconds * 1e6:>10.1f} us"
        if flops:
            row.update(gflops=flops / seconds / 1e9, share_of_peak=flops / seconds / 1e9 / peak)
            text += f"{row['gflops']:>8.0f} GFLOPS {row['share_of_peak']:>5.0%}"
        elif op["bytes"] and not op["tasks"]:
            row["gb_per_second"] = op["bytes"] * -(-batch // LANES) / seconds / 1e9
            text += f"{row['gb_per_second']:>8.1f} GB/s"
        say(text)
        rows.append(row)
    return {"net": net, "batch": batch, "peak_gflops_one_thread": peak, "operations": rows}
