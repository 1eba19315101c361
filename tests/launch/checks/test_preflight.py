"""Preflight finds faults of a node, and names the right one when nodes differ."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from albef_ds.cli.main import main
from albef_ds.common.errors import MachineError
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import get_recipe
from albef_ds.launch.checks.compare import compare, table
from albef_ds.launch.checks.node import NONCE, NodeReport, check_node
from albef_ds.launch.checks.report_exchange import Client, Head
from albef_ds.launch.slurm.site import Site
from tests.data.conftest import numbered_corpus

NODES = ["n1", "n2", "n3"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return numbered_corpus(tmp_path / "corpus", 10, 5)


def check(corpus: Path, folder: Path, nonce: str = "x", *overrides: str) -> NodeReport:
    config = parse_overrides(get_recipe("debug"), [f"data.shards={corpus}", "engine.device=cpu", *overrides])
    return check_node(config, "n1", shared=folder, nonce=nonce, min_free_gb=0.0)


def test_a_fit_node_has_no_faults_and_shows_itself(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / NONCE).write_text("x")
    report = check(corpus, tmp_path)
    assert report.faults == [] and (tmp_path / "n1").read_text() == "x"
    assert {"python", "torch", "albef_ds", "data.shards"} <= report.facts.keys() and report.free_gb["checkpoints"] >= 0.0


def test_faults_of_a_node(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NONCE).write_text("y")
    assert "another folder than on the head node" in check(corpus, tmp_path).faults[0]
    (corpus / "00001.tar").unlink()
    assert "1 of 2 shards are missing" in check(corpus, tmp_path, "y").faults[0]
    config = parse_overrides(get_recipe("debug"), [f"data.shards={tmp_path / 'nowhere'}", "engine.device=cpu"])
    report = check_node(config, "n1", shared=tmp_path, nonce="y", min_free_gb=1e8, scratch="$NO_SUCH/x")
    assert [fault.partition(":")[0] for fault in report.faults] == ["data.shards", "checkpoints", "scratch"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo '0, H100, 0'; echo '1, H100, 0'", "2 of 4 GPUs"),
        ("echo '0, H100, 3'; for i in 1 2 3; do echo \"$i, H100, 0\"; done", "number 0 has 3 uncorrected"),
        ("echo 'Unable to determine the device handle' >&2; exit 9", "Unable to determine"),
    ],
)
def test_unhealthy_gpus_are_faults(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    (tmp_path / NONCE).write_text("x")
    faults = check(corpus, tmp_path, "x", "engine.device=auto").faults
    assert len(faults) == 1 and words in faults[0]


def reports(**changes: NodeReport) -> dict[str, NodeReport]:
    return {node: NodeReport(node, facts={"torch": "2.14"}) for node in NODES} | changes


def test_the_odd_node_is_blamed_not_the_others() -> None:
    odd = NodeReport("n1", facts={"torch": "2.6"})
    assert compare(NODES, reports(), 60).faults == {}
    compared = compare(NODES, reports(n1=odd), 60)
    assert compared.faults == {"n1": ["torch: 2.6, the others have 2.14"]} and compared.bad_nodes == ["n1"]
    assert "n1: BAD, torch" in table(NODES, reports(n1=odd), compared) and "n2: fine" in table(NODES, reports(n1=odd), compared)


def test_silence_and_a_wrong_clock_are_faults_and_a_fault_of_all_is_the_runs() -> None:
    late = NodeReport("n3", facts={"torch": "2.14"}, clock_offset=-9.0)
    compared = compare(NODES, {**reports(n3=late), "n2": NodeReport("n2", ["GPU: none"])}, 60)
    assert compared.faults == {"n2": ["GPU: none"], "n3": ["clock: 9.0 s behind of n1"]}
    silent = {node: report for node, report in reports().items() if node != "n2"}
    assert compare(NODES, silent, 60).faults == {"n2": ["did not answer within 60 s"]}
    assert compare(NODES, {node: NodeReport(node, ["no shards"]) for node in NODES}, 60).bad_nodes == []


def test_nodes_meet_report_twice_and_a_silent_one_does_not_hold_them_up() -> None:
    head = Head(0, NODES, "nonce")
    answers: dict[str, list[dict[str, object]]] = {}

    def attend(node: str) -> None:
        client = Client("127.0.0.1", head.port, node, 60)
        assert client.nonce == "nonce" and abs(client.clock_offset()) < 1.0
        answers[node] = [client.report({"turn": turn}) for turn in (1, 2)]
        client.close()

    guests = [threading.Thread(target=attend, args=(node,)) for node in NODES[:2]]
    for client in guests:
        client.start()
    while len(head.gather(0.1)) < 2:
        pass
    head.answer({"go": 1})
    while len(head.gather(0.1)) < 2:
        pass
    head.answer({"go": 2})
    for client in guests:
        client.join(60)
    head.close()
    assert answers == {node: [{"go": 1}, {"go": 2}] for node in NODES[:2]}


def test_a_port_in_use_and_a_head_that_is_not_there_are_mistakes_in_one_line() -> None:
    head = Head(0, NODES, "nonce")
    with pytest.raises(MachineError, match=f"cannot listen on port {head.port}"):
        Head(head.port, NODES, "nonce")
    head.close()
    with pytest.raises(MachineError, match="n1 cannot reach 127"):
        Client("127.0.0.1", 1, "n1", 0.3)


def test_the_command_checks_this_machine(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["preflight", "--recipe", "debug", "engine.device=cpu", f"output={tmp_path / 'run'}", "--min-free-gb", "0"]
    assert main([*run, f"data.shards={corpus}"]) == 0
    assert "fine, clock" in capsys.readouterr().out
    assert main([*run, f"data.shards={tmp_path / 'nowhere'}"]) == 2
    assert "no node is fit for this run" in capsys.readouterr().err


def test_a_site_file_is_read_not_run(tmp_path: Path) -> None:
    path = tmp_path / "site.env"
    path.write_text(
        "# comment\nALBEF_PARTITION=gpu\nALBEF_SBATCH_OPTIONS='--exclusive --constraint=\"a|b\"' # more\nALBEF_QOS=\n"
    )
    assert Site.load(path).sbatch_options() == ["--partition=gpu", "--exclusive", "--constraint=a|b"]
    for text in ("rm -rf x", "A=b c", "A='b"):
        path.write_text(text + "\n")
        with pytest.raises(MachineError, match="line 1 is not NAME=value"):
            Site.load(path)
    with pytest.raises(MachineError, match="cannot be read"):
        Site.load(tmp_path / "nowhere")
