# shellcheck shell=bash
# Functions of the batch scripts: read the site file, find the head node, run one task per node, run preflight, restart the job.
# The arguments, which are passed on, configure training; site.env configures the cluster.

REQUEUE=75 # exit code of albef_ds.cli.slurm.job: start this job again
BAD_NODE=3 # exit code of preflight: it named unfit nodes, the others are fine

say() { echo "slurm: $*"; }
fail() {
    echo "slurm: error: $*" >&2
    exit 2
}

job_field() { scontrol -o show job "$SLURM_JOB_ID" | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }

# Sets ROOT, LOGS, the python that runs albef_ds, and the arrays TASKS (srun: one task per node) and ENTER (the container).
load_site() {
    ROOT=${ALBEF_ROOT:-$SLURM_SUBMIT_DIR}
    [ -f "$ROOT/slurm/lib.sh" ] || fail "$ROOT is not the folder of albef_ds: submit from it, or set ALBEF_ROOT"
    local site=${ALBEF_SITE:-$ROOT/slurm/site.env}
    if [ -f "$site" ]; then
        set -a
        # shellcheck source=/dev/null
        . "$site" || fail "$site is not a list of NAME=value lines: see slurm/site.env.example"
        set +a
    elif [ -n "${ALBEF_SITE:-}" ]; then
        fail "ALBEF_SITE=$ALBEF_SITE does not exist: copy slurm/site.env.example"
    fi
    if [ -n "${ALBEF_MODULES:-}" ]; then
        command -v module >/dev/null || . /etc/profile.d/modules.sh 2>/dev/null || . /etc/profile.d/lmod.sh 2>/dev/null
        # shellcheck disable=SC2086  # a list of names
        module load $ALBEF_MODULES || fail "module load $ALBEF_MODULES failed: correct ALBEF_MODULES in $site"
    fi
    LOGS=${ALBEF_LOGS:-$SLURM_SUBMIT_DIR}
    mkdir -p "$LOGS" || fail "the folder of logs $LOGS cannot be created: set ALBEF_LOGS in $site"
    export ALBEF_RECORD=$LOGS/$SLURM_JOB_NAME-$SLURM_JOB_ID
    export ALBEF_OUTCOME=$ALBEF_RECORD.outcome.json
    export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
    if [ -n "${ALBEF_INTERFACE:-}" ]; then
        export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$ALBEF_INTERFACE} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$ALBEF_INTERFACE}
    fi
    # srun does not inherit sbatch's --cpus-per-task (Slurm 22.05 and later).
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

    TASKS=(srun "--nodes=$SLURM_JOB_NUM_NODES" "--ntasks=$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
    ENTER=()
    HERE=()
    PYTHON=${ALBEF_PYTHON:-python3}
    case ${ALBEF_CONTAINER:-none} in
        none)
            if [ -z "${ALBEF_PYTHON:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then PYTHON=$ROOT/.venv/bin/python; fi
            command -v "$PYTHON" >/dev/null || fail "$PYTHON does not exist: set ALBEF_PYTHON in $site"
            ;;
        pyxis)
            need_image "$site"
            local inside=("--container-image=$ALBEF_IMAGE" "--container-mounts=$(mounts)" "--container-workdir=$PWD")
            TASKS+=("${inside[@]}")
            HERE=(srun --nodes=1 --ntasks=1 --overlap "--nodelist=${SLURMD_NODENAME:-}" "${inside[@]}")
            ;;
        apptainer)
            need_image "$site"
            ENTER=(apptainer exec --nv --bind "$(mounts)" --pwd "$PWD" "$ALBEF_IMAGE")
            ;;
        *) fail "ALBEF_CONTAINER=$ALBEF_CONTAINER is unknown: give none, pyxis or apptainer" ;;
    esac
}

need_image() { [ -n "${ALBEF_IMAGE:-}" ] || fail "ALBEF_CONTAINER=$ALBEF_CONTAINER needs ALBEF_IMAGE: set it in $1"; }

# Prints the mounts of a container. Source, working folder and logs have the same paths inside and outside.
mounts() {
    local list="$ROOT:$ROOT" folder
    for folder in "$PWD" "$LOGS"; do
        case ",$list," in *",$folder:"*) ;; *) list+=",$folder:$folder" ;; esac
    done
    echo "$list${ALBEF_MOUNTS:+,$ALBEF_MOUNTS}"
}

# Finds the head node and sets its address and ports, here in the batch script because containers often lack scontrol.
find_head_node() {
    local hosts
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") && [ -n "$hosts" ] ||
        fail "scontrol does not list the nodes of $SLURM_JOB_NODELIST: without them there is no MASTER_ADDR"
    export ALBEF_NODES=${hosts//$'\n'/ }
    export MASTER_ADDR=${ALBEF_NODES%% *}
    getent ahosts "$MASTER_ADDR" >/dev/null || fail "the node name $MASTER_ADDR does not resolve here: ask the site for the nodes' names"
    # Two ports per job, below the range from which the system assigns ports; concurrent jobs have different ids.
    export MASTER_PORT=$((10000 + 2 * (SLURM_JOB_ID % 10000)))
    export ALBEF_PREFLIGHT_PORT=$((MASTER_PORT + 1))
}

# Runs python on this node.
here() { "${HERE[@]}" "${ENTER[@]}" "$PYTHON" "$@"; }

# Runs the same command on every node. Each node's output goes to its own file, to which later attempts append.
on_every_node() {
    "${TASKS[@]}" --wait=60 --kill-on-bad-exit=1 --open-mode=append "--output=$LOGS/%x-%j-%N.log" "${ENTER[@]}" "$PYTHON" "$@"
}

# Requeues this job, without the nodes of $1 if given, unless Slurm has already requeued or ended it.
requeue() {
    local state excluded
    state=$(job_field JobState)
    if [ "$state" != RUNNING ] && [ "$state" != TIMEOUT ]; then
        say "the job is $state, nothing to requeue"
        return
    fi
    excluded=$(job_field ExcNodeList)
    # Slurm now ends this script and its steps, but with a delay, and nodes can be excluded only while the job is pending.
    trap '' TERM
    scontrol requeue "$SLURM_JOB_ID" || fail "scontrol requeue was refused: the site does not allow it, submit the job again to continue"
    if [ -n "${1:-}" ]; then
        case $excluded in "" | "(null)") excluded=$1 ;; *) excluded=$excluded,$1 ;; esac
        scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$excluded" ||
            say "the nodes $1 could not be excluded: submit again with --exclude=$excluded"
    fi
}

