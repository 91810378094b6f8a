"""Training from weights that exist already."""

import paddle
from helpers import refused
from runs import config

from ppreplk.checkpoints.apply import load_weights
from ppreplk.training import Trainer, evaluate_config, train
from ppreplk.weights import load_checkpoint


def test_starting_from_weights(project):
    train(config("Global.output_dir=first", "Global.epochs=1"))
    trainer = Trainer(config("Global.pretrained_model=first/latest"))
    expected = load_checkpoint("first/latest")
    assert all((value.numpy() == expected[name]).all() for name, value in trainer.model.state_dict().items())
    assert trainer.state.epoch == 0


def test_another_number_of_classes_gets_a_new_head(project, caplog):
    caplog.set_level("INFO", "ppreplk")
    train(config("Global.output_dir=first", "Global.epochs=1"))
    trainer = Trainer(config("Global.pretrained_model=first/latest", "Arch.class_num=4"))
    assert "has a head for 3 classes; a new one for 4 starts from scratch" in caplog.text
    expected = load_checkpoint("first/latest")
    for name, value in trainer.model.state_dict().items():
        assert name.startswith("head.") or (value.numpy() == expected[name]).all()
    with refused("checkpoints.other-classes", "first/latest", "3 classes", "Arch.class_num is 4"):
        evaluate_config(config("Global.pretrained_model=first/latest", "Arch.class_num=4"))


def test_weights_of_another_architecture_are_counted(project):
    train(config("Global.output_dir=first", "Global.epochs=1"))
    with refused("checkpoints.other-architecture", "first/latest", "matched", "missing", "unexpected", "mis-shaped"):
        train(config("Global.pretrained_model=first/latest", "Arch.layers=[1, 2]", "Arch.channels=[8, 16]"))


def test_a_foreign_network_gets_a_new_head(caplog):
    caplog.set_level("INFO", "ppreplk")
    trained, network = (paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.Linear(4, n)) for n in (5, 2))
    state = {name: value.numpy() for name, value in trained.state_dict().items()}
    head = network[1].weight.numpy()
    load_weights(network, state, "file", may_replace_head=True)
    assert (network[0].weight.numpy() == state["0.weight"]).all() and (network[1].weight.numpy() == head).all()
    assert "file has a head for 5 classes; a new one for 2 starts from scratch" in caplog.text
