"""Objects of other operators, as their documentation writes them, become LLMDeployments."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.plugin.convert.accelerators import from_words
from slipway_operator.plugin.convert.convert import convert
from slipway_operator.plugin.convert.draft import CannotConvert, Draft
from slipway_operator.plugin.convert.flags import pairs


def one(text: str, **options: Any) -> Draft:
    (draft,) = convert(yaml.safe_load(text), **options)
    return draft


KUBEAI = """
apiVersion: kubeai.org/v1
kind: Model
metadata: {name: llama-3.1-8b, namespace: models}
spec:
  features: [TextGeneration]
  url: hf://meta-llama/Llama-3.1-8B-Instruct
  engine: VLLM
  args: [--max-model-len=8192, --max-num-batched-token=8192, --gpu-memory-utilization=0.9, --enforce-eager]
  env: {VLLM_ATTENTION_BACKEND: FLASH_ATTN}
  minReplicas: 1
  maxReplicas: 3
  targetRequests: 32
  resourceProfile: nvidia-gpu-l4:2
  loadBalancing: {strategy: PrefixHash}
  files: [{path: /x, content: y}]
"""


def test_a_kubeai_model_with_its_profile_and_scaling() -> None:
    draft = one(KUBEAI)
    assert draft.result()["metadata"] == {"name": "llama-3-1-8b", "namespace": "models"}
    assert draft.spec["model"] == {"source": "hf://meta-llama/Llama-3.1-8B-Instruct"}
    assert draft.spec["engine"] == {"maxModelLen": 8192, "maxBatchTokens": 8192, "memoryPercent": 90}
    assert draft.spec["accelerator"] == {"type": "nvidia-l4-24gb"}
    assert draft.spec["parallelism"] == {"tensor": 2}
    assert draft.spec["autoscaling"]["metrics"] == [{"type": "InFlight", "target": "32"}]
    assert draft.spec["routing"] == {"policy": "prefix-affine"}
    told = " ".join(draft.notes)
    assert "'llama-3.1-8b' became 'llama-3-1-8b'" in told
    assert "--enforce-eager" in told
    assert "parallelism.tensor 2 is not supported" in told
    assert "--keep-runtime, since vLLM can" in told
    assert "spec.files" in told


def test_keeping_the_runtime_keeps_every_argument() -> None:
    spec = one(KUBEAI, keep_runtime=True).spec
    assert spec["engine"]["runtime"] == "vllm"
    assert spec["engine"]["extraArgs"] == ["--enforce-eager"]
    assert not [note for note in one(KUBEAI, keep_runtime=True).notes if "by hand" in note]


def test_what_is_no_language_model_is_refused() -> None:
    source = yaml.safe_load(KUBEAI)
    source["spec"]["features"] = ["SpeechToText"]
    with pytest.raises(CannotConvert, match="SpeechToText"):
        convert(source)
    with pytest.raises(CannotConvert, match="not known here"):
        convert({"apiVersion": "v1", "kind": "Pod"})


KSERVE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: huggingface-llama3}
spec:
  predictor:
    minReplicas: 0
    maxReplicas: 4
    scaleMetric: concurrency
    scaleTarget: 16
    nodeSelector: {nvidia.com/gpu.product: NVIDIA-L40S}
    model:
      modelFormat: {name: huggingface}
      args: [--model_name=llama3, --model_dir=/mnt/models, --dtype, bfloat16, --max-model-len, 4k]
      env:
      - {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf-secret, key: HF_TOKEN}}}
      storageUri: hf://meta-llama/meta-llama-3-8b-instruct:8c22764a7e3675c50d4c7c9a4edb474456022b16
      resources: {limits: {cpu: "6", memory: 24Gi, nvidia.com/gpu: "1"}}
"""


def test_an_inference_service_with_a_pinned_commit_and_a_token() -> None:
    draft = one(KSERVE)
    assert draft.spec["model"] == {
        "source": "hf://meta-llama/meta-llama-3-8b-instruct",
        "revision": "8c22764a7e3675c50d4c7c9a4edb474456022b16",
        "servedNames": ["llama3"],
        "credentials": {"secretName": "hf-secret"},
    }
    assert draft.spec["accelerator"] == {"type": "nvidia-l40s-48gb"}
    assert draft.spec["engine"] == {"maxModelLen": 4000}
    assert draft.spec["podTemplate"]["resources"] == {"limits": {"cpu": "6", "memory": "24Gi"}}
    assert draft.spec["autoscaling"]["metrics"] == [{"type": "InFlight", "target": "16"}]
    assert any("'HF_TOKEN'" in note for note in draft.notes)  # the key of the Secret differs


LLM_SERVICE = """
apiVersion: serving.kserve.io/v1alpha1
kind: LLMInferenceService
metadata: {name: scout}
spec:
  model: {uri: hf://meta-llama/Llama-4-Scout-17B-16E-Instruct, name: scout}
  replicas: 2
  parallelism: {tensor: 4, pipeline: 2, expert: true, data: 2}
  prefill: {replicas: 1}
"""


def test_an_llm_inference_service_notes_what_it_loses() -> None:
    draft = one(LLM_SERVICE, accelerator="nvidia-h100-80gb")
    assert draft.spec["parallelism"] == {"tensor": 4, "pipeline": 2, "expert": True}
    assert draft.spec["accelerator"] == {"type": "nvidia-h100-80gb"}
    assert draft.spec["replicas"] == 2
    assert any("spec.prefill" in note for note in draft.notes)
    assert any("parallelism.data" in note for note in draft.notes)