# Prints the time, in seconds since the epoch, at which training saves and exits before the time limit; nothing without a limit.
stop_at() {
    local end
    end=$(date -d "$(job_field EndTime)" +%s 2>/dev/null) && echo $((end - ${ALBEF_STOP_MARGIN:-600}))
}

# Runs preflight on every node with the arguments of the run and writes the names of unfit nodes to $ALBEF_RECORD.bad-nodes.
check_nodes() {
    rm -f "$ALBEF_RECORD.bad-nodes"
    # The timeout ends hanging nodes after the head has named them.
    timeout -k 10 "${ALBEF_PREFLIGHT_TIMEOUT:-300}" "${TASKS[@]}" --wait=90 --kill-on-bad-exit=0 "${ENTER[@]}" "$PYTHON" \
        -m albef_ds.cli.main preflight --bad-nodes "$ALBEF_RECORD.bad-nodes" "$@"
}

# Runs preflight before training and exits if the job cannot continue.
preflight() {
    [ "${ALBEF_PREFLIGHT:-1}" = 1 ] || return 0
    local bad code
    check_nodes "$@"
    code=$?
    if [ $code = 0 ]; then return 0; fi
    bad=$(paste -sd, "$ALBEF_RECORD.bad-nodes" 2>/dev/null)
    if [ -z "$bad" ]; then
        say "stop: preflight failed (exit code $code)"
        exit $code
    fi
    here -m albef_ds.cli.slurm.job bad-nodes "$bad" train "$@"
    if [ $? != $REQUEUE ] || [ "${ALBEF_EXCLUDE_BAD_NODES:-1}" != 1 ]; then
        say "stop: unfit nodes: $bad: submit again with --exclude=$bad, or fix them"
        exit $BAD_NODE
    fi
    requeue "$bad"
    exit $BAD_NODE
}

# `survive COMMAND ARGS` runs albef-ds COMMAND on all nodes, and requeues the job as long as that is useful.
survive() {
    # The shell ignores the signals that end its steps, so that it can decide what follows.
    trap 'say "the batch script received SIGTERM"' TERM
    trap : USR1 USR2
    load_site
    find_head_node
    say "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}, on $ALBEF_NODES, head node $MASTER_ADDR:$MASTER_PORT"
    here -m albef_ds.cli.slurm.job begin "$@" || exit $?
    local command=$1 code follows
    if [ "$command" = train ]; then
        preflight "${@:2}"
        ALBEF_STOP_AT=$(stop_at)
        export ALBEF_STOP_AT
    fi
    on_every_node -m albef_ds.cli.slurm.node "$@"
    code=$?
    here -m albef_ds.cli.slurm.job end "$code" "$@"
    follows=$?
    if [ $follows = $REQUEUE ]; then requeue; fi
    exit $follows
}

# Runs one stage of albef-data, or this array task's share of it, and requeues it if it died or the time limit is near.
data_stage() {
    local share=() code child time_is_up=
    trap 'time_is_up=1' USR1
    trap : USR2
    load_site
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        share=(--task-index "$SLURM_ARRAY_TASK_ID")
        # An array that is submitted again for some tasks only still needs the original number of tasks.
        case " $* " in *" --num-tasks "*) ;; *) share+=(--num-tasks "$SLURM_ARRAY_TASK_COUNT") ;; esac
    fi
    case $1 in
        catalog | scan | dedup | decontaminate | plan | shard | verify | hashes) share+=(--workers "${SLURM_CPUS_PER_TASK:-1}") ;;
    esac
    say "job $SLURM_JOB_ID${SLURM_ARRAY_TASK_ID:+, task $SLURM_ARRAY_TASK_ID}, restart ${SLURM_RESTART_COUNT:-0}: albef-data $*"
    # In the background, because the shell runs its trap only while it waits; and not by `here`, whose shell would take
    # the signal that is meant for the stage.
    "${HERE[@]}" "${ENTER[@]}" "$PYTHON" -m data_tools.cli "$@" "${share[@]}" &
    child=$!
    wait "$child"
    code=$?
    if [ -n "$time_is_up" ] && kill -0 "$child" 2>/dev/null; then
        say "the time limit is near: the stage is stopped and keeps its finished work"
        kill -TERM "$child"
        wait "$child"
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "${ALBEF_MAX_RESTARTS:-100}" ]; then
            say "stop: ${ALBEF_MAX_RESTARTS:-100} restarts are used up: submit the stage again to continue it"
            exit 1
        fi
        requeue
        exit 1
    fi
    if [ -n "$time_is_up" ]; then
        wait "$child" # the signal came while the stage ended
        code=$?
    fi
    # 2 is a user's mistake, 1 a problem found by `verify`: a restart fixes neither.
    if [ $code -gt 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${ALBEF_MAX_DATA_RESTARTS:-3}" ]; then
        say "requeue: exit code $code"
        requeue
    fi
    exit $code
}
