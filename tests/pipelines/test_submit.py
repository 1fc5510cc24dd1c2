"""Submission: what is refused before the server hears of it, what it is sent, how a run is followed to its end."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import pipelines.server
import pipelines.wait
from components.factory import struct_default
from ctm.fingerprint import package_digest
from ctm.params import load_params
from ctm.runtime.storage import listing_digest, open_tree
from ctm.stages import STAGES
from pipelines.build import PIPELINES
from pipelines.errors import PipelineError
from pipelines.options import PipelineName
from pipelines.profiles import load_profile
from pipelines.request import Request
from pipelines.server import Server
from pipelines.submit import prepare, submit_job
from pipelines.table8 import LAMBDA
from pipelines.wait import PATIENCE, wait_for
from tests.pipelines.conftest import DIGEST, IMAGE, Call, Tree
from tests.pipelines.kubeflow_server import KubeflowServer
from tests.seaweed import SeaweedServer

PUSHED = ("--raw", "/mnt/demo")
RAW = (*PUSHED, "--allow-unpushed")
"""Spares most tests the two seconds in which DVC looks at its remote."""

RUN = "/apis/v2beta1/runs"
SWEEP = (*RAW, "--pipeline", "ctm_sweep")


@pytest.fixture
def submit(tree: Tree, server: KubeflowServer, succeed: Call) -> Call:
    """Submits with an image and a mounted path, which is all that a clean tree needs."""
    return lambda *more: succeed("submit", "--host", server.host, "--image", IMAGE, *RAW, *more)


@pytest.fixture
def refuse(tree: Tree, server: KubeflowServer, fail: Call) -> Call:
    """The message of a refusal, of which the server has heard nothing."""

    def run(*arguments: object) -> str:
        message = fail("submit", "--host", server.host, *arguments)
        assert server.requests == []
        return message

    return run


@pytest.fixture(autouse=True)
def quick_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.wait, "POLL", 0.01)


def own_profile(tree: Tree, **changes: Any) -> tuple[object, ...]:
    """The options for a profile in a file of one's own, like nvidia but for the changes."""
    file = tree.root.parent / "profiles.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"mine": load_profile("nvidia").model_dump() | changes}}))
    return "--profile", "mine", "--profiles", file


def dag_tasks(package: dict[str, Any]) -> dict[str, Any]:
    components = [package["root"], *package["components"].values()]
    return {name: task for c in components for name, task in c.get("dag", {}).get("tasks", {}).items()}


def test_a_run_gets_every_argument_of_the_pipeline(tree: Tree, server: KubeflowServer, submit: Call):
    out = submit()
    [run], [arguments] = server.runs, server.arguments
    params = load_params(tree.root / "params.yaml")
    assert arguments.pop("raw") == "/mnt/demo"
    assert arguments.pop("raw_data") == yaml.safe_load((tree.root / "data/demo.dvc").read_text())["outs"][0]["md5"]
    assert arguments.pop("code") == package_digest()
    for name, stage in STAGES.items():
        assert arguments.pop(f"{name}_image") == IMAGE
        assert arguments.pop(name) == struct_default(stage, params)
    assert arguments == {}
    assert f"run_id={run['run_id']}" in out
    assert f"url={server.host}/#/runs/details/{run['run_id']}" in out


def test_name_description_and_pod_labels_say_what_a_run_is_made_from(tree: Tree, server: KubeflowServer, submit: Call):
    revision = tree.git("rev-parse", "HEAD").strip()
    submit()
    [run], [arguments] = server.runs, server.arguments
    assert re.fullmatch(rf"ctm-demo-{revision[:7]}-\d{{8}}-\d{{6}}", run["display_name"])
    for fact in (revision, arguments["raw_data"], package_digest(), IMAGE, "profile nvidia"):
        assert fact in run["description"]
    pods = run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert len(pods) == len(STAGES)
    for pod in pods:
        labels = pod["podMetadata"]["labels"]
        assert labels["ctm/git"] == revision
        assert labels["ctm/raw-data"] == arguments["raw_data"]
        assert labels["ctm/code"] == package_digest()[:63]
        assert {labels[f"ctm/image-{s.command}"] for s in STAGES.values()} == {DIGEST.removeprefix("sha256:")[:63]}


