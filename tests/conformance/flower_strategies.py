"""Run by Flower's own Python: one of its strategies on updates out of a file. `test_flower.py` starts it.

    python flower_strategies.py JOB.npz RESULT.npz

The strategy runs as in a ServerApp, by its own `start`. Only what lies between it and the clients is left out: a
message is answered at once, with the model that came moved by the client's update of that round.
"""

import json
import logging
import sys

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore.task_identity import TaskIdentity

WEIGHT, CLIENT = "num-examples", "client"


class Clients(Grid):
    """`job` holds `round/client/name` for each tensor of an update."""

    def __init__(self, job, settings):
        self.job, self.settings, self.round = job, settings, 0

    def get_node_ids(self):
        return range(1, len(self.settings["n_examples"]) + 1)

    def send_and_receive(self, messages, *, timeout=None):
        asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        replies = [self.train(message, message.metadata.dst_node_id - 1) for message in asked]
        self.round += bool(replies)  # nobody is asked to evaluate
        return replies

    def train(self, message, client):
        model = message.content.array_records["arrays"]
        trained = {
            name: Array((array.numpy() + self.job[f"{self.round}/{client}/{name}"]).astype(self.settings["dtype"]))
            for name, array in model.items()
        }
        metrics = MetricRecord({WEIGHT: self.settings["n_examples"][client], CLIENT: client})
        return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)

    def not_used(self, *_, **__):
        raise NotImplementedError

    run = property(not_used)
    set_run = create_message = push_messages = pull_messages = not_used


def main(source, target):
    """Every round's model, and which clients' metrics the strategy put together for it."""
    with np.load(source) as job:
        settings = json.loads(str(job["settings"]))
        theta = {name: job[f"theta/{name}"].astype(settings["dtype"]) for name in settings["names"]}
        results = {}

        def note_clients(contents, key):
            chosen = [content.metric_records["metrics"][CLIENT] for content in contents]
            results[f"{clients.round - 1}/chosen"] = np.array(sorted(chosen))
            return aggregate_metricrecords(contents, key)

        def note_model(server_round, arrays):
            for name, array in arrays.items() if server_round else ():
                results[f"{server_round - 1}/{name}"] = array.numpy()

        clients = Clients(job, settings)
        kind = getattr(strategy, settings["strategy"])
        chosen = kind(fraction_evaluate=0.0, train_metrics_aggr_fn=note_clients, **settings["options"])
        if settings["second_moment"] is not None:
            chosen.v_t = {name: np.full_like(value, settings["second_moment"]) for name, value in theta.items()}
        start = ArrayRecord({name: Array(value) for name, value in theta.items()})
        chosen.start(clients, start, num_rounds=settings["n_rounds"], evaluate_fn=note_model)
    np.savez(target, **results)


if __name__ == "__main__":
    # As the process of a ServerApp sets it: every message says who sends it.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    logging.getLogger("flwr").setLevel(logging.WARNING)
    main(*sys.argv[1:])
