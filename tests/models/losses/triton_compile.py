"""Compiles the kernels for an A100 and an H100, which needs no GPU: `python -m tests.models.losses.triton_compile`."""

from __future__ import annotations

from triton import compile as triton_compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from albef_ds.models.losses import sliced_triton as kernels

FLOATS = ("scale", "out", "log_sum", "teacher_log_sum", "count")
SIZES = ("num_rows", "num_columns", "share", "width", "first", "end")
BLOCKS = {"ROWS": 64, "COLUMNS": kernels._COLUMNS, "FEATURES": 64}
CALLS = {
    "ITC": ({"BIASED": False, "LABELS": False, "TEACHER": kernels._TEACHER_FEATURES}, "*fp32", "*u8"),
    "MLM in fp32": ({"BIASED": True, "LABELS": True, "TEACHER": kernels._TEACHER_LOGITS}, "*fp32", "*i64"),
    "MLM in bf16": ({"BIASED": True, "LABELS": True, "TEACHER": kernels._TEACHER_LOGITS}, "*bf16", "*i64"),
}

if __name__ == "__main__":
    for call, (switches, inputs, positives) in CALLS.items():
        for kernel in (kernels._sums_kernel, kernels._logit_gradient_kernel):
            kinds = dict.fromkeys(("x", "teacher", "weight", "bias"), inputs) | dict.fromkeys(FLOATS, "*fp32")
            kinds |= {"positives": positives, "alpha": "fp32", **dict.fromkeys(SIZES, "i32")}
            constants = {**BLOCKS, **switches}
            signature = {name: "constexpr" if name in constants else kinds[name] for name in kernel.arg_names}
            for capability in (80, 90):
                source = ASTSource(kernel, signature, constants)
                code = triton_compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
                assert len(code) > 0
                print(call, kernel.__name__, capability, "compiles", flush=True)
