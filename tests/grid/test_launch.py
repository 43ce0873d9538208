"""The scripts that start workers elsewhere are what their systems read. No cluster has run them here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from absl import flags

from diffpose_jax.command_line import parse

# The package's own `train` and `evaluate` are functions.
train, evaluate = import_module("diffpose_jax.train"), import_module("diffpose_jax.evaluate")

LAUNCH = Path(__file__).resolve().parents[2] / "experiments" / "launch"


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh", "tpu_pod.sh"])
def test_the_shell_reads_the_script(name):
    shell = (LAUNCH / name).read_text().splitlines()[0].rpartition("/")[2]
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", str(LAUNCH / name)], check=True)


def test_the_options_for_slurm_stand_before_the_first_command():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[first - len(options) : first] == options
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in options)
    if shutil.which("sbatch"):
        subprocess.run(["sbatch", "--test-only", str(LAUNCH / "slurm.sh"), "job.yaml", "out"], check=True)


def pod_commands(*arguments: str) -> list[list[str]]:
    """What `tpu_pod.sh` would run, as arguments."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    command = ["bash", str(LAUNCH / "tpu_pod.sh"), "--dry-run", "pod", "zone", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [shlex.split(line) for line in printed.splitlines()]


def test_on_a_pod_every_host_runs_the_same_command_as_a_process_of_one_cluster():
    ((*ssh, command),) = pod_commands("train", "--config", "diffupose:cmu,day", "--workdir", "/mnt/two words")
    assert ssh == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--worker=all"]
    program, *given = shlex.split(command.removeprefix("--command="))
    assert program.endswith("/diffpose")
    assert given[:-1] == ["train", "--config", "diffupose:cmu,day", "--workdir", "/mnt/two words"]
    values = flags.FlagValues()
    train.define_flags(values)
    parse(given, values)
    assert values.config.training.distributed
    ((*_, command),) = pod_commands("job", "--job", "job.yaml", "--output", "/mnt/out")
    values = flags.FlagValues()
    evaluate.define_flags(values)
    parse(shlex.split(command)[1:], values)
    assert values.distributed
    assert values.job == "job.yaml"


def test_a_pod_gets_the_checkout_before_it_is_installed():
    _, copy, install = pod_commands("setup")
    assert copy[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
    assert (Path(copy[6]) / "pyproject.toml").is_file()
    assert "[tpu]" in install[-1]


def test_the_kubernetes_job_is_an_indexed_job_whose_names_fit_together():
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] <= spec["completions"]
    pod = spec["template"]["spec"]
    # A policy for failures, and limits per index, are allowed with these only.
    assert pod["restartPolicy"] == "Never"
    assert spec["maxFailedIndexes"] <= spec["completions"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        assert codes is None or (codes["containerName"] == container["name"] and 0 not in codes["values"])
    assert container["command"] + container["args"][:1] == ["python", "-m", "diffpose_jax", "evaluate", "--job"]
    assert all(isinstance(one["value"], str) for one in container["env"])


def test_the_kubernetes_job_has_the_fields_and_types_of_the_api():
    models = pytest.importorskip("kubernetes.client.models")
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    assert _count_fields(job, "V1Job", models) > 30


def _count_fields(value: Any, kind: str, models: Any) -> int:
    """Checks a value against a type of the client's models, which are made of the API's schema; counts the fields."""
    if found := re.fullmatch(r"[Ll]ist\[(.*)\]", kind):
        assert isinstance(value, list)
        return sum(_count_fields(one, found[1], models) for one in value)
    if found := re.fullmatch(r"[Dd]ict[(\[](\w+), (.*)[)\]]", kind):
        assert isinstance(value, dict)
        return sum(_count_fields(one, found[2], models) for one in value.values())
    if kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, value
        return 1
    model = getattr(models, kind)
    fields = {
        name: kind for attribute, name in model.attribute_map.items() for kind in [model.openapi_types[attribute]]
    }
    assert value.keys() <= fields.keys(), value.keys() - fields.keys()
    return sum(_count_fields(one, fields[name], models) for name, one in value.items())
