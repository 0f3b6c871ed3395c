"""The ledger: cut short, lost, long."""

import json
import shutil

from lenspipe.run.ledger import Ledger
from tests.run.conftest import ran


def test_line_cut_short_is_ignored_and_said(again, tmp_path):
    again()
    path = tmp_path / "run/.lenspipe/ledger.jsonl"
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    lines = whole.count(b"\n")
    assert json.loads(whole[last:])["stage"] == "gather"
    for cut in range(last + 1, len(whole) - 1, 37):
        path.write_bytes(whole[:cut])
        ledger = Ledger(tmp_path / "run")
        assert ledger.notices == [f".lenspipe/ledger.jsonl, line {lines}: cut short, ignored."]
        assert ("search", "gather", "") not in ledger.entries
        assert len(ledger.entries) == 10
    driver, code = again()  # gather had begun and its receipt stands: it is adopted, not done again
    assert (ran(driver), code) == ({}, 0)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_spoilt_line_in_the_middle_costs_that_unit_alone(again, tmp_path):
    again()
    path = tmp_path / "run/.lenspipe/ledger.jsonl"
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if json.loads(line).get("key") == "003")
    lines[number] = lines[number][:50]
    path.write_text("\n".join(lines) + "\n")
    assert Ledger(tmp_path / "run").notices == [f".lenspipe/ledger.jsonl, line {number + 1}: not readable, ignored."]
    assert ran(again()[0]) == {}  # it had begun, and its receipt stands


def test_lost_ledger_is_rebuilt_from_receipts(again, tmp_path):
    again("work.refuse=['002']")
    path = tmp_path / "run/.lenspipe/ledger.jsonl"
    before = Ledger(tmp_path / "run").entries
    path.unlink()
    ledger = Ledger(tmp_path / "run")
    assert ledger.notices == [".lenspipe/ledger.jsonl is missing: rebuilt from 11 receipts."]
    assert ledger.entries.keys() == before.keys()
    driver, code = again("work.refuse=['002']")
    assert (ran(driver), code) == ({}, 3)


def test_lost_receipts_do_no_harm(again, tmp_path):
    again()
    shutil.rmtree(tmp_path / "run/.lenspipe/receipts")
    assert ran(again()[0]) == {}
