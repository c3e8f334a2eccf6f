"""What Prometheus reads: every name, under our prefix and where asked for under vLLM's, in a valid text."""

from prometheus_client.parser import text_string_to_metric_families

NAMES = {
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions",
    "prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens", "request_success",
    "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
    "request_inference_time_seconds", "request_time_per_output_token_seconds", "request_prompt_tokens",
    "request_generation_tokens", "request_params_n", "request_params_max_tokens", "request_refused",
    "cache_config_info", "engine_steps", "engine_step_seconds", "max_model_len", "memory_bytes",
}  # fmt: skip


def families(server):
    return list(text_string_to_metric_families(server.http.get("/metrics").text))


def named(found, prefix):
    return {family.name.removeprefix(prefix) for family in found if family.name.startswith(prefix)}


def test_every_name_is_there_once(server):
    server.complete(prompt="one two", n=2, max_tokens=3)
    found = families(server)
    assert named(found, "slipway:") == NAMES
    assert not named(found, "vllm:")
    assert len({family.name for family in found}) == len(found)


def test_the_alias_shows_the_same_values_under_vllms_names(start_server):
    server = start_server(metrics_aliases="vllm")
    server.complete(prompt="one two", n=2, max_tokens=3)
    found = families(server)
    assert named(found, "vllm:") == named(found, "slipway:") == NAMES
    assert len({family.name for family in found}) == len(found)
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in found for s in f.samples}
    for (name, labels), value in samples.items():
        if name.startswith("slipway:"):
            assert samples[name.replace("slipway:", "vllm:"), labels] == value


def test_a_request_is_counted_in_every_histogram(start_server):
    server = start_server()
    server.complete(prompt="one two", n=2, max_tokens=3)
    counts = {
        "request_success_total": 2,
        "time_to_first_token_seconds_count": 2, "e2e_request_latency_seconds_count": 2,
        "inter_token_latency_seconds_count": 4, "request_time_per_output_token_seconds_count": 2,
        "request_inference_time_seconds_count": 2, "request_queue_time_seconds_count": 1,
        "request_params_n_sum": 2, "request_params_max_tokens_sum": 3, "request_generation_tokens_sum": 6,
    }  # fmt: skip
    labels = {"request_success_total": {"finished_reason": "length"}}
    assert {name: server.metric(name, **labels.get(name, {})) for name in counts} == counts
    assert server.metric("cache_config_info", block_size="16", num_gpu_blocks="1000") == 1
    assert server.metric("memory_bytes", part="weights") == 96 << 20
    assert server.metric("max_model_len") > 0


def test_prompts_are_logged_only_where_that_was_asked_for(start_server):
    server = start_server(log_prompts="yes")
    server.complete(prompt="zanzibar quokka", max_tokens=1)
    ids = server.http.post("/tokenize", json={"prompt": "numbat"}).json()["tokens"]
    server.complete(prompt=ids, max_tokens=1)
    server.until(lambda: len(server.requests_logged()) == 2)
    assert [line["prompts"] for line in server.requests_logged()] == [["zanzibar quokka"], ["numbat"]]
