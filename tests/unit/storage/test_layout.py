from trainer.storage import layout


def test_the_names_of_a_runs_files_do_not_change():
    # runs of every version are read by every later one, and by programs of other people
    names = {key: value for key, value in vars(layout).items() if key.isupper() and isinstance(value, str)}
    assert names == {
        "CONFIG": "config.yaml",
        "ENVIRONMENT": "environment.json",
        "METRICS": "metrics.jsonl",
        "EVENTS": "events.jsonl",
        "NODES": "nodes.jsonl",
        "RESOURCES": "resources.jsonl",
        "EVALUATION": "evaluation.json",
        "RESULT": "result.json",
        "WEIGHTS": "model.safetensors",
        "MANIFEST": "MANIFEST.json",
        "REPORT": "report.html",
        "PLOTS": "plots",
        "CHECKPOINTS": "checkpoints",
        "LEASE": "lease",
        "LOGS": "logs",
        "RAY": ".ray",
    }