def test_the_experiment_is_made_once(server: KubeflowServer, submit: Call):
    submit("--experiment", "first")
    submit("--experiment", "first")
    assert [entry["display_name"] for entry in server.objects["experiments"].values()] == ["first"]
    assert [request.path.rpartition("/")[2] for request in server.writes] == ["experiments", "runs", "runs"]


def test_parameters_and_checkpoints_are_the_callers(server: KubeflowServer, submit: Call):
    weights = "/weights/vit.safetensors"  # where the images have them
    changes = ("train_classifier.epochs=3", f"model.pretrained={weights}")
    submit(*(word for change in changes for word in ("--set", change)), "--checkpoints", "s3://bucket/checkpoints")
    [arguments] = server.arguments
    assert arguments["train_classifier"]["train_classifier"]["epochs"] == 3
    assert arguments["train_classifier"]["model"]["pretrained"] == weights
    assert arguments["train_segmenter"]["train_segmenter"]["decoder_lr"] == "null"
    assert arguments["checkpoints"] == "s3://bucket/checkpoints"


def test_a_file_of_profiles_takes_the_place_of_ours(tree: Tree, server: KubeflowServer, submit: Call):
    submit(*own_profile(tree, service_account="trainer"))
    assert server.runs[0]["service_account"] == "trainer"


def test_the_fan_out_has_a_number_of_parts_and_the_sweep_its_overrides(server: KubeflowServer, submit: Call):
    runs = ["train_classifier.epochs=3", "extract_pseudomasks.threshold=0.4"]
    submit("--pipeline", "ctm_fanout", "--parts", 7)
    submit("--pipeline", "ctm_sweep", "--run", runs[0], "--run", runs[1])
    fanout, sweep = server.arguments  # which the server takes of a package that has them
    assert (fanout["parts"], sweep["overrides"]) == (7, runs)


def test_every_pipeline_can_be_named():
    assert get_args(PipelineName) == tuple(PIPELINES)


def test_without_the_cache_no_task_takes_a_result_of_it(server: KubeflowServer, submit: Call):
    submit("--pipeline", "ctm_fanout")
    submit("--pipeline", "ctm_fanout", "--no-cache")
    with_cache, without = (dag_tasks(run["pipeline_spec"]["pipeline_spec"]) for run in server.runs)
    cached = {stage.command for stage in STAGES.values() if with_cache[stage.command]["cachingOptions"]}
    assert cached == {stage.command for stage in STAGES.values()} - {"evaluate"}  # which is where a run is found again
    assert {name: task["cachingOptions"] for name, task in without.items()} == {name: {} for name in without}


def test_raw_data_in_s3_are_known_by_names_sizes_and_contents(
    tree: Tree, server: KubeflowServer, succeed: Call, s3_server: SeaweedServer
):
    uri = s3_server.put("submit/raw", {"a.tif": b"abc", "b/c.tif": b"def"})
    arguments = ("submit", "--host", server.host, "--image", IMAGE, "--set", f"dataset.root={uri}")
    succeed(*arguments)
    s3_server.put("submit/raw", {"a.tif": b"xyz"})
    succeed(*arguments)
    first, second = server.arguments
    assert first["raw"] == second["raw"] == uri
    assert second["raw_data"] == listing_digest(open_tree(uri), stamps=True)
    assert first["raw_data"] != second["raw_data"]
    assert server.runs[0]["display_name"].startswith("ctm-raw-")


def test_data_without_dvc_are_known_by_their_listing_and_others_by_what_the_caller_says(
    tree: Tree, server: KubeflowServer, submit: Call
):
    (tree.root / "plain").mkdir()
    (tree.root / "plain" / "a.tif").write_bytes(b"abc")
    submit("--set", "dataset.root=plain", "--allow-dirty")
    submit("--set", "dataset.root=/mnt/nowhere", "--raw-hash", "v7", "--allow-dirty")
    assert [given["raw_data"] for given in server.arguments] == [listing_digest(open_tree("plain")), "v7"]
    assert "-dirty-" in server.runs[0]["display_name"]
    assert "with 1 uncommitted changes" in server.runs[0]["description"]


def test_data_that_are_not_here_but_in_the_remote_are_submitted(tree: Tree, server: KubeflowServer, succeed: Call):
    shutil.rmtree(tree.root / "data" / "demo")
    succeed("submit", "--host", server.host, "--image", IMAGE, *PUSHED)
    assert server.arguments[0]["raw_data"].endswith(".dir")


