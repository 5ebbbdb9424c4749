"""Timing inference, one image and a batch, beside PyTorch, ONNX Runtime and OpenVINO, whichever are installed."""
import io
import sys
import time
import warnings

import numpy as np

from cnn import runtime
from cnn.bench.contenders import image_shape, make
from cnn.bench.measure import median_spread, show, show_ratio, time_steps
from cnn.export import to_torch
from cnn.layers.compiled import compile
from cnn.streams import say

PAUSE = 0.3     # seconds: threads of the one before go on looking for work for a while


def bench_inference(net, batch, rounds, seconds, with_peers):
    """Time one image and a batch, in evaluation mode, by `model(x)`, by a compiled model and by others, in turn."""
    ours, shape = make(net), image_shape(net)
    ours(np.random.default_rng(1).normal(size=(32, *shape)).astype(np.float32))     # statistics that are not 0 and 1
    ours.eval()
    others, versions = peers(ours, shape) if with_peers else ({}, {})
    result = {"net": net, "threads": runtime.get_num_threads(), "rounds": rounds, "peers": versions}
    say(f"{net}, {result['threads']} threads, {rounds} rounds: median (lowest to highest)"
        + "".join(f"; {name} {version}" for name, version in versions.items()))
    for images in dict.fromkeys((1, batch)):
        result[str(images)] = _timed(ours, shape, images, rounds, seconds, others)
    return result


def _timed(ours, shape, images, rounds, seconds, others):
    x = np.random.default_rng(0).normal(size=(images, *shape)).astype(np.float32)
    net = compile(ours, shape, threads=runtime.get_num_threads())
    contenders = {"compiled": lambda: net(x), "model(x)": lambda: ours(x),
                  **{name: make_call(x) for name, make_call in others.items()}}
    wanted, differs = ours(x), {}
    for name, call in contenders.items():
        differs[name] = float(np.abs(call() - wanted).max() / np.abs(wanted).max())
        if not differs[name] < 1e-3:
            sys.exit(f"bench: the scores of {name} differ by {differs[name]:.1e}: there is nothing to compare")
    times = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            time.sleep(PAUSE)
            rate = time_steps(lambda n, call=call: call() is not None, seconds if turn else 0.1)
            if turn:        # the first one warms up
                times[name].append(1e6 / rate)
    say(f"  {images} image{'' if images == 1 else 's'}; the scores differ by {max(differs.values()):.0e} at most")
    figures = {name: median_spread(values) for name, values in times.items()}
    for name, value in figures.items():
        say(f"    {name:<20s}{show(value, 'us')}")
    result = {"microseconds": figures, "scores_differ_by": differs}
    if others:
        fastest = min(others, key=lambda name: figures[name]["median"])
        for name in ("compiled", "model(x)"):
            ratio = [b / a for a, b in zip(times[name], times[fastest], strict=True)]
            result[f"ratio of {name}"] = median_spread(ratio)
            say(f"    speed of {name} by {fastest}'s {show_ratio(result[f'ratio of {name}'])}")
    return result


def peers(ours, shape):
    """Functions by name that take x and return a function that computes its scores; and the peers' versions."""
    try:
        import torch
    except ImportError:
        say("PyTorch is not installed: no comparison (ONNX Runtime and OpenVINO get the network from it)")
        return {}, {}
    threads = runtime.get_num_threads()
    torch.set_num_threads(threads)
    theirs = to_torch(ours, shape).eval()

    def by_torch(x):
        x = torch.from_numpy(x)

        def call():
            with torch.inference_mode():
                return theirs(x).numpy()
        return call
    found, versions = {"PyTorch": by_torch}, {"PyTorch": torch.__version__}
    try:
        import onnx  # noqa: F401   PyTorch's exporter wants it
    except ImportError:
        say("onnx is not installed: no comparison with ONNX Runtime and OpenVINO")
        return found, versions
    try:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1

        def by_onnxruntime(x):
            session = onnxruntime.InferenceSession(_onnx(torch, theirs, x), options,
                                                   providers=["CPUExecutionProvider"])
            return lambda: session.run(None, {"x": x})[0]
        found["ONNX Runtime"] = by_onnxruntime
        versions["ONNX Runtime"] = onnxruntime.__version__
    except ImportError:
        say("ONNX Runtime is not installed")
    try:
        import openvino
        core = openvino.Core()

        def by_openvino(x):
            network = core.read_model(io.BytesIO(_onnx(torch, theirs, x)))
            request = core.compile_model(network, "CPU", {
                "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
            return lambda: request.infer([x])[0]
        found["OpenVINO"] = by_openvino
        versions["OpenVINO"] = openvino.__version__.partition("-")[0]
    except ImportError:
        say("OpenVINO is not installed")
    return found, versions


def _onnx(torch, model, x):
    """The model in ONNX's format, bytes, by PyTorch's exporter, for batches like x."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of what the exporter will be some day
        torch.onnx.export(model, (torch.from_numpy(x),), file, dynamo=False, input_names=["x"], opset_version=17)
    return file.getvalue()
