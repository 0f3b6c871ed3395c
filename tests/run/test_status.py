"""What `status` reads from a folder."""

from lenspipe.run.ledger import Ledger
from lenspipe.run.lock import hold
from lenspipe.run.status import status


def test_running_waiting_and_not_known_yet(tmp_path):
    with hold(tmp_path, print):
        ledger = Ledger(tmp_path)
        ledger.begin("toy", [("search", "make"), ("search", "work"), ("search", "gather")])
        ledger.plan("search", "work", ["a", "b", "c"])
        ledger.start("search", "work", ("a", "b"))
        found = status(tmp_path)
        assert found["holder"]["pid"]
        assert found["stages"] == {
            "search.make": None,
            "search.work": {"units": 3, "ok": 0, "failed": 0, "running": 2, "waiting": 1},
            "search.gather": None,
        }
    found = status(tmp_path)
    assert found["holder"] is None
    assert found["stages"]["search.work"]["running"] == 0
    assert found["stages"]["search.work"]["waiting"] == 3