VALUES = """
servingEngineSpec:
  modelSpec:
  - name: mistral
    repository: vllm/vllm-openai
    tag: v0.11.0
    modelURL: mistralai/Mistral-7B-Instruct-v0.2
    replicaCount: 2
    requestCPU: 10
    requestMemory: 64Gi
    requestGPU: 1
    pvcStorage: 50Gi
    vllmConfig: {maxModelLen: 32000, extraArgs: [--disable-log-requests, --gpu-memory-utilization, "0.8"]}
    hf_token: hf_abc
  - {name: second, modelURL: /data/model, requestGPU: 0}
"""


def test_the_values_of_production_stack_hold_several_models() -> None:
    mistral, second = convert(yaml.safe_load(VALUES))
    assert mistral.spec["model"]["source"] == "hf://mistralai/Mistral-7B-Instruct-v0.2"
    assert mistral.spec["model"]["cache"] == {"mode": "Shared", "size": "50Gi"}
    assert mistral.spec["engine"] == {"maxModelLen": 32000, "memoryPercent": 80}
    assert "hf_abc" not in str(mistral.result()) + str(mistral.notes)
    assert any("which GPU" in note for note in mistral.notes)
    assert second.spec["model"]["source"] == "file:///data/model"
    assert second.spec["accelerator"] == {"type": "cpu"}


RUNTIME = """
apiVersion: production-stack.vllm.ai/v1alpha1
kind: VLLMRuntime
metadata: {name: qwen}
spec:
  model: {modelURL: Qwen/Qwen2.5-7B-Instruct, maxModelLen: 4096, hfTokenSecret: {hfTokenSecretName: hf}}
  vllmConfig: {tensorParallelSize: 2, enablePrefixCaching: true, gpuMemoryUtilization: "0.8", maxLoras: 4}
  deploymentConfig:
    replicas: 3
    resources: {cpu: "4", memory: 16Gi, gpu: "2"}
    image: {registry: docker.io, name: vllm/vllm-openai:v0.11}
"""


def test_a_vllm_runtime_keeps_its_image_where_asked_to() -> None:
    draft = one(RUNTIME, accelerator="nvidia-l4-24gb", keep_runtime=True)
    assert draft.spec["engine"]["image"] == "docker.io/vllm/vllm-openai:v0.11"
    assert draft.spec["engine"]["memoryPercent"] == 80
    assert draft.spec["parallelism"] == {"tensor": 2}
    assert draft.spec["replicas"] == 3
    assert any("maxLoras" in note for note in draft.notes)


@pytest.mark.parametrize("text", [KSERVE, VALUES, RUNTIME])
def test_what_comes_out_is_valid_where_nothing_is_left_to_be_done(text: str) -> None:
    for draft in convert(yaml.safe_load(text), accelerator="nvidia-l40s-48gb", keep_runtime=True):
        assert not [note for note in draft.notes if "by hand" in note]
        LLMDeploymentSpec.model_validate(draft.spec)


def test_fields_of_the_pod_are_no_variables() -> None:
    source = yaml.safe_load(KSERVE)
    model = source["spec"]["predictor"]["model"]
    model["env"] = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    (draft,) = convert(source)
    assert draft.get("podTemplate.env") is None
    assert "the variable IP was left out" in " ".join(draft.notes)


@pytest.mark.parametrize("flag", ["max-num-batched-token", "max-num-batched-tokens", "max-num-b"])
def test_a_flag_s_beginning_is_the_flag(flag: str) -> None:
    source = yaml.safe_load(KUBEAI)
    source["spec"]["args"] = [f"--{flag}=512", "--max-num=1"]
    (draft,) = convert(source)
    assert draft.spec["engine"]["maxBatchTokens"] == 512
    assert "--max-num=1 has no counterpart" in " ".join(draft.notes)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nvidia-gpu-l4"], "nvidia-l4-24gb"),
        (["nvidia-gpu-a100-80gb"], "nvidia-a100-80gb"),
        (["nvidia-gpu-h100"], "nvidia-h100-80gb"),
        (["nvidia-gpu-a100"], None),  # of two sizes none is guessed
        (["cpu"], "cpu"),
        (["something"], None),
    ],
)
def test_an_accelerator_is_found_by_words_only_where_it_is_the_one(
    words: list[str], expected: str | None
) -> None:
    assert from_words(words) == expected


def test_flags_in_all_their_spellings() -> None:
    words = ["vllm", "serve", "--a=1", "--b_c", "2", "-tp", "4", "--on", "--d=e=f"]
    assert list(pairs(words)) == [
        ("a", "1"), ("b-c", "2"), ("tensor-parallel-size", "4"), ("on", None), ("d", "e=f"),
    ]  # fmt: skip


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([KUBEAI, KSERVE, LLM_SERVICE, VALUES, RUNTIME]), st.data())
def test_a_mangled_object_is_converted_or_refused_by_a_sentence(text: str, data: st.DataObject) -> None:
    source = yaml.safe_load(text)
    at = source["servingEngineSpec"]["modelSpec"][0] if "servingEngineSpec" in source else source["spec"]
    at[data.draw(st.sampled_from(sorted(at)))] = data.draw(anything)
    refusal = None
    try:
        convert(source)
    except CannotConvert as error:
        refusal = str(error)
    assert refusal is None or refusal.endswith(".")