def test_a_dirty_tree_is_refused(tree: Tree, refuse: Call, submit: Call):
    (tree.root / "params.yaml").open("a").write("# later\n")
    (tree.root / "new.py").touch()
    message = refuse("--image", IMAGE, *RAW)
    for words in ("uncommitted changes", "--allow-dirty", " M params.yaml", "?? new.py"):
        assert words in message
    submit("--allow-dirty")


def test_a_folder_without_git_is_refused(
    tmp_path: Path, template: Tree, refuse: Call, submit: Call, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((template.root / "params.yaml").read_text())
    assert "has no git revision (" in refuse("--image", IMAGE, *RAW)
    submit("--allow-dirty", "--raw-hash", "v1")


def test_data_that_are_not_pushed_are_refused(
    tree: Tree, server: KubeflowServer, refuse: Call, submit: Call, succeed: Call
):
    (tree.root / "data" / "demo" / "0.tif").write_bytes(b"another")
    message = refuse("--image", IMAGE, *PUSHED)
    assert "data/demo is not what data/demo.dvc says" in message
    assert "`dvc add data/demo`" in message
    tree.dvc("add", "--quiet", "data/demo")
    tree.commit()
    message = refuse("--image", IMAGE, *PUSHED)
    assert "data/demo is not in DVC's remote" in message
    assert "0.tif: new" in message
    assert "`dvc push data/demo.dvc`" in message
    submit()  # with --allow-unpushed
    tree.dvc("push", "--quiet")
    succeed("submit", "--host", server.host, "--image", IMAGE, *PUSHED)
    assert len(server.runs) == 2


def test_data_under_dvc_without_a_remote_are_refused(tree: Tree, refuse: Call):
    tree.dvc("remote", "remove", "storage")
    tree.commit()
    message = refuse("--image", IMAGE, *PUSHED)
    assert "no remote specified" in message
    assert "--allow-unpushed" in message


def test_an_image_by_tag_is_refused(server: KubeflowServer, refuse: Call, submit: Call):
    message = refuse("--image", "gpu=ctm-train:v1", "--image", IMAGE, *RAW)
    for words in ("--image gpu=ctm-train:v1", "by tag", "--allow-tags"):
        assert words in message
    submit("--image", "gpu=ctm-train:v1", "--allow-tags")
    assert server.arguments[0]["evaluate_image"] == "ctm-train:v1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "dataset.root data/demo is a path of this machine, which the cluster cannot read: give --raw s3://bucket"),
        (("--raw", "data/demo"), "--raw data/demo: expected s3://bucket/prefix or the absolute path"),
        ((*RAW, "--set", "dataset.root=/mnt/nowhere"), "nothing is known of the data in /mnt/demo"),
        ((*RAW, "--checkpoints", ""), "--checkpoints '': expected s3://bucket/prefix or the absolute path"),
        ((*RAW, "--checkpoints", "./a"), "--checkpoints './a': expected s3://bucket/prefix or the absolute path"),
        ((*RAW, "--set", "model.pretrained=a/vit.safetensors"), "model.pretrained a/vit.safetensors is a path of this"),
        ((*RAW, "--set", "train_segmenter.pretrained=vit.pt"), "train_segmenter.pretrained vit.pt is a path of this"),
        ((*RAW, "--profile", "other"), "no profile 'other'"),
        ((*RAW, "--parts", 2), "--pipeline ctm_fanout"),
        ((*RAW, "--run", "train_classifier.epochs=3"), "give --pipeline ctm_sweep"),
        ((*SWEEP, "--run", "dataset.channels=3"), "preprocess runs once for all"),
        ((*SWEEP, "--run", "train_classifier.epoch=3"), "did you mean epochs?"),
        ((*SWEEP, "--set", f"{LAMBDA}=0", "--set", "train_classifier.sparsity=0.5"), "sparsity (0.5) says how many"),
    ],
)
def test_what_no_cluster_could_run_is_refused(refuse: Call, given: tuple[object, ...], message: str):
    assert message in refuse("--image", IMAGE, *given)


def test_a_profile_that_the_cluster_would_refuse_is_refused(tree: Tree, refuse: Call):
    needs = load_profile("nvidia").cpu.model_copy(update={"memory_request": "64Gi"})
    message = refuse("--image", IMAGE, *RAW, *own_profile(tree, cpu=needs.model_dump()))
    assert "the pipeline compiled for profile mine has faults" in message
    assert "memory request 64Gi is more than the limit 16Gi" in message


