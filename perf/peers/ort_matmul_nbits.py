"""onnxruntime's side of the comparison of one INT4 matmul: a chain of MatMulNBits nodes.

Each node has weights of its own, together far larger than the caches, so that they come from
memory; accuracy_level 4 lets onnxruntime compute with int8 activations. Prints one line of JSON
for every number of rows: "ms" is the time of one matmul, the median over passes. Run by
compare.sh inside the peers' root; needs python3-onnxruntime, python3-onnx and python3-numpy.
"""

import argparse
import json
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def chain(size, group, copies):
    """A model x -> x W_0^T -> ... -> y of `copies` symmetric 4-bit weights, as bytes."""
    random = np.random.default_rng(1)
    # Nibbles of 1 to 15, whose mean is the zero point and whose variance is 56 / 3: outputs are as
    # large as inputs, however long the chain.
    scale = np.float32(1 / np.sqrt(size * 56 / 3))
    scales = np.full(size * size // group, scale, np.float32)
    nodes, weights = [], []
    for i in range(copies):
        low, high = random.integers(1, 16, (2, size, size // group, group // 2), np.uint8)
        weights.append(numpy_helper.from_array(low | high << 4, f"w{i}"))
        weights.append(numpy_helper.from_array(scales, f"s{i}"))
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                ["x" if i == 0 else f"x{i}", f"w{i}", f"s{i}"],
                ["y" if i == copies - 1 else f"x{i + 1}"],
                domain="com.microsoft",
                K=size,
                N=size,
                bits=4,
                block_size=group,
                accuracy_level=4,
            )
        )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", size]) for n in "xy"]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    return model.SerializeToString()


def time_pass(session, x):
    start = time.perf_counter()
    (y,) = session.run(None, {"x": x})
    elapsed = time.perf_counter() - start
    if not np.isfinite(y).all() or not y.any():
        raise SystemExit("onnxruntime's result is not finite, or zero throughout.")
    return elapsed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--rows", default="1,4,8,512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pool-mb", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()

    bytes_each = options.size * options.size // 2 + options.size * options.size // options.group * 4
    copies = max(1, (options.pool_mb << 20) // bytes_each)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    model = chain(options.size, options.group, copies)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    for m in map(int, options.rows.split(",")):
        x = np.random.default_rng(2).standard_normal((m, options.size), np.float32)
        time_pass(session, x)
        passes = []
        while not passes or sum(passes) < options.seconds:
            passes.append(time_pass(session, x))
        ms = np.array(passes) * 1e3 / copies
        line = {"m": m, "copies": copies, "ms": float(np.median(ms))}
        line.update(min_ms=float(ms.min()), max_ms=float(ms.max()))
        print(json.dumps(line), flush=True)


main()
