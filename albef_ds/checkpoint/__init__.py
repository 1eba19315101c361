"""Checkpoints: one folder per save, from which any number of ranks, ZeRO stage or engine can resume.

    checkpoints/step-0000123/
        complete.json            size and SHA-256 of every file, written last: without it the folder is ignored
        state.json               step, samples, engine's counters, versions, commit
        config.json              the resolved configuration
        student.safetensors      the student under the task's parameter names, unsharded, fp32
        exp_avg.safetensors      AdamW's first moments, in the same form
        exp_avg_sq.safetensors   AdamW's second moments, in the same form
        momentum.safetensors     the momentum model, if the task has one
        queue.safetensors        features and ids, if the task has a queue (pointer and fill are in state.json)
        rank-00000.safetensors   for each rank: random generators of dropout, numbers not yet logged

docs/checkpoints.md has the rules. Nothing is pickled.
"""
