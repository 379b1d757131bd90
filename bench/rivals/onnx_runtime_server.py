"""The process that ONNX Runtime runs in, without torch: requests on stdin, the seconds of each on stdout.

    python -m bench.rivals.onnx_runtime_server THREADS

{"model": PATH, "calls": n}                           time n calls in a row of PATH.onnx on PATH.npy
{"model": PATH, "result": FILE, "input": FILE.npy}    one call on that input or else PATH.npy, its output kept
"""

import json
import sys
import time
from functools import lru_cache

import numpy as np
import onnxruntime


@lru_cache(maxsize=4)  # the models of one layer: no more are timed together
def load(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, np.ndarray]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(sys.argv[1]), 1
    session = onnxruntime.InferenceSession(f"{path}.onnx", options, providers=["CPUExecutionProvider"])
    return session, {"x": np.load(f"{path}.npy")}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        session, feed = load(request["model"])
        if "input" in request:
            feed = {"x": np.load(request["input"])}
        start = time.perf_counter()
        for _ in range(request.get("calls", 1)):
            outputs = session.run(None, feed)
        seconds = time.perf_counter() - start
        if "result" in request:
            np.save(request["result"], outputs[0])
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
