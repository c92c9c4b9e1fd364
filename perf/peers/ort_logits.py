"""Logits of an exported ONNX model by onnxruntime, against those that `nibble logits` wrote.

    ort_logits.py MODEL_FOLDER ids.npy logits.npy [more.npy ...]

Each row of ids is run as a whole, and again with its second half token by token on the cache. For
each file of logits it prints one line of JSON: the largest and the mean difference, relative to
the largest logit, and how often the same token comes first. Needs python3-onnxruntime 1.23 or
later and python3-numpy.
"""

import json
import sys

import numpy as np
import onnxruntime


class Decoder:
    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i.shape for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self):
        self.past = 0
        self.cache = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
                      for name, shape in self.inputs.items() if name.startswith("past_key_values")}

    def run(self, ids):
        count = len(ids)
        feeds = {"input_ids": np.array([ids], np.int64),
                 "attention_mask": np.ones((1, self.past + count), np.int64), **self.cache}
        if "position_ids" in self.inputs:
            feeds["position_ids"] = np.arange(self.past, self.past + count, dtype=np.int64)[None]
        found = dict(zip(self.outputs, self.session.run(None, feeds)))
        self.past += count
        self.cache = {name: found[name.replace("past_key_values", "present")]
                      for name in self.cache}
        return found["logits"][0]


def report(name, found, wanted):
    largest = np.abs(wanted).max()
    difference = np.abs(found - wanted) / largest
    print(json.dumps({
        "against": name, "max": float(difference.max()), "mean": float(difference.mean()),
        "same_first": float((found.argmax(-1) == wanted.argmax(-1)).mean())}))


def main():
    folder, ids_path, *files = sys.argv[1:]
    ids = np.load(ids_path)
    decoder = Decoder(folder)
    whole, stepped = [], []
    for row in ids:
        decoder.reset()
        whole.append(decoder.run(row))
        decoder.reset()
        half = len(row) // 2
        parts = [decoder.run(row[:half])] + [decoder.run(row[i:i + 1]) for i in range(half, len(row))]
        stepped.append(np.concatenate(parts))
    whole, stepped = np.stack(whole), np.stack(stepped)
    report("token by token", stepped, whole)
    for path in files:
        report(path, whole, np.load(path))


if __name__ == "__main__":
    main()
