"""What fits into a budget of minutes."""

from fedlpp_cli.steps import audit_stage
from fedlpp_cli.steps.audit_stage import Clock


def clock_at(monkeypatch, minutes):
    """A clock, and the list whose last number is the time that it sees, in seconds."""
    now = [0.0]
    monkeypatch.setattr(audit_stage.time, "monotonic", lambda: now[-1])
    return Clock(minutes), now


def test_without_a_budget_nothing_is_refused(monkeypatch):
    clock, now = clock_at(monkeypatch, None)
    now.append(1e9)
    assert clock.refusal(n_scored=10**9, n_trained=10**9) is None


def test_what_a_row_took_says_what_more_will_take(monkeypatch):
    clock, now = clock_at(monkeypatch, 2.0)
    with clock.timing("scored", 10):
        now.append(10.0)  # a second a row, and three a row that is trained on, as nobody has trained yet
    assert clock.refusal(n_scored=80, n_trained=10) is None
    assert clock.refusal(n_scored=80, n_trained=11) == ("--budget: it would take about 1.9 minutes, 1.8 of 2 are left")
    with clock.timing("trained", 10):
        now.append(20.0)
    assert clock.refusal(n_scored=80, n_trained=20) is None
    now.append(200.0)
    assert "0.0 of 2 are left" in clock.refusal(n_scored=1, n_trained=0)


def test_no_time_at_all_is_less_than_anything_takes(monkeypatch):
    clock, now = clock_at(monkeypatch, 0.0)
    with clock.timing("scored", 1):
        now.append(0.001)
    assert clock.refusal(n_scored=1, n_trained=1) is not None
