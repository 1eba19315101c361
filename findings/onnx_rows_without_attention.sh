#!/usr/bin/env bash
# torch 2.14.1's ONNX export of scaled_dot_product_attention with a boolean mask, run by onnxruntime 1.32.0.
#
# Expected: the exported model gives what torch gives. For a row whose mask allows nothing (a padded text) torch gives zeros.
# Seen: at the default opset (20) that row becomes the mean of all values; at opset 23, which has an Attention operator, it is zero.
source "$(dirname "$0")/environment.sh"
environment torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0

cat >"$work/export.py" <<'PYTHON'
import sys

import onnxruntime
import torch
import torch.nn.functional as F

folder = sys.argv[1]


class Attention(torch.nn.Module):
    def forward(self, query, key, value, mask):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


query, key = torch.ones(2, 1, 1, 3, 4)
value = torch.arange(12.0).reshape(1, 1, 3, 4)
mask = torch.tensor([[True, True, True], [True, True, True], [False, False, False]])
inputs = (query, key, value, mask)
print("result: torch:", Attention()(*inputs)[0, 0, 2].tolist())
for opset in (None, 20, 23):
    torch.onnx.export(Attention(), inputs, f"{folder}/a.onnx", opset_version=opset, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(f"{folder}/a.onnx", providers=["CPUExecutionProvider"])
    feed = dict(zip((i.name for i in session.get_inputs()), (t.numpy() for t in inputs), strict=True))
    print(f"result: opset {opset or 'default'}:", session.run(None, feed)[0][0, 0, 2].round(3).tolist())
PYTHON

python "$work/export.py" "$work" 2>"$work/messages" | grep '^result' | tee "$work/seen"
expect "$work/seen" <<'SEEN'
result: torch: [0.0, 0.0, 0.0, 0.0]
result: opset default: [4.0, 5.0, 6.0, 7.0]
result: opset 20: [4.0, 5.0, 6.0, 7.0]
result: opset 23: [0.0, 0.0, 0.0, 0.0]
SEEN
