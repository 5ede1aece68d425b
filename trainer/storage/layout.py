"""The name of every file and folder of a run, ``<storage>/<run>/``.

===================  ================================================  ===================
``config.yaml``       the resolved config                               `Record`
``environment.json``  versions, hardware, git commit                    `schema.Environment`
``metrics.jsonl``     every metric point, one a line                    `schema.Point`
``events.jsonl``      what happened, one event a line                   `schema.Event`
``nodes.jsonl``       the nodes of its Ray cluster, as they came and went  `schema.Node`
``resources.jsonl``   how busy they were                                `schema.Usage`
``evaluation.json``   confusion matrix and worst mistakes               `schema.Evaluation`
``result.json``       how the run ended                                 `schema.Result`
``model.safetensors`` the final weights
``MANIFEST.json``     of a finished run: size and sha256 of the above   `seal`
``report.html``       the page made of them
``plots/*.png``       its pictures
``logs/``             the end of what its processes printed              `logs`
``checkpoints/``      states to resume from                             `checkpoints`
``lease/``            who may write                                     `lease`
===================  ================================================  ===================
"""

from __future__ import annotations

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
NODES = "nodes.jsonl"
RESOURCES = "resources.jsonl"
EVALUATION = "evaluation.json"
RESULT = "result.json"
WEIGHTS = "model.safetensors"
MANIFEST = "MANIFEST.json"  # of a run, and of each checkpoint
REPORT = "report.html"
PLOTS = "plots"
CHECKPOINTS = "checkpoints"
LEASE = "lease"
LOGS = "logs"
RAY = ".ray"  # what Ray Train keeps for itself during a run; nothing of ours is in it

# Files to which lines are appended while a run lives.
GROWING = (METRICS, EVENTS, NODES, RESOURCES)
# What a reader of a bucket brings here: weights are read where they are, and pictures are made again.
BROUGHT = (CONFIG, ENVIRONMENT, *GROWING, EVALUATION, RESULT, MANIFEST, REPORT)
