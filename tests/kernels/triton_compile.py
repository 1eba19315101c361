"""Compile the kernels for an A100 and an H100, which needs no GPU: `python -m tests.kernels.triton_compile`."""

from __future__ import annotations

from triton import compile as triton_compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from albef_ds.kernels import triton_contrast

FLOATS = {"x", "teacher", "keys", "scale", "out", "log_sum", "guide_log_sum", "count", "gradient", "grad_x", "grad_scale"}
CONSTANTS = {"WIDTH": 256, "ROWS": 16, "COLUMNS": 64, "DISTILLED": True}

if __name__ == "__main__":
    for kernel in (triton_contrast._forward_kernel, triton_contrast._backward_kernel):
        kinds = {name: "*fp32" for name in kernel.arg_names if name in FLOATS}
        kinds |= {"positives": "*u8", "alpha": "fp32"}
        kinds |= {name: "i32" for name in ("num_rows", "num_columns", "share", "width")}
        signature = {name: "constexpr" if name in CONSTANTS else kinds[name] for name in kernel.arg_names}
        for capability in (80, 90):
            source = ASTSource(kernel, signature, {name: CONSTANTS[name] for name in CONSTANTS})
            code = triton_compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
            assert len(code) > 0
            print(kernel.__name__, capability, "compiles", flush=True)
