"""Checkpoints: one folder per save that any number of ranks, ZeRO stage or engine can go on from.

    checkpoints/step-0000123/
        complete.json            size and SHA-256 of every file, written last: without it the folder does not count
        state.json               step, samples, engine's counters, versions, commit
        config.json              the resolved configuration
        student.safetensors      the student under the task's parameter names, whole, fp32
        exp_avg.safetensors      AdamW's first moments, likewise
        exp_avg_sq.safetensors   AdamW's second moments
        momentum.safetensors     the momentum model; absent where a task has none, as the queue
        queue.safetensors        features and ids (pointer and fill are in state.json)
        rank-00000.safetensors   of each rank: generators of dropout, numbers not yet logged

docs/checkpoints.md has the rules. Nothing here is pickled.
"""
