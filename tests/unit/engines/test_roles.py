"""Who attacks, and whose data is the owner's."""

from itertools import pairwise

import pytest

from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.roles import assign_roles
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.specs import TaskSpec

NAMES = tuple("abcdefgh")


def roles(n_attackers, *, seed=0, reference=None, names=NAMES):
    attack = AttackSpec(attack="ipm", n_attackers=n_attackers) if n_attackers else None
    return assign_roles(names, attack=attack, reference=reference, seed=seed)


def test_attackers_are_drawn_by_seed_and_fewer_are_among_more():
    assert roles(0).attackers == frozenset()
    found = [roles(n).attackers for n in range(8)]
    assert [len(one) for one in found] == list(range(8))
    assert all(few < more for few, more in pairwise(found))
    assert roles(3).attackers == roles(3).attackers
    assert len({roles(3, seed=seed).attackers for seed in range(20)}) > 1
    assert set().union(*(roles(1, seed=seed).attackers for seed in range(200))) == set(NAMES)


def test_the_owner_is_no_client():
    found = roles(6, reference="c")
    assert found.clients == ("a", "b", "d", "e", "f", "g", "h")
    assert "c" not in found.attackers
    assert found.reference == "c"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: roles(8), "there are 8 clients, one of them must be honest"),
        (lambda: roles(7, reference="c"), "there are 7 clients"),
        (lambda: roles(0, reference="z"), "--reference 'z': no such client; there are a, b"),
        (lambda: roles(0, reference="a", names=("a",)), "no other client"),
    ],
)
def test_what_cannot_be(call, match):
    with pytest.raises(UsageError, match=match):
        call()


def test_defaults_and_what_goes_together():
    task = TaskSpec(kind="seq-cls", labels=("x", "y"))
    found = AttackSpec(attack="backdoor", n_attackers=1).resolved(task)
    assert (found.scale, found.trigger, found.target_label, found.poisoned_share) == (10.0, "cf", "x", 0.5)
    assert found.resolved(task) == found
    assert AttackSpec(attack="alie", n_attackers=1).resolved(task).scale is None
    assert AttackSpec(attack="ipm", n_attackers=1, scale=3.0).resolved(task).scale == 3.0
    with pytest.raises(UsageError, match="--target-label 'z'; this federation has x, y"):
        AttackSpec(attack="backdoor", n_attackers=1, target_label="z").resolved(task)
    with pytest.raises(UsageError, match=r"--attack label-flip changes labels: .* not with causal-lm"):
        AttackSpec(attack="label-flip", n_attackers=1).resolved(TaskSpec())
    with pytest.raises(UsageError, match="--poisoned-share goes with --attack backdoor, not ipm"):
        AttackSpec(attack="ipm", n_attackers=1, poisoned_share=0.1)
