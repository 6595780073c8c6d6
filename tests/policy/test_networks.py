"""Which instance types can be nodes of a gang."""

from runctl.model.type_network import TypeNetwork
from runctl.policy.networks import problem_with_networks

ONE = TypeNetwork(cards=1, has_efa=True, can_cluster=True)
FOUR = TypeNetwork(cards=4, has_efa=True, can_cluster=True)


def test_types_with_one_card_can_be_nodes():
    assert problem_with_networks({"m5.large": TypeNetwork(), "g5.48xlarge": ONE}) == ""
    assert problem_with_networks({}) == ""


def test_each_type_with_several_cards_is_named_with_their_number():
    problem = problem_with_networks(
        {"p4d.24xlarge": FOUR, "g5.48xlarge": ONE, "p5.48xlarge": TypeNetwork(cards=32)}
    )
    assert problem.startswith("p4d.24xlarge (4 network cards), p5.48xlarge (32 network cards): ")
    assert "name types with a single card" in problem
    assert "remove nodes" in problem


def test_only_a_type_with_one_card_gets_an_adapter():
    assert ONE.uses_efa
    assert not FOUR.uses_efa
    assert not TypeNetwork().uses_efa