def test_a_run_is_followed_to_its_end(server: KubeflowServer, submit: Call):
    server.play(
        {"state": "PENDING"},
        {"state": "RUNNING", "tasks": {"preprocess": "RUNNING", "preprocess-driver": "SUCCEEDED"}},
        {"state": "RUNNING", "tasks": {"preprocess": "SUCCEEDED", "train-classifier": "RUNNING"}},
        {"state": "SUCCEEDED", "tasks": {"preprocess": "SUCCEEDED", "train-classifier": "SUCCEEDED"}},
    )
    lines = submit("--wait").splitlines()
    assert [line for line in lines if line.startswith(("preprocess", "train"))] == [
        "preprocess: running",
        "preprocess: succeeded",
        "train-classifier: running",
        "train-classifier: succeeded",
    ]
    run_id = server.runs[0]["run_id"]
    assert lines[-2] == f"succeeded: {server.host}/#/runs/details/{run_id}"
    assert lines[-1].endswith(f"ctm-pipeline record --host {server.host} --run {run_id}")


def test_a_failed_run_names_the_task_with_the_servers_words(tree: Tree, server: KubeflowServer, fail: Call):
    detail = {
        "state": "FAILED",
        "error": {"code": 2, "message": "main container exited with code 1"},
        "child_tasks": [{"pod_name": "ctm-x7-train-42"}],
    }
    tasks = {"preprocess": "SUCCEEDED", "train-classifier": detail, "root": "FAILED"}
    server.play({"state": "FAILED", "tasks": tasks, "error": {"message": "step failed"}})
    message = fail("submit", "--host", server.host, "--image", IMAGE, *RAW, "--wait")
    run = server.runs[0]
    assert message.splitlines() == [
        f"run {run['display_name']} has failed: {server.host}/#/runs/details/{run['run_id']}",
        "  train-classifier failed: main container exited with code 1 (log: kubectl logs ctm-x7-train-42)",
        "  step failed",
    ]


def follow(server: KubeflowServer) -> list[str]:
    """What is told of a run that is waited for."""
    lines: list[str] = []
    tasks = [stage.command for stage in STAGES.values()]
    wait_for(Server(server.host), server.add_run(display_name="r"), tasks=tasks, tell=lines.append)
    return lines


def test_a_failure_without_a_reason_shows_what_the_states_before_said(server: KubeflowServer):
    history = [{"state": "RUNNING"}, {"state": "FAILED", "error": {"message": "OOMKilled"}}]
    tasks = {"evaluate": {"state": "FAILED", "state_history": history}, "prune-heads": "CANCELED"}
    server.play({"state": "CANCELED", "tasks": tasks})
    with pytest.raises(PipelineError, match="run r has canceled") as raised:
        follow(server)
    assert "evaluate failed: OOMKilled" in str(raised.value)
    assert "prune-heads canceled: the server gives no reason" in str(raised.value)


def test_a_server_that_is_away_for_a_while_is_asked_again(server: KubeflowServer):
    server.play({"state": "RUNNING", "tasks": {"evaluate": "RUNNING"}}, {"state": "SUCCEEDED"})
    server.fail("GET", f"{RUN}/", 503, "upstream connect error", content_type="text/plain", times=3)
    assert follow(server) == ["evaluate: running"]


@pytest.mark.parametrize(
    ("status", "message", "asked"),
    [
        (503, "answers 503 Service Unavailable: Not now", PATIENCE),
        (403, r"answers 403 Forbidden: Not now\. Set KUBEFLOW_TOKEN", 1),
    ],
)
def test_a_server_that_stays_away_or_takes_back_a_right_is_an_error(
    server: KubeflowServer, status: int, message: str, asked: int
):
    server.fail("GET", f"{RUN}/", status, {"error": "Not now"}, times=100)
    with pytest.raises(PipelineError, match=message):
        follow(server)
    assert len([request for request in server.requests if request.path.startswith(RUN)]) == asked


