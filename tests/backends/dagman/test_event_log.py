"""HTCondor's event log, as its version 23.9 writes it."""

import pytest

from lenspipe.backends.dagman.event_log import events, jobs

LOG = """000 (012.000.000) 2026-11-21 12:43:43 Job submitted from host: <127.0.0.1:29618?addrs=127.0.0.1-29618>
    DAG Node: b00001
...
040 (012.000.000) 2026-11-21 12:43:44 Started transferring input files
	Transferring to host: <127.0.0.1:29618>
...
001 (012.000.000) 2026-11-21 12:43:45 Job executing on host: <127.0.0.1:29618>
	SlotName: slot1_1@pool.test
...
040 (012.000.000) 2026-11-21 12:44:35 Started transferring output files
...
040 (012.000.000) 2026-11-21 12:44:36 Finished transferring output files
...
"""
EVICTED = """004 (012.000.000) 2026-11-21 12:45:00 Job was evicted.
	(0) CPU times
...
"""
AGAIN = """001 (012.000.000) 2026-11-21 12:46:00 Job executing on host: <127.0.0.1:29618>
...
"""
HELD = """012 (012.000.000) 2026-11-21 12:47:00 Job was held.
	Memory usage exceeded request_memory
	Code 34 Subcode 102
...
"""
RELEASED = """013 (012.000.000) 2026-11-21 12:48:00 Job was released.
	via condor_release (by user lens)
...
"""
END = """040 (012.000.000) 2026-11-21 12:49:00 Finished transferring output files
...
005 (012.000.000) 2026-11-21 12:49:01 Job terminated.
	({normal}) {how}
		Usr 0 00:00:07, Sys 0 00:00:02  -  Run Remote Usage
...
"""


@pytest.fixture
def read(tmp_path):
    def look(*parts):
        (tmp_path / "jobs.log").write_text("".join(parts))
        return jobs(tmp_path / "jobs.log")["12.0"]

    return look


@pytest.mark.parametrize(
    ("parts", "state", "starts"),
    [
        ((), "running", 1),
        ((EVICTED,), "idle", 1),
        ((EVICTED, AGAIN), "running", 2),
        ((HELD,), "held", 1),
        ((HELD, RELEASED), "idle", 1),
        ((END.format(normal=1, how="Normal termination (return value 0)"),), "done", 1),
        ((END.format(normal=1, how="Normal termination (return value 3)"),), "failed", 1),
        ((END.format(normal=0, how="Abnormal termination (signal 9)"),), "failed", 1),
    ],
)
def test_a_job_is_where_its_last_event_left_it(read, parts, state, starts):
    job = read(LOG, *parts)
    assert (job.node, job.state, job.starts) == ("b00001", state, starts)
    assert job.checkpoints == 1


def test_a_hold_is_known_by_code_and_subcode(read):
    job = read(LOG, HELD)
    assert (job.code, job.subcode) == (34, 102)
    assert "request_memory" in job.detail


@pytest.mark.parametrize(
    ("how", "detail"),
    [("1) Normal termination (return value 3)", "exit code 3"), ("0) Abnormal termination (signal 9)", "signal 9")],
)
def test_how_a_job_ended_is_said(read, how, detail):
    assert read(LOG, END.replace("{normal}) {how}", how)).detail == detail


def test_an_event_that_is_being_written_is_not_seen_yet(read):
    assert read(LOG, HELD.removesuffix("...\n")).state == "running"


def test_no_log_no_events(tmp_path):
    assert list(events(tmp_path / "none.log")) == []
