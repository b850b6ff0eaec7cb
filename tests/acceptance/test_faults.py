"""Kill what you like: every accepted job ends, with exactly one result."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from tests.acceptance.conftest import QUICK, encoding, service
from tests.unit.slide.test_decoder import patched
from xmag.slide.synthetic.write import write_tiff


def kill(xmag, name: str, number: int = signal.SIGKILL) -> int:
    pid = xmag.stack.pids()[name]
    os.kill(pid, number)
    return pid


def wait_for_restart(xmag, name: str, before: int) -> None:
    deadline = time.monotonic() + 60
    while xmag.stack.pids()[name] == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert xmag.stack.pids()[name] != before


def assert_one_result_each(xmag, jobs: list[str]) -> None:
    counted = xmag.query(
        "select j.state, (select count(*) from results r where r.job_id = j.id),"
        " (select count(*) from attempts a where a.job_id = j.id and a.outcome = 'ok')"
        " from jobs j where j.id = any(%s::uuid[])",
        jobs,
    )
    assert counted == [("succeeded", 1, 1)] * len(jobs)


def test_kill_worker_broker_and_database_under_load(xmag):
    slow = [xmag.submit("rcc") for _ in range(4)]
    xmag.until(slow[0], encoding)
    worker = kill(xmag, "worker")
    quick = [xmag.submit("nsclc") for _ in range(3)]
    broker = kill(xmag, "redis")
    wait_for_restart(xmag, "redis", broker)
    wait_for_restart(xmag, "worker", worker)
    xmag.until(slow[1], lambda job: job["state"] == "running")
    database = kill(xmag, "postgres")
    wait_for_restart(xmag, "postgres", database)
    late = [xmag.submit("nsclc")]
    jobs = slow + quick + late
    xmag.ended(*jobs)
    assert_one_result_each(xmag, jobs)


def test_a_stopping_worker_hands_its_job_back(xmag):
    job = xmag.submit("rcc")
    xmag.until(job, encoding)
    kill(xmag, "worker", signal.SIGTERM)
    xmag.ended(job)
    outcomes = xmag.query("select outcome from attempts where job_id = %s order by epoch", job)
    assert outcomes == [("handback",), ("ok",)]
    assert xmag.query("select lost_attempts from jobs where id = %s", job) == [(0,)]
    assert_one_result_each(xmag, [job])


def decoders(worker: int) -> list[int]:
    """Processes of the decoder that belong to a worker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == worker and b"decoder_main" in command:
                found.append(int(entry.name))
    return found


def test_a_decoder_killed_midway_costs_its_own_job_only(xmag):
    job = xmag.submit("rcc")
    xmag.until(job, encoding)
    for pid in decoders(xmag.stack.pids()["worker"]):
        os.kill(pid, signal.SIGABRT)
    other = xmag.submit("nsclc")
    failed, fine = xmag.ended(job, other)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "DECODE_CRASH")
    assert fine["state"] == "succeeded"
    assert (failed["attempts"], fine["attempts"]) == (1, 1)


def test_a_slide_that_aborts_the_reader_costs_its_own_job_only(xmag):
    path = xmag.data / "slides" / "aborts.tif"
    rgb = np.full((512, 512, 3), 200, np.uint8)
    write_tiff(path, rgb, 0.5, levels=(1,))
    patched(path, {322: 0x40000, 323: 0x40000})  # a tile of 256 GiB
    bad = [xmag.submit("nsclc", path.name) for _ in range(2)]
    good = xmag.submit("nsclc")
    pid = xmag.stack.pids()["worker"]
    *failed, fine = xmag.ended(*bad, good)
    assert [(job["state"], job["error"]["code"]) for job in failed] == [("failed", "DECODE_CRASH")] * 2
    assert fine["state"] == "succeeded"
    assert xmag.stack.pids()["worker"] == pid


def test_cancel_ends_a_running_job(xmag):
    job = xmag.submit("rcc")
    xmag.until(job, encoding)
    assert xmag.client.http.delete(f"/v1/jobs/{job}").is_success
    (ended,) = xmag.ended(job, seconds=20)
    assert ended["state"] == "cancelled"
    assert xmag.query("select count(*) from results where job_id = %s", job) == [(0,)]


def test_jobs_flow_without_a_broker(tmp_path, master_slide):
    nobody = {"XMAG_REDIS_URL": "redis://127.0.0.1:9/0"}
    with service(
        tmp_path / "data", master_slide, ((QUICK, "nsclc"),), redis=False, environment=nobody
    ) as alone:
        jobs = [alone.submit("nsclc") for _ in range(3)]
        assert [job["state"] for job in alone.ended(*jobs)] == ["succeeded"] * 3
        assert_one_result_each(alone, jobs)
        assert alone.stack.restarts == {}