def test_an_error_of_the_server_is_shown_with_its_text(tree: Tree, server: KubeflowServer, fail: Call):
    inner = {"@type": "type.googleapis.com/google.rpc.Status", "error_details": "quota of namespace team-a is used up"}
    server.fail("POST", RUN, 429, {"error": "Too many runs", "message": "Too many runs", "code": 8, "details": [inner]})
    message = fail("submit", "--host", server.host, "--image", IMAGE, *RAW)
    said = "answers 429 Too Many Requests: Too many runs; quota of namespace team-a is used up."
    assert message == f"{server.host} {said}"
    assert server.runs == []


def test_arguments_that_do_not_fit_the_package_are_refused_with_the_servers_text(tree: Tree, server: KubeflowServer):
    job = prepare(Request([IMAGE], raw="/mnt/demo", allow_unpushed=True))
    with pytest.raises(PipelineError, match=r"answers 400 Bad Request: .*unknown parameters \['x'\]"):
        submit_job(Server(server.host), replace(job, arguments={**job.arguments, "x": 1}), experiment="e")
    nulls = {**job.arguments, "evaluate": {"evaluate": {"compare": None}}}
    with pytest.raises(PipelineError, match="parameter evaluate holds null"):
        submit_job(Server(server.host), replace(job, arguments=nulls), experiment="e")
    assert server.runs == []


@pytest.mark.parametrize("place", ["/healthz", "/experiments"])
def test_a_server_that_does_not_answer_is_asked_once_and_given_up(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.setattr(pipelines.server, "TIMEOUT", (1, 0.5))
    server.silent = f"/apis/v2beta1{place}"
    with pytest.raises(PipelineError, match=r"cannot be reached: .*Read timed out\. \(read timeout=0\.5\)"):
        Server(server.host).find_experiment("first")
    assert [request.path for request in server.requests].count(server.silent) == 1


@pytest.mark.parametrize(
    ("status", "page", "message"),
    [
        (200, "<html>Log in</html>", "is no Kubeflow Pipelines API: it answers with a page"),
        (502, "<html>\n bad  gateway</html>", "answers 502 Bad Gateway: <html> bad gateway</html>"),
    ],
)
def test_a_page_instead_of_the_api_is_one_message(server: KubeflowServer, status: int, page: str, message: str):
    server.fail("GET", "/apis/v2beta1/healthz", status, page, content_type="text/html")
    with pytest.raises(PipelineError, match=message):
        Server(server.host)


def test_a_server_that_wants_a_token_gets_it_from_the_environment(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch
):
    server.token = "known-to-the-test"
    with pytest.raises(PipelineError, match=r"answers 401 .*there is no user identity header. Set KUBEFLOW_TOKEN"):
        Server(server.host)
    assert len(server.requests) == 1, "it is asked once, not five times"
    monkeypatch.setenv("KUBEFLOW_TOKEN", "known-to-the-test")
    assert Server(server.host).experiment("first") in server.objects["experiments"]


def test_a_server_of_several_namespaces_wants_one(server: KubeflowServer):
    server.multi_user = True
    with pytest.raises(PipelineError, match="serves several namespaces: name yours with --namespace"):
        Server(server.host)
    made = Server(server.host, "team-a").experiment("first")
    assert server.objects["experiments"][made]["namespace"] == "team-a"


def test_an_answer_without_an_id_is_no_success(server: KubeflowServer):
    server.fail("POST", "/apis/v2beta1/experiments", 200, {})
    with pytest.raises(PipelineError, match="returned no id: nothing is known of its outcome"):
        Server(server.host).experiment("first")


def test_what_the_server_checks_is_what_the_clients_models_say(server: KubeflowServer):
    import urllib.error
    import urllib.request

    def post(kind: str, body: dict[str, Any]) -> str:
        request = urllib.request.Request(f"{server.host}/apis/v2beta1/{kind}", json.dumps(body).encode(), method="POST")
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=5)
        assert raised.value.code == 400
        return str(json.loads(raised.value.read())["error"])

    assert 'unknown field "name" in body' in post("runs", {"name": "x"})
    assert "invalid value for field body.display_name: 5" in post("experiments", {"display_name": 5})
    assert "invalid value for enum field body.mode" in post("recurringruns", {"mode": "ON"})
    assert "invalid value for timestamp body.created_at" in post("runs", {"created_at": "noon"})
    nested = {"runtime_config": {"parameters": {}, "root": "x"}}
    assert 'unknown field "root" in body.runtime_config' in post("runs", nested)
